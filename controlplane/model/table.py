"""A mapping that snapshots share with whoever keeps it up to date.

The rule that is easy to break: `write` is asked for again before every change, and what it gave
is not kept, or a published snapshot would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Table(Generic[K, V]):
    """A mapping that is published as it is, and copied before it is changed again."""

    __slots__ = ("_current", "_published")

    def __init__(self) -> None:
        self._current: dict[K, V] = {}
        self._published = False

    @property
    def read(self) -> Mapping[K, V]:
        """What is in the table now."""
        return self._current

    def write(self) -> dict[K, V]:
        """Return the mapping to change; what was published stays as it was."""
        if self._published:
            self._current = dict(self._current)
            self._published = False
        return self._current

    def publish(self) -> Mapping[K, V]:
        """Return the mapping of this moment, which will never change."""
        self._published = True
        return self._current
