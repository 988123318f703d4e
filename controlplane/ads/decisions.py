"""What streams of a class are sent next, decided once for all that are in the same state.

Most streams of a class hold the same and nothing unusual happened to them, so what the first of
them is told is right for the others. Must not know how it is decided. The rule that is easy to
break: a state names everything that a decision depends on besides the view that keeps it.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from controlplane.ads.cache import Collection, Content

_STATES: Final = 64
"""States of streams that were told the same, of which decisions are kept."""


class Decision(NamedTuple):
    """What a client is to be told that it holds, and the response that says so, None for none.

    `base` is what it asked for, `wanted` what it is shown of that.
    """

    base: Collection
    wanted: Collection
    content: Content | None


class Decisions:
    """What streams are sent next, by what they were told last and the rest of their state.

    What they were told is kept no longer than some stream needs it: after a change of everything
    it is as large as all that is there now.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: Final[WeakKeyDictionary[Collection, dict[tuple[object, ...], Decision]]] = (
            WeakKeyDictionary()
        )

    def of(self, told: Collection, state: tuple[object, ...]) -> Decision | None:
        """Return what was decided for that state."""
        known = self._known.get(told)
        return None if known is None else known.get(state)

    def remember(self, told: Collection, state: tuple[object, ...], decision: Decision) -> None:
        """Take note of what was decided."""
        known = self._known.setdefault(told, {})
        if len(known) >= _STATES:
            known.clear()
        known[state] = decision
