"""gRPC messages in and out of DATA frames: a prefix of five bytes and a body.

Owns how a message is put together and cut. Must not know windows. The rule that is easy to
break: the body of a response is shared by many streams, so it is cut into views, never copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from controlplane.transport.frames import data_header
from controlplane.transport.headers import StatusCode
from controlplane.transport.repeats import Carried

Buffer = bytes | memoryview

PREFIX: Final = struct.Struct(">BI")  # compressed, length
PREFIX_SIZE: Final = 5


class MessageError(Exception):
    """What came is no message that is taken; the call is to be ended with a status."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message


class Assembler:
    """Puts messages together from pieces of any size."""

    __slots__ = ("_limit", "_needed", "_partial")

    def __init__(self, limit: int) -> None:
        """`limit` is the largest message in bytes."""
        self._limit: Final = limit
        self._partial: bytearray | None = None
        self._needed = PREFIX_SIZE

    @property
    def held(self) -> int:
        """How many bytes of an unfinished message are held."""
        return 0 if self._partial is None else len(self._partial)

    def whole(self, carried: Carried) -> bytes | None:
        """Return the message that frames carried, no more and no less; None if it is not so.

        It is copied once, whoever else sends the same. Anything else has to be fed.
        """
        if self._partial is not None:
            return None
        if carried.message is None:
            carried.message = _only_message(carried.pieces, self._limit)
        return carried.message

    def feed(self, data: memoryview) -> Iterator[bytes]:
        """Yield the messages that are complete now. Raises MessageError."""
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._needed:
                return
            self._partial = None
            data = memoryview(partial)
        position, size = 0, len(data)
        while size - position >= PREFIX_SIZE:
            compressed, length = PREFIX.unpack_from(data, position)
            if compressed:
                text = "a compressed message without a grpc-encoding"
                raise MessageError(StatusCode.INTERNAL, text)
            if length > self._limit:
                text = f"a message of {length} bytes is larger than {self._limit}"
                raise MessageError(StatusCode.RESOURCE_EXHAUSTED, text)
            end = position + PREFIX_SIZE + length
            if end > size:
                self._needed = PREFIX_SIZE + length
                break
            yield bytes(data[position + PREFIX_SIZE : end])
            position = end
        else:
            self._needed = PREFIX_SIZE
        if position < size:
            self._partial = bytearray(data[position:])


def _only_message(pieces: Sequence[memoryview], limit: int) -> bytes | None:
    """Return the message that these pieces are, None when they are anything else."""
    first = pieces[0]
    if len(first) < PREFIX_SIZE:
        return None
    compressed, length = PREFIX.unpack_from(first)
    size = len(first) if len(pieces) == 1 else sum(map(len, pieces))
    if compressed or length > limit or PREFIX_SIZE + length != size:
        return None
    if len(pieces) == 1:
        return bytes(first[PREFIX_SIZE:])
    return b"".join((first[PREFIX_SIZE:], *pieces[1:]))


class Outgoing:
    """One message on its way out, and how much of it has gone."""

    __slots__ = ("_payload", "_sent", "since", "size")

    def __init__(self, payload: bytes, since: float) -> None:
        self._payload: Final = payload
        self.size: Final = PREFIX_SIZE + len(payload)
        self.since: Final = since  # the clock's seconds
        self._sent = 0

    @property
    def left(self) -> int:
        """How many bytes have not gone yet."""
        return self.size - self._sent

    def cut(
        self, buffers: list[Buffer], *, stream: int, limit: int, frame_size: int, plans: Plans
    ) -> int:
        """Append DATA frames with up to `limit` bytes; return how many of the message's."""
        if self._sent == 0 and self.size <= limit:
            buffers += plans.whole(self._payload, stream, frame_size)
            self._sent = self.size
            return self.size
        before = self._sent
        self._sent = min(self.size, before + limit)
        buffers += _frames(self._payload, stream, frame_size, before, self._sent)
        return self._sent - before


class Plans:
    """The frames of a message that goes to many streams, one after the other, worked out once.

    Most connections have one stream of the same number, so that even the frames are the same.
    """

    __slots__ = ("_frame_size", "_frames", "_payload", "_stream")

    def __init__(self) -> None:
        self._payload = b""
        self._stream = self._frame_size = 0
        self._frames: tuple[Buffer, ...] = ()

    def whole(self, payload: bytes, stream: int, frame_size: int) -> tuple[Buffer, ...]:
        """Return the frames of a whole message."""
        if payload is not self._payload or stream != self._stream or frame_size != self._frame_size:
            self._payload, self._stream, self._frame_size = payload, stream, frame_size
            size = PREFIX_SIZE + len(payload)
            frames = tuple(_frames(payload, stream, frame_size, 0, size))
            self._frames = (b"".join(frames),) if size <= frame_size else frames
        return self._frames

    def forget(self) -> None:
        """Let go of the message that was sent last."""
        self._payload, self._frames = b"", ()


def _frames(payload: bytes, stream: int, frame_size: int, start: int, end: int) -> Iterator[Buffer]:
    """Yield the DATA frames for the bytes from `start` to `end` of a message with its prefix."""
    body = memoryview(payload)
    full = data_header(frame_size, stream)
    while start < end:
        size = min(frame_size, end - start)
        header = full if size == frame_size else data_header(size, stream)
        stop = start + size
        if start < PREFIX_SIZE:
            prefix = PREFIX.pack(0, len(payload))
            yield header + prefix[start:stop]
            if stop > PREFIX_SIZE:
                yield body[: stop - PREFIX_SIZE]
        else:
            yield header
            yield body[start - PREFIX_SIZE : stop - PREFIX_SIZE]
        start = stop
