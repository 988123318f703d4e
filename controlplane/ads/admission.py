"""Who may open a stream now, and how many large responses are written at once.

Pure arithmetic over a clock, and one small asyncio helper. The rule that is easy to break: a
client that does not read must not keep others from being served.
"""

from __future__ import annotations

import asyncio
from collections import deque
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


class Flights:
    """Slots for large responses.

    A write that is not done after a while keeps its memory (one response per stream) but gives
    its slot to the next: its client is slow, and the others are not to wait for it.
    """

    def __init__(self, slots: int = _SLOTS) -> None:
        self._free = slots
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> Callable[[], None]:
        """Wait for a slot and return what gives it back; calling that twice does no harm."""
        loop = asyncio.get_running_loop()
        while self._free <= 0:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()
                raise
        self._free -= 1
        held = True

        def leave() -> None:
            nonlocal held
            if held:
                held = False
                timer.cancel()
                self._free += 1
                self._wake()

        timer = loop.call_later(_PATIENCE, leave)
        return leave

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
