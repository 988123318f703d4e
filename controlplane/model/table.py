"""A mapping that snapshots share with whoever keeps it up to date.

A copy of 100,000 entries costs milliseconds, ten times per second when endpoints change. So what
was published stays, and changes are laid over it until they are an eighth of it. The rule that is
easy to break: a layer that was published is never written to again.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_GONE: Final[Any] = object()
_UNCHANGED: Final[Any] = object()
_SHARE: Final = 8


class Layered(Mapping[K, V]):
    """A large mapping, and what is different from it."""

    __slots__ = ("_base", "_changes", "_length")

    def __init__(self, base: dict[K, V], changes: dict[K, V], length: int) -> None:
        self._base: Final = base
        self._changes: Final = changes
        self._length: Final = length

    def __getitem__(self, key: K) -> V:
        found: V = self._changes.get(key, _UNCHANGED)
        if found is _UNCHANGED:
            return self._base[key]
        if found is _GONE:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        found = self._changes.get(key, _UNCHANGED)  # type: ignore[arg-type]  # as dict allows
        return key in self._base if found is _UNCHANGED else found is not _GONE

    def get(self, key: K, default: Any = None, /) -> Any:
        """Return the value of a key, else the default."""
        found = self._changes.get(key, _UNCHANGED)
        if found is _UNCHANGED:
            return self._base.get(key, default)
        return default if found is _GONE else found

    def __iter__(self) -> Iterator[K]:
        changes = self._changes
        for key in self._base:
            if changes.get(key) is not _GONE:
                yield key
        for key, value in changes.items():
            if value is not _GONE and key not in self._base:
                yield key

    def items(self) -> ItemsView[K, V]:
        """Return all pairs, of a copy: dicts do that at once, and not one key after the other."""
        return _laid_over(self._base, self._changes).items()

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Layered({dict(self.items())!r})"


def _laid_over(base: dict[K, V], changes: dict[K, V]) -> dict[K, V]:
    merged = {**base, **changes}
    for key, value in changes.items():
        if value is _GONE:
            merged.pop(key, None)
    return merged


def changed_keys(old: Mapping[K, object], new: Mapping[K, object]) -> set[K]:
    """Return the keys whose values are not the same object, or that only one of both has.

    Of two layers over one mapping only the layers are looked at.
    """
    if old is new:
        return set()
    base, before = _layers(old)
    other, after = _layers(new)
    keys = {*before, *after} if base is other else {*old, *new}
    return {key for key in keys if old.get(key) is not new.get(key)}


def _layers(mapping: Mapping[K, V]) -> tuple[Mapping[K, V], Mapping[K, V]]:
    return (mapping._base, mapping._changes) if isinstance(mapping, Layered) else (mapping, {})


class Table(Generic[K, V]):
    """A mapping that can be changed, and published as it is at a moment."""

    __slots__ = ("_base", "_changes", "_length", "_published", "_shared")

    def __init__(self) -> None:
        self._base: dict[K, V] = {}
        self._changes: dict[K, V] = {}
        self._length = 0
        self._published = False  # the base was; else it is changed itself
        self._shared = False  # the changes were

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: K) -> bool:
        found = self._changes.get(key, _UNCHANGED)
        return key in self._base if found is _UNCHANGED else found is not _GONE

    def get(self, key: K, default: Any = None, /) -> Any:
        """Return the value of a key, else the default."""
        found = self._changes.get(key, _UNCHANGED)
        if found is _UNCHANGED:
            return self._base.get(key, default)
        return default if found is _GONE else found

    @property
    def read(self) -> Mapping[K, V]:
        """What is in the table, valid until the next change."""
        if not self._changes:
            return self._base
        return Layered(self._base, self._changes, self._length)

    def put(self, key: K, value: V) -> None:
        """Set the value of a key."""
        self._length += key not in self
        self._layer()[key] = value

    def drop(self, key: K) -> None:
        """Take a key out, if it is there."""
        if key not in self:
            return
        self._length -= 1
        if self._published:
            self._layer()[key] = _GONE
        else:
            del self._base[key]

    def _layer(self) -> dict[K, V]:
        """Return the mapping that changes go to."""
        if not self._published:
            return self._base
        if self._shared:
            self._changes = dict(self._changes)
            self._shared = False
        return self._changes

    def publish(self) -> Mapping[K, V]:
        """Return the mapping of this moment, which will never change."""
        if len(self._changes) * _SHARE >= self._length:
            if self._changes:
                self._base = _laid_over(self._base, self._changes)
                self._changes = {}
            self._shared = False
        self._published = True
        if not self._changes:
            return self._base
        self._shared = True
        return Layered(self._base, self._changes, self._length)
