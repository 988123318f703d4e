"""The objects of one kind by age, kept in order while single ones come and go.

Must not know kinds. The rule that is easy to break: what is noted counts when it is published,
and only what is different by then.
"""

from __future__ import annotations

from typing import Any, Final, Generic, NamedTuple, TypeVar

from controlplane.model.meta import Object, ObjectRef, by_age, in_order

ObjectT = TypeVar("ObjectT", bound=Object)


class Moved(NamedTuple, Generic[ObjectT]):
    """Objects that went and came between two publications; a changed one did both."""

    gone: tuple[ObjectT, ...]
    came: tuple[ObjectT, ...]


class Aged(Generic[ObjectT]):
    """Objects of one kind, oldest first."""

    def __init__(self) -> None:
        self._known: Final[dict[ObjectRef, ObjectT]] = {}
        self._noted: Final[dict[ObjectRef, ObjectT | None]] = {}
        self._published: tuple[ObjectT, ...] = ()

    def note(self, ref: ObjectRef, item: Any) -> None:
        """Take an object in, in place of the one with its reference; None takes that out."""
        self._noted[ref] = item

    def publish(self) -> tuple[tuple[ObjectT, ...], Moved[ObjectT]]:
        """Return the objects of this moment, and what is different since the last time."""
        gone: list[ObjectT] = []
        came: list[ObjectT] = []
        for ref, item in self._noted.items():
            known = self._known.pop(ref, None)
            if item is not None:
                self._known[ref] = item
            if known is not item:
                gone += () if known is None else (known,)
                came += () if item is None else (item,)
        self._noted.clear()
        if gone or came:
            self._published = in_order(self._published, gone, came, key=by_age)
        return self._published, Moved(tuple(gone), tuple(came))
