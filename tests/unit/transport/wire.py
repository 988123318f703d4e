"""A client's side of HTTP/2 for tests: frames by hand, so that wrong ones can be made too."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import hpack

from controlplane.transport.connection import ServerConnection
from controlplane.transport.messages import Plans
from controlplane.transport.repeats import Repeats
from controlplane.transport.stream import Call

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = "/test.Service/Stream"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
DEFAULT_WINDOW = 65_535
HEADERS_OF_A_CALL = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


class Frame(NamedTuple):
    """One frame that was read."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame with settings by number, `_4=1` or the like."""
    body = b"".join(struct.pack(">HI", int(key[1:]), value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, body)


def block(*fields: tuple[str, str]) -> bytes:
    """A header block; the encoder enters nothing in a table."""
    return hpack.Encoder().encode(hpack.NeverIndexedHeaderTuple(*field) for field in fields)


def call(stream: int, *, path: str = PATH, flags: int = 0) -> bytes:
    """The headers that open a call."""
    fields = [(name, path if name == ":path" else value) for name, value in HEADERS_OF_A_CALL]
    return frame(HEADERS, END_HEADERS | flags, stream, block(*fields))


def message(payload: bytes) -> bytes:
    """A gRPC message."""
    return struct.pack(">BI", 0, len(payload)) + payload


def data(stream: int, payload: bytes, *, flags: int = 0, size: int = 16_384) -> bytes:
    """DATA frames; the flags are those of the last one."""
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
    return b"".join(frame(DATA, 0, stream, piece) for piece in pieces[:-1]) + frame(
        DATA, flags, stream, pieces[-1]
    )


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def read(output: bytes) -> Iterator[Frame]:
    """The frames that a server wrote; all of them have to be complete."""
    position = 0
    while position < len(output):
        size = int.from_bytes(output[position : position + 3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", output, position + 3)
        end = position + 9 + size
        assert end <= len(output), "a frame is cut off"
        yield Frame(kind, flags, stream, output[position + 9 : end])
        position = end


def fields(payload: bytes) -> dict[str, str]:
    """The header fields of a HEADERS frame of the server, which enters nothing in a table."""
    return {str(name): str(value) for name, value in hpack.Decoder().decode(payload)}


class Recorder:
    """A handler that remembers what it was told."""

    def __init__(self, number: int, call: Call) -> None:
        self.number = number
        self.call = call
        self.events: list[tuple[str, bytes | str]] = []
        self.waits = False  # for a test to remember whether the last message is still under way

    @property
    def messages(self) -> list[bytes]:
        """The messages that came."""
        return [what for kind, what in self.events if isinstance(what, bytes)]

    @property
    def ends(self) -> list[str]:
        """The reasons that the call ended for; at most one when all is well."""
        return [str(what) for kind, what in self.events if kind == "end"]

    def on_message(self, payload: bytes) -> None:
        self.events.append(("message", payload))

    def on_half_close(self) -> None:
        self.events.append(("half_close", ""))

    def on_writable(self) -> None:
        self.events.append(("writable", ""))

    def on_end(self, reason: str) -> None:
        self.events.append(("end", reason))


class Talk:
    """A server's connection, its calls, its clock, and what it has written."""

    def __init__(self, *, hold: bool = False, repeats: Repeats | None = None) -> None:
        self.now = 1000.0
        self._hold = hold
        self.calls: list[Recorder] = []
        self.output = bytearray()
        self.writing = True
        self.connection = ServerConnection(
            {PATH: self._serve},
            peer="ipv4:127.0.0.1:1",
            flush=self._flush,
            clock=lambda: self.now,
            plans=Plans(),
            repeats=repeats or Repeats(),
        )
        self._flush()

    def _serve(self, call: Call) -> Recorder:
        self.calls.append(Recorder(len(self.calls), call))
        if self._hold:
            call.hold()
        return self.calls[-1]

    def _flush(self) -> None:
        while self.writing:
            buffers = self.connection.outgoing()
            for buffer in buffers:
                self.output += buffer
            if not buffers and not self.connection.tell_writable():
                return

    def hears(self, *parts: bytes) -> None:
        """Hand bytes to the server, in one piece."""
        self.connection.receive(memoryview(b"".join(parts)))

    def opens(self, *parts: bytes) -> None:
        """Open the connection, and forget what the server says to that."""
        self.hears(PREFACE, settings(), *parts)
        self.said()

    def said(self) -> list[Frame]:
        """What the server wrote since this was asked last."""
        found = list(read(bytes(self.output)))
        self.output.clear()
        return found

    def blocks(self) -> None:
        """The socket takes nothing more."""
        self.writing, self.connection.blocked = False, True

    def unblocks(self) -> None:
        """The socket takes everything again."""
        self.writing, self.connection.blocked = True, False
        self._flush()

    def passes(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        for _ in range(round(seconds)):
            self.now += 1.0
            self.connection.tick()

    @property
    def goaway(self) -> int | None:
        """The error code that the connection was ended with, None when it lives."""
        for one in reversed(list(read(bytes(self.output)))):
            if one.kind == GOAWAY:
                return int.from_bytes(one.payload[4:8], "big")
        return None


def payload_of(found: Iterable[Frame], stream: int) -> bytes:
    """What the DATA frames of a stream carry."""
    return b"".join(one.payload for one in found if one.kind == DATA and one.stream == stream)
