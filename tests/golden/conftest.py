"""Fixtures of the golden tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.golden.support import Case, load_case


@pytest.fixture
def golden() -> Callable[[str], Case]:
    """Return the reader of a case by its name, such as `clusters/subsets`."""
    return load_case
