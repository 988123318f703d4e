"""Expressions and templates: what they give, and the sentence for each mistake."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.inject.errors import InjectConfigError
from controlplane.inject.expressions import ExpressionError, check, evaluate, truth
from controlplane.inject.template import check_template, render

SCOPE: dict[str, Any] = {
    "a": {"b": "deep", "n": 3, "no": False, "list": [1, 2], "map": {"x": 1}},
    "labels": {"app.kubernetes.io/name": "shop", "empty": ""},
    "nothing": None,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b", "deep"),
        ("a.n", 3),
        ("a.list", [1, 2]),
        ("labels['app.kubernetes.io/name']", "shop"),
        ('labels["app.kubernetes.io/name"]', "shop"),
        ("labels.app | 'none'", "none"),
        ("labels.x | labels.y | a.b", "deep"),
        ("labels.empty | 'other'", ""),
        ("nothing", None),
        ("3", 3),
        ("-1.5", -1.5),
        ("true", True),
        ("a.n == 3", True),
        ("a.b != 'deep'", False),
        ("missing == 'x'", False),
        ("missing != 'x'", True),
        ("not a.no", True),
        ("not not a.no", False),
        ("a.n and a.no", False),
        ("a.no or a.n == 3 and a.b == 'deep'", True),
        ("(a.no or a.n) and not missing", True),
    ],
)
def test_what_an_expression_gives(text: str, value: Any) -> None:
    assert evaluate(text, SCOPE) == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.c", "there is no value a.c"),
        ("a.c.d", "there is no value a.c.d"),
        ("labels['x/y']", "there is no value labels['x/y']"),
        ("a.", "${a.} cannot be read: it ends too early"),
        ("a b", "'b' does not fit there"),
        ("(a", "')' is missing"),
        ("a[b]", "'b' must be a text in quotes"),
        ("a == ", "it ends too early"),
        ("", "it ends too early"),
        ("a + 1", "cannot be read: '+ 1'"),
        ("a.b()", "'(' does not fit there"),
        ("__import__('os')", "cannot be read"),
        ("(" * 40 + "a" + ")" * 40, "it nests too deep"),
        ("a" * 2000, "too long"),
    ],
)
def test_what_is_wrong_with_an_expression(text: str, sentence: str) -> None:
    with pytest.raises(ExpressionError) as error:
        evaluate(text, SCOPE)
    assert sentence in str(error.value)


def test_an_expression_reaches_no_attribute_of_an_object() -> None:
    for text in ("a.__class__", "labels.keys", "a.list.append", "a.b.upper"):
        with pytest.raises(ExpressionError, match="there is no value"):
            evaluate(text, SCOPE)


def test_a_condition_about_a_missing_name_is_false() -> None:
    assert not truth("missing.name", SCOPE)
    assert not truth("labels.empty", SCOPE)
    assert truth("not missing.name", SCOPE)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        check(text)


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ({"x": "${a.n}"}, {"x": 3}),
        ({"x": "v${a.n}-${a.no}"}, {"x": "v3-false"}),
        ({"x": "$${a.n} $(POD)"}, {"x": "${a.n} $(POD)"}),
        ({"x": {"$if": "a.no", "y": 1}}, {}),
        ({"x": {"$if": "a.n", "y": 1}}, {"x": {"y": 1}}),
        ({"x": {"$if": "a.n", "$value": "z"}}, {"x": "z"}),
        ({"x": [1, {"$if": "a.no", "$value": 2}, 3]}, {"x": [1, 3]}),
        ({"x": [{"$if": "a.n", "$values": ["-q", "${a.b}"]}, "c"]}, {"x": ["-q", "deep", "c"]}),
        ({"x": ["${*a.list}", 3]}, {"x": [1, 2, 3]}),
        ({"x": {"$merge": "${a.map}", "y": 2}}, {"x": {"x": 1, "y": 2}}),
        ({"x": [{"$if": "a.no", "$value": 1}], "y": 1}, {"y": 1}),
        ({"x": True, "y": None, "z": 1.5}, {"x": True, "y": None, "z": 1.5}),
    ],
)
def test_what_a_template_gives(template: dict[str, Any], made: dict[str, Any]) -> None:
    assert render("t", template, SCOPE) == made


def test_a_value_never_changes_the_structure_around_it() -> None:
    hostile = "x\n  privileged: true\n${a.b} {{ }} $if"
    made = render("t", {"image": "i:${v}", "arg": "${v}"}, {"v": hostile})
    assert made == {"image": f"i:{hostile}", "arg": hostile}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"x": [{"y": "${a..b}"}]}, "template t: spec.x[0].y: ${a..b} cannot be read"),
        ({"x": "${a"}, "template t: spec.x: a ${ without its }"),
        ({"x": "{{ .Values.hub }}"}, "is the language of Istio's templates"),
        ({"$when": "a"}, "unknown directive; there are $if"),
        ({"x": {"$if": True}}, "spec.x[$if]: must be an expression"),
        ({"x": {"$if": "a b"}}, "'b' does not fit there"),
        ({"x": {"$value": 1, "y": 2}}, "only $if can stand beside it"),
        ({"x": [{"$values": "a"}]}, "must be a list"),
    ],
)
def test_a_bad_template_is_refused_before_any_pod(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InjectConfigError) as error:
        check_template("t", {"spec": spec})
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ([], "template t: it must be a mapping with the parts of a pod"),
        ({"specs": {}}, "unknown field 'specs'"),
    ],
)
def test_a_template_is_a_part_of_a_pod(template: Any, sentence: str) -> None:
    with pytest.raises(InjectConfigError) as error:
        check_template("t", template)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"x": ["a", "${values.hub}"]}, "template t: spec.x[1]: there is no value values.hub"),
        ({"x": ["${*a.b}"]}, "is no list"),
        ({"$merge": "${a.b}"}, "spec[$merge]: this is no mapping"),
        ({"x": "${a.list} y"}, "is no text; it can only stand alone"),
        ({"x": {"$values": [1]}}, "several items can only stand in a list"),
    ],
)
def test_a_template_that_does_not_fit_says_where(spec: dict[str, Any], sentence: str) -> None:
    check_template("t", {"spec": spec})
    with pytest.raises(InjectConfigError) as error:
        render("t", {"spec": spec}, SCOPE)
    assert sentence in str(error.value)
