"""What DATA frames carry, recognised by their bytes when another client has sent the same.

Clients that hold the same answer in the same bytes: sixty kilobytes of names, from hundreds of
them after each change. To compare those costs no more than to copy them, nothing has to be cut into
frames again, and whoever is handed the very same message again need not read it again. Must not
know windows nor calls. The rule that is easy to break: what is recognised ends where a frame ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from controlplane.transport.frames import following_data

_KEPT: Final = 4  # that others are compared with; each was read from a socket at once


class Carried:
    """The payloads of frames of one stream that came one after the other.

    `size` is what they count for windows, with any padding. `message` is the one gRPC message
    that they are, once somebody has found that they are one.
    """

    __slots__ = ("message", "pieces", "size")

    def __init__(self, pieces: Sequence[memoryview], size: int) -> None:
        self.pieces: Final = pieces
        self.size: Final = size
        self.message: bytes | None = None


class _Known(NamedTuple):
    """Frames, the stream that they are of, and what they carry."""

    frames: bytes
    stream: int
    carried: Carried


class Repeats:
    """What came lately in several frames, newest first."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: Final[deque[_Known]] = deque(maxlen=_KEPT)

    def find(self, data: memoryview, position: int) -> tuple[int, Carried, int] | None:
        """Return where known frames from `position` on end, what they carry and for which stream.

        None when they are not known.
        """
        for known in self._known:
            end = position + len(known.frames)
            if end <= len(data) and known.frames.startswith(data[position:end]):
                return end, known.carried, known.stream
        return None

    def remember(self, frames: bytes, stream: int) -> Carried:
        """Take note of DATA frames without flags; return what they carry."""
        pieces: list[memoryview] = []
        following_data(pieces, memoryview(frames), 0, stream)
        carried = Carried(pieces, sum(map(len, pieces)))
        self._known.appendleft(_Known(frames, stream, carried))
        return carried

    def forget(self) -> None:
        """Let go of everything."""
        self._known.clear()
