"""What a peer can make a connection hold or do, and for how long it is waited for.

Owns the numbers, the count of frames that bring nothing, and how long nothing was heard. The rule
that is easy to break: every frame that costs something and leads to nothing is counted, for there
is no other end of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STREAMS: Final = 10_000  # at once on one connection
STREAM_WINDOW: Final = 1024 * 1024
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
HELD: Final = 64 * 1024 * 1024  # bytes of unfinished messages on one connection
HEADER_BLOCK: Final = 16 * 1024  # bytes, as many as gRPC takes by default
HEADER_FRAMES: Final = 64
UNREAD: Final = 64 * 1024  # bytes of control frames that the peer does not read
FRUITLESS: Final = 2_000  # frames that bring nothing, in one burst
FRUITLESS_PER_SECOND: Final = 100.0

OPENED_WITHIN: Final = 10.0  # seconds for the preface
QUIET: Final = 30.0  # seconds after which a ping asks whether the peer is still there
ANSWERED_WITHIN: Final = 10.0  # seconds for the answer
STALLED: Final = 60.0  # seconds in which a client has to take a response


class Fruitless:
    """How many more frames that bring nothing are put up with."""

    __slots__ = ("_at", "_clock", "_left")

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock: Final = clock
        self._left = float(FRUITLESS)
        self._at = clock()

    def spend(self) -> bool:
        """Count one; return whether it was one too many."""
        now = self._clock()
        refilled = self._left + (now - self._at) * FRUITLESS_PER_SECOND
        self._left, self._at = min(float(FRUITLESS), refilled) - 1, now
        return self._left < 0


class Silence:
    """For how long nothing has been heard of the peer."""

    __slots__ = ("_opened_at", "_since", "asked_at", "heard")

    def __init__(self, now: float) -> None:
        self._opened_at: Final = now
        self._since = now
        self.asked_at: float | None = None  # when it was asked whether it is still there
        self.heard = False  # since time passed last

    def passes(self, now: float, *, settled: bool) -> str | None:
        """Let time pass; return why the peer is to be given up, None when it is not.

        `settled` is whether it has sent its settings. It is to be asked when `asked_at` is now.
        """
        if not settled and now - self._opened_at >= OPENED_WITHIN:
            return "no HTTP/2 settings came in time"
        if self.heard:
            self.heard, self._since, self.asked_at = False, now, None
        elif self.asked_at is not None:
            if now - self.asked_at >= ANSWERED_WITHIN:
                return "the client does not answer"
        elif now - self._since >= QUIET:
            self.asked_at = now
        return None
