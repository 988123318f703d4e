"""A mapping from keys to values of which nearly every key has one, and some have several.

A tuple around each single value would cost as much as the entry. The rule that is easy to break:
the values of a key are put as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Several(Generic[K, V]):
    """Values by key, in the order in which they were put."""

    __slots__ = ("_first", "_rest")

    def __init__(self) -> None:
        self._first: dict[K, V] = {}
        self._rest: dict[K, tuple[V, ...]] = {}

    def get(self, key: K) -> tuple[V, ...]:
        """Return the values of a key, none when it has none."""
        if key not in self._first:
            return ()
        return (self._first[key], *self._rest.get(key, ()))

    def put(self, key: K, values: tuple[V, ...]) -> None:
        """Set the values of a key; without values the key goes."""
        self.pop(key)
        if values:
            self._first[key] = values[0]
        if len(values) > 1:
            self._rest[key] = values[1:]

    def pop(self, key: K) -> tuple[V, ...]:
        """Take a key out; return what it had."""
        found = self.get(key)
        self._first.pop(key, None)
        self._rest.pop(key, None)
        return found

    def __iter__(self) -> Iterator[K]:
        return iter(self._first)

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield every value with its key."""
        yield from self._first.items()
        for key, values in self._rest.items():
            for value in values:
                yield key, value
