"""Every golden pair is whole, and some test beside it names it and asserts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.support import GOLDEN

INPUTS = sorted(GOLDEN.rglob("*.in.yaml"))
OUTPUTS = sorted(GOLDEN.rglob("*.out.yaml"))


def _feature(path: Path) -> str:
    return path.relative_to(GOLDEN).as_posix().partition(".")[0]


@pytest.mark.parametrize("path", INPUTS, ids=_feature)
def test_a_pair_is_whole_and_named_by_a_test(path: Path) -> None:
    assert path.with_name(path.name.replace(".in.yaml", ".out.yaml")).exists()
    folder = path.parent.name
    tests = "".join(test.read_text() for test in GOLDEN.rglob(f"{folder}/test_*.py"))
    assert f'"{_feature(path)}"' in tests


@pytest.mark.parametrize("path", OUTPUTS, ids=_feature)
def test_an_expected_output_has_its_input(path: Path) -> None:
    assert path.with_name(path.name.replace(".out.yaml", ".in.yaml")).exists()
