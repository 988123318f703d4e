"""HTTP/2 frames as bytes (RFC 9113, sections 4, 6 and 7): numbers, and how a frame is built.

Must not know connections. The rule that is easy to break: the highest bit of a stream id and of
a window increment is reserved and has to be masked by whoever reads one.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER: Final = struct.Struct(">HBBBI")  # length in two parts, type, flags, stream id
HEADER_SIZE: Final = 9
FRAME_SIZE: Final = 16_384  # bytes: the default limit, which is also the one that we keep
LARGEST_FRAME_SIZE: Final = (1 << 24) - 1
DEFAULT_WINDOW: Final = 65_535
LARGEST_WINDOW: Final = (1 << 31) - 1
MASK: Final = 0x7FFF_FFFF

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

SETTING: Final = struct.Struct(">HI")
NUMBER: Final = struct.Struct(">I")
_GOAWAY: Final = struct.Struct(">II")
_OF_CONNECTIONS: Final = frozenset({SETTINGS, PING, GOAWAY})
_OF_STREAMS: Final = frozenset({PRIORITY, RST_STREAM})
_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection is ended (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """The peer broke the protocol in a way that ends the connection."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def data_header(size: int, stream: int) -> bytes:
    """Return the header of a DATA frame of so many bytes."""
    return HEADER.pack(size >> 8, size & 0xFF, DATA, 0, stream)


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*item) for item in values.items()))


def window_update(stream: int, size: int) -> bytes:
    """Return a frame that lets the peer send so many bytes more; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(size))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """Return a frame that ends a stream at once."""
    return frame(RST_STREAM, 0, stream, NUMBER.pack(code))


def goaway(last: int, code: ErrorCode, message: str = "") -> bytes:
    """Return a frame that says that no stream after `last` is served."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last, code) + message.encode())


def check(kind: int, flags: int, stream: int, size: int) -> None:
    """Raise ProtocolError when no client may send such a frame, whatever its payload says.

    DATA and header blocks are checked where they are read.
    """
    if kind == PUSH_PROMISE:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client promises nothing")
    if (stream and kind in _OF_CONNECTIONS) or (not stream and kind in _OF_STREAMS):
        text = f"a frame of kind {kind} for stream {stream}"
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, text)
    wrong = size != _SIZES.get(kind, size)
    if kind == SETTINGS:
        wrong = bool(size) if flags & ACK else bool(size % SETTING.size)
    if wrong or (kind == GOAWAY and size < _GOAWAY.size):
        text = f"a frame of kind {kind} with {size} bytes"
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, text)


def read_settings(payload: memoryview) -> Iterator[tuple[int, int]]:
    """Yield keys and values of a SETTINGS frame. Raises ProtocolError."""
    for key, value in SETTING.iter_unpack(payload):
        if key == ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a wrong ENABLE_PUSH")
        if key == MAX_FRAME_SIZE and not FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a wrong MAX_FRAME_SIZE")
        yield key, value


def size_of(data: memoryview, position: int) -> int:
    """Return the size of the payload of the frame that begins there."""
    return int.from_bytes(data[position : position + 3], "big")


def following_data(pieces: list[memoryview], data: memoryview, position: int, stream: int) -> int:
    """Append the payloads of the DATA frames of one stream from `position` on; return their end.

    A frame that is not complete, not allowed, empty, or has flags is not among them.
    """
    end = len(data)
    while end - position >= HEADER_SIZE:
        high, low, kind, flags, number = HEADER.unpack_from(data, position)
        start = position + HEADER_SIZE
        stop = start + (high << 8 | low)
        if kind != DATA or flags or number & MASK != stream:
            break
        if stop > end or not start < stop <= start + FRAME_SIZE:
            break
        pieces.append(data[start:stop])
        position = stop
    return position


def without_padding(flags: int, payload: memoryview) -> memoryview:
    """Return the content of a DATA or HEADERS frame. Raises ProtocolError."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]
