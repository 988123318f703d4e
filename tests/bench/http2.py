"""One gRPC stream on one HTTP/2 connection, as a client, with as little work as possible.

Knows frames, flow control and gRPC's length prefix; must not know xDS. A general client library
costs more per message than the server under test, so that it would measure itself. The rule that
is easy to break: bodies are counted, not kept, unless somebody asks for one while it arrives, and
a message is handed over when its last byte has come, not before.

Settings are those of an Envoy 1.40: frames of 16 kB, 16 MiB of window per stream and 24 MiB per
connection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, cast

FRAME_SIZE: Final = 16_384
STREAM_WINDOW: Final = 16 * 1024 * 1024
CONNECTION_WINDOW: Final = 24 * 1024 * 1024
DEFAULT_WINDOW: Final = 65_535
HEAD: Final = 256
"""Bytes of a message that are always kept: what precedes the resources of a response."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_LAST_KIND: Final = 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_STREAM: Final = 1
_INITIAL_WINDOW_SIZE: Final = 4
_ENABLE_PUSH: Final = 2
_HEADER: Final = struct.Struct(">BHBBI")  # length in two parts, type, flags, stream
_PREFIX: Final = struct.Struct(">BI")  # gRPC: compressed, length
_START: Final = struct.Struct(">BHBBIBI")  # a frame's header and a message's prefix


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    size = len(payload)
    return _HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that enters no table (RFC 7541, 6.2.2); both parts below 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def opening(authority: str, method: str) -> bytes:
    """Return what a client says first: preface, settings, windows and the request's headers."""
    settings = struct.pack(">HIHI", _INITIAL_WINDOW_SIZE, STREAM_WINDOW, _ENABLE_PUSH, 0)
    fields: Mapping[bytes, bytes] = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": method.encode(),
        b":authority": authority.encode(),
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"user-agent": b"pylot-bench",
    }
    headers = b"".join(_literal(name, value) for name, value in fields.items())
    return (
        _PREFACE
        + frame(_SETTINGS, 0, 0, settings)
        + _grant(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        + frame(_HEADERS, _END_HEADERS, _STREAM, headers)
    )


def _grant(stream: int, size: int) -> bytes:
    return frame(_WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


class Message:
    """A gRPC message that can be sent on many connections; it is framed once."""

    __slots__ = ("body", "frames")

    def __init__(self, payload: bytes) -> None:
        self.body: Final = _PREFIX.pack(0, len(payload)) + payload
        self.frames: Final = b"".join(
            frame(_DATA, 0, _STREAM, self.body[start : start + FRAME_SIZE])
            for start in range(0, len(self.body), FRAME_SIZE)
        )


class Connection:
    """The protocol state; bytes come in by `receive` and wait for the socket in `outgoing`.

    `wants(head, size)` says whether a message shall be kept whole, and
    `message(data, size)` hands over a message: all of it when it was wanted, else its head.

    With `full_frames` the server is known to send a message in frames of the full size but for the
    last. The end of one that nobody wants is then known from its first frame: `unread` bytes are
    to be thrown away by the owner of the socket, who tells `discarded` about them.
    """

    __slots__ = (
        "_body", "_control", "_data_left", "_decided", "_frame", "_full_frames", "_head", "_header",
        "_kind_left", "_limit", "_message", "_message_left", "_peer_initial", "_prefix", "_queue",
        "_received", "_room", "_size", "_stream_room", "_wants", "ended", "outgoing", "unread",
    )  # fmt: skip

    def __init__(
        self,
        start: bytes,
        wants: Callable[[bytes, int], bool],
        message: Callable[[bytes, int], None],
        *,
        full_frames: bool = False,
    ) -> None:
        self._wants = wants
        self._message = message
        self._full_frames = full_frames
        self.outgoing = start
        self.ended: str | None = None  # what the server said when it ended the stream
        self.unread = 0
        self._head = b""  # of the message that is thrown away
        self._header = bytearray()  # the part of a frame header that has come
        self._frame = (0, 0, 0)  # kind, flags and stream of the frame being read
        self._kind_left = 0  # bytes of a frame that is not DATA still to come
        self._data_left = 0  # bytes of a DATA frame still to come
        self._control = bytearray()
        self._prefix = bytearray()  # the part of a gRPC prefix that has come
        self._message_left = 0
        self._size = 0
        self._body = bytearray()
        self._decided = False  # whether it is known if the body is kept
        self._limit = 0  # how much of the body is kept
        self._received = 0  # bytes that the server has not been given back yet
        self._room = DEFAULT_WINDOW
        self._peer_initial = DEFAULT_WINDOW
        self._stream_room = DEFAULT_WINDOW
        self._queue = bytearray()  # message bytes that wait for room

    def send(self, message: Message) -> None:
        """Send one gRPC message."""
        size = len(message.body)
        if self._queue or size > self._room or size > self._stream_room:
            self._queue += message.body
            self._flush()
        else:
            self._room -= size
            self._stream_room -= size
            self.outgoing += message.frames

    @property
    def between(self) -> bool:
        """Whether a message or a frame begins with the next byte."""
        return not (
            self._message_left
            or self._data_left
            or self._kind_left
            or self._header
            or self._prefix
            or self.unread
        )

    def receive(self, data: memoryview) -> None:
        """Take bytes from the socket."""
        position, end = 0, len(data)
        while position < end:
            if self._data_left:
                size = min(self._data_left, end - position)
                self._data(data[position : position + size])
                self._data_left -= size
                position += size
            elif self._kind_left:
                size = min(self._kind_left, end - position)
                self._control += data[position : position + size]
                self._kind_left -= size
                position += size
                if not self._kind_left:
                    self._complete()
            elif not self._header and end - position >= 9:
                size = 0
                if end - position >= _START.size and self.between:
                    size = self._skip(data, position, end)
                if size:
                    position += size
                else:
                    high, low, kind, flags, stream = _HEADER.unpack_from(data, position)
                    position += 9
                    self._begin(high << 16 | low, kind, flags, stream)
            else:
                size = min(9 - len(self._header), end - position)
                self._header += data[position : position + size]
                position += size
                if len(self._header) == 9:
                    high, low, kind, flags, stream = _HEADER.unpack(self._header)
                    self._header.clear()
                    self._begin(high << 16 | low, kind, flags, stream)
        if self._received >= STREAM_WINDOW // 4 and not self.unread:
            self._give_back()

    def discarded(self, size: int) -> None:
        """Take note that so many of the `unread` bytes were thrown away."""
        self.unread -= size
        if not self.unread:
            self._message(self._head, self._size)
            if self._received >= STREAM_WINDOW // 4:
                self._give_back()

    def _skip(self, data: memoryview, position: int, end: int) -> int:
        """Pass over a message that nobody wants; return its bytes in `data`, 0 if it is wanted."""
        high, low, kind, flags, stream, compressed, size = cast(
            "tuple[int, ...]", _START.unpack_from(data, position)
        )
        length = high << 16 | low
        start, kept = position + _START.size, min(size, HEAD)
        if kind != _DATA or flags or stream != _STREAM or compressed or start + kept > end:
            return 0
        left = 5 + size - length  # what the frames after the first one carry
        # A message that fits into what the server may send for sure is not cut at a window.
        full = self._full_frames and length == FRAME_SIZE and size < STREAM_WINDOW // 4
        if left < 0 or (left and not full):
            return 0
        head = bytes(data[start : start + kept])
        if self._wants(head, size):
            return 0
        self._received += 5 + size
        stop = position + 9 + length + left + 9 * -(-left // FRAME_SIZE)
        if stop <= end:
            self._message(head, size)
            return stop - position
        self._head, self._size, self.unread = head, size, stop - end
        return end - position

    def _give_back(self) -> None:
        self.outgoing += _grant(0, self._received) + _grant(_STREAM, self._received)
        self._received = 0

    def _begin(self, size: int, kind: int, flags: int, stream: int) -> None:
        known = stream == _STREAM if kind == _DATA else stream <= _STREAM and kind <= _LAST_KIND
        if size > FRAME_SIZE or not known:
            raise AssertionError(f"no frame begins here: {size} bytes of {kind} for {stream}")
        if kind == _DATA:
            if flags & _PADDED:
                raise AssertionError("a padded DATA frame: no gRPC server sends one")
            self._data_left = size
            self._received += size
            if flags & _END_STREAM:
                self.ended = "end of stream"
            return
        self._frame = (kind, flags, stream)
        self._kind_left = size
        if not size:
            self._complete()

    def _data(self, data: memoryview) -> None:
        position, end = 0, len(data)
        while position < end:
            if not self._message_left:
                size = min(5 - len(self._prefix), end - position)
                self._prefix += data[position : position + size]
                position += size
                if len(self._prefix) < 5:
                    return
                compressed, self._size = _PREFIX.unpack(self._prefix)
                if compressed:
                    raise AssertionError("a compressed message that nobody asked for")
                self._prefix.clear()
                self._message_left = self._size
                self._body = bytearray()
                self._decided = False
                self._limit = HEAD
                if not self._size:
                    self._message(b"", 0)
                continue
            size = min(self._message_left, end - position)
            kept = min(size, self._limit - len(self._body))
            if kept > 0:
                self._body += data[position : position + kept]
            if not self._decided and len(self._body) >= min(HEAD, self._size):
                self._decided = True
                if self._wants(bytes(self._body), self._size):
                    self._limit = self._size
                    self._body += data[position + kept : position + size]
            self._message_left -= size
            position += size
            if not self._message_left:
                body, self._body = self._body, bytearray()
                self._message(bytes(body), self._size)

    def _complete(self) -> None:
        kind, flags, stream = self._frame
        payload, self._control = bytes(self._control), bytearray()
        match kind:
            case 1 if flags & _END_STREAM:
                self.ended = _readable(payload)
            case 3:
                self.ended = f"reset {int.from_bytes(payload, 'big')}"
            case 4 if not flags & _ACK:
                self._settings(payload)
                self.outgoing += frame(_SETTINGS, _ACK, 0, b"")
                self._flush()
            case 6 if not flags & _ACK:
                self.outgoing += frame(_PING, _ACK, 0, payload)
            case 7:
                self.ended = "going away " + _readable(payload[8:])
            case 8:
                size = int.from_bytes(payload, "big") & 0x7FFFFFFF
                if stream:
                    self._stream_room += size
                else:
                    self._room += size
                self._flush()

    def _settings(self, payload: bytes) -> None:
        for position in range(0, len(payload), 6):
            key, value = struct.unpack_from(">HI", payload, position)
            if key == _INITIAL_WINDOW_SIZE:
                self._stream_room += value - self._peer_initial
                self._peer_initial = value

    def _flush(self) -> None:
        """Move what the windows allow from the queue to the socket's bytes."""
        while self._queue:
            size = min(len(self._queue), FRAME_SIZE, self._room, self._stream_room)
            if size <= 0:
                return
            self.outgoing += frame(_DATA, 0, _STREAM, bytes(self._queue[:size]))
            del self._queue[:size]
            self._room -= size
            self._stream_room -= size


def _readable(data: bytes) -> str:
    """The printable part of trailers: gRPC servers do not compress status and message."""
    text = "".join(chr(byte) if 32 <= byte < 127 else " " for byte in data)
    return " ".join(text.split())[:200]
