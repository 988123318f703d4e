"""Which patterns RE2 has, told without RE2 and without a warning of Python's own."""

from __future__ import annotations

import pytest

from controlplane.model.re2 import re2_problem


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.example\.com",
        "[a-z[:digit:]]+",
        "[[:alpha:]]x",
        "[a--b]",
        "[a&&b||c~~d]",
        r"[\[x]",
        "[]abc]",
        r"\[abc",
        r"\Q[(\E",
        "(?i)abc",
        "(a{2}){500}",
        "a{0,1000}",
        "(a{2}b{600})",
        "((((a+)+)+)+)+",
    ],
)
def test_patterns_of_re2_pass(pattern: str) -> None:
    assert re2_problem(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=a)", "does not have"),
        (r"(a)\1", "does not have"),
        ("[[[[", "has no end"),
        ("[z-a]", "bad character range"),
        ("(a", "not valid"),
        ("a{1001}", "more than 1000 times"),
        ("(a{2}){501}", "more than 1000 times"),
        ("(?:(x{10}){10}){11}", "more than 1000 times"),
        ("a" * 1025, "longer than 1024"),
    ],
)
def test_what_re2_refuses_is_told(pattern: str, reason: str) -> None:
    assert reason in re2_problem(pattern)
