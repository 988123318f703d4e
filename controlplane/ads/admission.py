"""Who may open a stream now, and how many large responses are written at once.

Pure arithmetic over a clock, and slots with a timer. The rule that is easy to break: a
client that does not read must not keep others from being served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LARGE: Final = 64 * 1024  # bytes; smaller responses need no slot
_SLOTS: Final = 64
_PATIENCE: Final = 1.0  # seconds that one write may keep its slot


class TokenBucket:
    """Admits `rate` per second, and as many at once.

    A reconnect storm is spread over time, so that the streams that exist are not disturbed.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate: Final = rate
        self._clock: Final = clock
        self._tokens = rate
        self._at = clock()

    def reserve(self, patience: float) -> float | None:
        """Take a token and return in how many seconds it is due, None when that is too long."""
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        wait = max(0.0, (1.0 - self._tokens) / self._rate)
        if wait > patience:
            return None
        self._tokens -= 1.0
        return wait

    def give_back(self) -> None:
        """Return a token: who took it left before its turn, and others shall not wait for that."""
        self._tokens += 1.0


class Flight:
    """A slot for one large response."""

    __slots__ = ("_flights", "_held", "_timer")

    def __init__(self, flights: Flights) -> None:
        self._flights: Final = flights
        self._held = True
        self._timer: asyncio.TimerHandle | None = None

    def linger(self) -> None:
        """Keep the slot for a while: the response did not go out at once."""
        if self._held and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self.leave)

    def leave(self) -> None:
        """Give the slot back; doing that twice does no harm."""
        if self._held:
            self._held = False
            if self._timer is not None:
                self._timer.cancel()
            self._flights.left()


class Flights:
    """Slots for large responses.

    A write that is not done after a while keeps its memory (one response per stream) but gives
    its slot to the next: its client is slow, and the others are not to wait for it.
    """

    def __init__(self, slots: int = _SLOTS) -> None:
        self._free = slots
        self._waiting: dict[Callable[[Flight], None], None] = {}

    def has_room(self, granted: Callable[[Flight], None]) -> bool:
        """Whether there is a free slot; if not, `granted` is called with the next."""
        if self._free > 0:
            return True
        self._waiting[granted] = None
        return False

    def enter(self) -> Flight:
        """Take a free slot. Most writes are done at once and need none."""
        self._free -= 1
        return Flight(self)

    def forget(self, granted: Callable[[Flight], None]) -> None:
        """Do not wait any more."""
        self._waiting.pop(granted, None)

    def left(self) -> None:
        """A slot is free: whoever has waited longest gets it."""
        if self._waiting:
            granted = next(iter(self._waiting))
            del self._waiting[granted]
            granted(Flight(self))
        else:
            self._free += 1
