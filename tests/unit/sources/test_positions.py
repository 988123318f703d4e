"""Text becomes data as Kubernetes reads it, with the line of every part."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.sources.positions import MAX_DEPTH, json_tree, resolve, yaml_documents
from controlplane.sources.text import UnreadableError, json_parts


def read(text: str) -> Any:
    (document,) = yaml_documents(text)
    return document.value


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("yes", True), ("No", False), ("on", True), ("y", True), ("True", True), ("tRue", "tRue"),
        ("~", None), ("", None), ("null", None),
        ("10", 10), ("0x1F", 31), ("010", 8), ("0b11", 3), ("1_000", 1000), ("-5", -5),
        ("08", 8.0), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5),
        ("1:30", "1:30"), ("2024-01-02", "2024-01-02"), ("2024-01-02T03:04:05Z",) * 2,
        ("0x", "0x"), ("1.2.3", "1.2.3"), ("10.0.0.1", "10.0.0.1"), ("-", "-"),
    ],
)  # fmt: skip
def test_a_plain_word_means_what_it_means_to_kubernetes(word: str, meaning: Any) -> None:
    assert resolve(word) == meaning
    assert type(resolve(word)) is type(meaning)


def test_a_number_beyond_64_bits_becomes_a_float() -> None:
    assert isinstance(resolve("18446744073709551616"), float)


@pytest.mark.parametrize("word", [".inf", "-.Inf", ".nan"])
def test_numbers_that_json_does_not_have_are_refused(word: str) -> None:
    with pytest.raises(UnreadableError):
        resolve(word)


def test_quotes_and_tags_keep_words_as_text() -> None:
    assert read("a: 'yes'\nb: \"1\"\nc: !!str 5\nd: |\n  no\n") == {
        "a": "yes", "b": "1", "c": "5", "d": "no\n",
    }  # fmt: skip


def test_keys_are_text_whatever_they_look_like() -> None:
    assert read("1: a\nyes: b\nnull: c\n") == {"1": "a", "true": "b", "null": "c"}


def test_aliases_and_merges_are_followed() -> None:
    text = "base: &b {u: 1, v: 2}\nuse: *b\nmerged:\n  <<: *b\n  v: 3\nboth:\n  <<: [*b, {z: 4}]\n"
    assert read(text) == {
        "base": {"u": 1, "v": 2},
        "use": {"u": 1, "v": 2},
        "merged": {"u": 1, "v": 3},
        "both": {"u": 1, "v": 2, "z": 4},
    }


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    with pytest.raises(UnreadableError, match="aliases stand for more than"):
        read("\n".join(rows))


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000, '{"a":' * 200_000])
def test_a_text_that_is_too_deep_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError, match=f"more than {MAX_DEPTH} levels"):
        read(text)


def test_an_alias_to_itself_is_refused() -> None:
    with pytest.raises(UnreadableError, match="no anchor before it"):
        read("a: &a [*a]")


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [\n", 3), ("a: b: c\n", 1), ("a: 1\nb: \x01\n", 2), ("a: 1\n? [x]\n: 2\n", 2)],
)
def test_what_is_not_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(UnreadableError) as error:
        read(text)
    assert error.value.line == line


def test_documents_before_a_broken_one_are_still_read() -> None:
    documents = yaml_documents("a: 1\n---\nb: 2\n---\nc: [\n")
    assert next(documents).value == {"a": 1}
    assert next(documents).value == {"b": 2}
    with pytest.raises(UnreadableError):
        next(documents)


def test_every_part_has_its_line() -> None:
    text = "a:\n  b:\n  - x\n  - c: 1\n    d:\n      e\n---\nf: 1\n"
    first, second = yaml_documents(text)
    assert first.tree.locate(("a",)) == 1
    assert first.tree.locate(("a", "b", 1, "c")) == 4
    assert first.tree.locate(("a", "b", 1, "d")) == 5
    assert first.tree.locate(("a", "missing", "deeper")) == 1
    assert second.tree.locate(("f",)) == 8


def test_a_repeated_key_is_a_problem_with_its_path() -> None:
    (document,) = yaml_documents("a:\n- {x: 1}\n- {x: 1, x: 2}\n")
    assert [problem.path for problem in document.problems] == [("a", 1, "x")]


def test_json_has_lines_too() -> None:
    text = '{\n "a": [1,\n  {"b": "\\ud83d\\ude00\\/", "b": null}],\n "c": {}, "d": []\n}'
    document = json_tree(text, first_line=10)
    assert document.value == {"a": [1, {"b": None}], "c": {}, "d": []}
    assert document.tree.locate(("a", 1, "b")) == 12
    assert document.tree.locate(("d",)) == 13
    assert [problem.path for problem in document.problems] == [("a", 1, "b")]


def test_json_documents_may_follow_each_other() -> None:
    parts = [
        (bytes(part).strip(), line)
        for part, line in json_parts(b'\n{"a":\n1}\n\n{"b":2} {"c":3}\n')
    ]
    assert parts == [(b'{"a":\n1}', 2), (b'{"b":2}', 5), (b'{"c":3}', 5)]


def test_what_is_not_json_is_refused_with_its_line() -> None:
    with pytest.raises(UnreadableError, match="not JSON") as error:
        list(json_parts(b'{"a": 1}\n{"b":\n nope}\n'))
    assert error.value.line == 3
