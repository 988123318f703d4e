"""Lines out of a stream that is cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kubernetes.lines import Lines, LineTooLongError


@given(
    lines=st.lists(st.binary(min_size=1, max_size=40).map(lambda line: line.replace(b"\n", b"."))),
    rest=st.binary(max_size=10).map(lambda line: line.replace(b"\n", b".")),
    sizes=st.lists(st.integers(1, 30), min_size=1),
)
def test_however_a_stream_is_cut_its_lines_are_the_same(
    lines: list[bytes], rest: bytes, sizes: list[int]
) -> None:
    stream = b"".join(line + b"\n" for line in lines) + rest
    splitter = Lines()
    found: list[bytes] = []
    at = index = 0
    while at < len(stream):
        size = sizes[index % len(sizes)]
        found += splitter.feed(stream[at : at + size])
        at += size
        index += 1
    assert found == lines
    assert splitter.truncated is bool(rest)


def test_empty_lines_are_no_lines() -> None:
    assert Lines().feed(b"\n\na\n\nb\n") == [b"a", b"b"]


def test_a_line_has_a_longest_length() -> None:
    splitter = Lines(longest=10)
    assert splitter.feed(b"0123456789\nab") == [b"0123456789"]
    with pytest.raises(LineTooLongError, match="more than 10 bytes"):
        splitter.feed(b"cdefghijk\n")
