"""What comes in on one connection, cut into frames and header blocks (RFC 9113, 3.4, 4 and 6.10).

Owns bytes and blocks that are not complete. Must not know streams. The rule that is easy to
break: every header block is decoded, whatever becomes of it, or the next ones would be misread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import hpack

from controlplane.transport import frames
from controlplane.transport.frames import ErrorCode, ProtocolError
from controlplane.transport.limits import HEADER_BLOCK, HEADER_FRAMES
from controlplane.transport.repeats import Carried, Repeats

Fields = Sequence[tuple[bytes, bytes]]


class Sink(Protocol):
    """Whom frames are told. Each of the methods may raise ProtocolError."""

    failed: str | None
    """Why nothing more is to be told."""

    def on_data(self, number: int, carried: Carried, *, last: bool) -> None:
        """Frames of a stream carried this."""
        ...

    def on_headers(self, number: int, fields: Fields, *, last: bool) -> None:
        """A header block is complete."""
        ...

    def on_frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        """Another frame came, of a known kind and well-formed, or of an unknown kind."""
        ...


class Incoming:
    """Tells a sink what came; `settled` is set by it when the first settings came."""

    __slots__ = (
        "_block", "_block_flags", "_block_frames", "_block_stream", "_decoder", "_needed",
        "_partial", "_repeats", "_started", "settled",
    )  # fmt: skip

    def __init__(self, repeats: Repeats) -> None:
        self._repeats: Final = repeats
        self._decoder: Final = hpack.Decoder(HEADER_BLOCK)
        self._started = self.settled = False  # whether the preface, the first settings came
        self._partial = bytearray()  # of a frame that is not complete
        self._needed = 0  # bytes of it before it is worth to be looked at
        self._block: bytearray | None = None  # a header block that is not complete
        self._block_stream = self._block_flags = self._block_frames = 0

    def receive(self, data: memoryview, sink: Sink) -> None:
        """Take bytes from the peer. Raises ProtocolError."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data, self._partial = memoryview(self._partial), bytearray()
        position, end = 0, len(data)
        if not self._started:
            if not self._begins(data):
                return
            position = len(frames.PREFACE)
        while end - position >= frames.HEADER_SIZE:
            if self._block is None and self.settled:
                known = self._repeats.find(data, position)
                if known is not None:
                    position, carried, number = known
                    sink.on_data(number, carried, last=False)
                    if sink.failed is not None:
                        return
                    continue
            high, low, kind, flags, number = frames.HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size > frames.FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + frames.HEADER_SIZE
            if start + size > end:
                break
            position = start + size
            number &= frames.MASK
            if self._block is not None or not self.settled:
                self._must_be_due(kind, flags)
            if kind == frames.DATA and not flags:
                pieces = [data[start:position]]
                if position < end and size:
                    position = frames.following_data(pieces, data, position, number)
                if len(pieces) > 1:
                    whole = bytes(data[start - frames.HEADER_SIZE : position])
                    sink.on_data(number, self._repeats.remember(whole, number), last=False)
                else:
                    sink.on_data(number, Carried(pieces, size), last=False)
            else:
                self._frame(kind, flags, number, data[start:position], sink)
            if sink.failed is not None:
                return
        if position < end:
            self._partial += data[position:]
            self._needed = frames.HEADER_SIZE
            if end - position >= frames.HEADER_SIZE:
                self._needed += frames.size_of(data, position)

    def _begins(self, data: memoryview) -> bool:
        """Whether the preface is there; a part of one is kept."""
        size = len(frames.PREFACE)
        if bytes(data[:size]) != frames.PREFACE[: len(data)]:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 client")
        self._started = len(data) >= size
        if not self._started:
            self._partial += data
            self._needed = 0  # what is wrong is to be seen at once
        return self._started

    def _must_be_due(self, kind: int, flags: int) -> None:
        """Whether a frame may come now."""
        if not self.settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and kind != frames.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")

    def _frame(self, kind: int, flags: int, number: int, payload: memoryview, sink: Sink) -> None:
        match kind:
            case frames.DATA:
                content = frames.without_padding(flags, payload)
                last = bool(flags & frames.END_STREAM)
                sink.on_data(number, Carried((content,), len(payload)), last=last)
            case frames.HEADERS:
                self._on_headers(flags, number, payload, sink)
            case frames.CONTINUATION:
                self._on_continuation(flags, number, payload, sink)
            case _:
                frames.check(kind, flags, number, len(payload))
                sink.on_frame(kind, flags, number, payload)

    def _on_headers(self, flags: int, number: int, payload: memoryview, sink: Sink) -> None:
        if not number % 2:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream of a client has an odd number")
        block = frames.without_padding(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(block) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong HEADERS frame")
            block = block[5:]
        if flags & frames.END_HEADERS:
            self._decode(number, flags, bytes(block), sink)
        else:
            self._block, self._block_frames = bytearray(block), 1
            self._block_stream, self._block_flags = number, flags

    def _on_continuation(self, flags: int, number: int, payload: memoryview, sink: Sink) -> None:
        block = self._block
        if block is None or number != self._block_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        block += payload
        self._block_frames += 1
        if len(block) > HEADER_BLOCK or self._block_frames > HEADER_FRAMES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many headers")
        if flags & frames.END_HEADERS:
            self._block = None
            self._decode(number, self._block_flags, bytes(block), sink)

    def _decode(self, number: int, flags: int, block: bytes, sink: Sink) -> None:
        try:
            decoded = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many headers") from None
        except hpack.HPACKError:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "headers that are no HPACK") from None
        fields = [(bytes(name), bytes(value)) for name, value in decoded]
        sink.on_headers(number, fields, last=bool(flags & frames.END_STREAM))
