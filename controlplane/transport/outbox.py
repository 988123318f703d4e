"""What waits to be sent on one connection: control frames, and messages as far as windows allow.

Must not know what a call is. The rule that is easy to break: a stream is among the ready ones
exactly when it has something to send and a window for it, whatever the connection's window is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from controlplane.transport import frames
from controlplane.transport.frames import ErrorCode, ProtocolError
from controlplane.transport.messages import Buffer, Plans
from controlplane.transport.stream import Stream

OUR_FRAME_SIZE: Final = 256 * 1024  # larger frames are not sent, whatever the peer allows
TURN: Final = 64 * 1024  # bytes of one stream before the next one's turn comes
BATCH: Final = 1024 * 1024  # bytes that are handed out at once, about


class Outbox:
    """Frames go to `control` as they are; messages lie in their streams until their turn."""

    __slots__ = ("_plans", "_window", "control", "frame_size", "initial_window", "ready")

    def __init__(self, plans: Plans) -> None:
        self._plans: Final = plans
        self._window = frames.DEFAULT_WINDOW  # what we may send
        self.control = bytearray()
        self.frame_size = frames.FRAME_SIZE
        self.initial_window = frames.DEFAULT_WINDOW  # of new streams
        self.ready: Final[dict[Stream, None]] = {}

    def say(self, frame: bytes) -> None:
        """Send a control frame, before any more of the messages."""
        self.control += frame

    def put(self, stream: Stream) -> None:
        """Send what a stream has to send."""
        if stream.window > 0:
            self.ready[stream] = None

    def drop(self, stream: Stream) -> None:
        """Send nothing more of a stream."""
        stream.outgoing = None
        self.ready.pop(stream, None)

    def widen(self, stream: Stream, change: int) -> None:
        """Change a stream's window, maybe to less than nothing (RFC 9113, section 6.9.2).

        Raises ProtocolError when it becomes too wide.
        """
        stream.window += change
        if stream.window > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")
        if stream.window <= 0:
            self.ready.pop(stream, None)
        elif stream.outgoing is not None:
            self.ready.setdefault(stream, None)

    def set_initial_window(self, value: int, streams: Iterable[Stream]) -> None:
        """Change the window that streams begin with, of the present ones too.

        Raises ProtocolError when one becomes too wide.
        """
        if value > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")
        change, self.initial_window = value - self.initial_window, value
        for stream in streams:
            self.widen(stream, change)

    def widen_all(self, change: int) -> None:
        """Widen the connection's window. Raises ProtocolError when it becomes too wide."""
        self._window += change
        if self._window > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")

    def take(self) -> list[Buffer]:
        """Return what to write next, all of which has to be written in this order."""
        buffers: list[Buffer] = []
        if not self.control and not self.ready:
            return buffers
        if self.control:
            buffers.append(bytes(self.control))
            self.control.clear()
        ready, size = self.ready, 0
        while ready and size < BATCH and self._window > 0:
            stream = next(iter(ready))
            message = stream.outgoing
            if message is None:
                raise AssertionError("a stream without a message is not ready")
            limit = min(self._window, stream.window)
            if len(ready) > 1:
                limit = min(limit, TURN)
            cut = message.cut(
                buffers,
                stream=stream.number,
                limit=limit,
                frame_size=self.frame_size,
                plans=self._plans,
            )
            size += cut
            self._window -= cut
            stream.window -= cut
            del ready[stream]
            if not message.left:
                stream.outgoing = None
            elif stream.window > 0:
                ready[stream] = None  # at the end of the queue
        return buffers
