"""The asyncio shell of one connection: bytes from the transport in, bytes to the socket out.

Large responses are the same bytes for many clients. They go from there straight to the socket
(`writev`), and only what waits for a full socket passes through the transport, a few kilobytes
at a time, because it is the transport that hears when the socket takes more. Under TLS everything
passes through it. The rule that is easy to break: the socket may be written only while the
transport's own buffer is empty.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Final

from controlplane.transport.connection import ServerConnection
from controlplane.transport.limits import STALLED
from controlplane.transport.messages import Buffer, Plans
from controlplane.transport.repeats import Repeats
from controlplane.transport.stream import Serve

_BUFFERS: Final = 1024  # in one writev, IOV_MAX of Linux and macOS
_PIECE: Final = 4096  # bytes that pass through the transport when the socket is full


class Shared:
    """What all connections of a server share."""

    def __init__(self, services: Mapping[str, Serve], clock: Callable[[], float]) -> None:
        self.services: Final = services
        self.clock: Final = clock
        self.plans: Final = Plans()
        self.repeats: Final = Repeats()
        self.buffer: Final = memoryview(bytearray(256 * 1024))  # read and used up at once
        self.protocols: Final[dict[ServerProtocol, None]] = {}
        self.idle: Final = asyncio.Event()  # whether there are no connections
        self.idle.set()
        self.limit = 0  # connections at once; 0 is no limit


class ServerProtocol(asyncio.BufferedProtocol):
    """One connection."""

    __slots__ = (
        "_blocked_since", "_closing", "_connection", "_flushing", "_shared", "_socket",
        "_transport", "_unwritten",
    )  # fmt: skip

    def __init__(self, shared: Shared) -> None:
        self._shared: Final = shared
        self._connection: ServerConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._socket: int | None = None  # None when only the transport can write, as under TLS
        self._unwritten: list[Buffer] = []
        self._blocked_since = 0.0
        self._flushing = self._closing = False

    # --- called by asyncio ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._transport = transport
        shared = self._shared
        encrypted = transport.get_extra_info("ssl_object")
        full = shared.limit and len(shared.protocols) >= shared.limit
        if full or (encrypted is not None and encrypted.selected_alpn_protocol() != "h2"):
            self._closing = True
            transport.abort()
            return
        if encrypted is None:
            self._socket = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=0)
        shared.protocols[self] = None
        shared.idle.clear()
        self._connection = ServerConnection(
            shared.services,
            peer=_peer(transport),
            flush=self.flush,
            clock=shared.clock,
            plans=shared.plans,
            repeats=shared.repeats,
        )
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that came."""
        if self._connection is not None:
            self._connection.receive(self._shared.buffer[:nbytes])

    def pause_writing(self) -> None:
        """The socket takes no more."""
        if self._connection is not None:
            self._connection.blocked = True

    def resume_writing(self) -> None:
        """The socket takes more again."""
        if self._connection is not None:
            self._connection.blocked = False
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all calls."""
        self._closing = True
        self._shared.protocols.pop(self, None)
        if not self._shared.protocols:
            self._shared.idle.set()
        self._unwritten = []
        connection, self._connection, self._transport = self._connection, None, None
        if connection is not None:
            connection.lost("closed by the client" if exc is None else str(exc))

    # --- called by the server -------------------------------------------------------------

    def drain(self) -> None:
        """Take no more calls, and close when the present ones are over."""
        if self._connection is not None:
            self._connection.drain()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def tick(self) -> None:
        """Let time pass."""
        connection = self._connection
        if connection is None or self._closing:
            return
        connection.tick()
        if connection.blocked and self._shared.clock() - self._blocked_since >= STALLED:
            connection.lost(f"no response taken for {STALLED:.0f} s")
            self.abort()

    # --- writing --------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what there is, as far as the socket takes it."""
        connection = self._connection
        if connection is None or self._flushing or self._closing:
            return
        self._flushing = True
        try:
            while not connection.blocked:
                buffers = self._unwritten or connection.outgoing()
                if buffers:
                    self._write(buffers)
                elif not connection.tell_writable():
                    break
        finally:
            self._flushing = False
        if connection.finished and not self._closing:
            self._close(unwritten=connection.blocked)

    def _close(self, *, unwritten: bool) -> None:
        self._closing = True
        if self._transport is not None:
            if unwritten:
                self._transport.abort()
            else:
                self._transport.close()

    def _write(self, buffers: list[Buffer]) -> None:
        transport, connection = self._transport, self._connection
        if transport is None or connection is None:
            raise AssertionError("nothing is written before there is a connection")
        if self._socket is None:
            transport.write(b"".join(buffers))
            if connection.blocked:
                self._blocked_since = self._shared.clock()
            return
        batch = buffers if len(buffers) <= _BUFFERS else buffers[:_BUFFERS]
        try:
            written = os.writev(self._socket, batch)
        except BlockingIOError:
            written = 0
        except OSError as error:
            connection.lost(error.strerror or str(error))
            self.abort()
            return
        rest: list[Buffer] = []
        if written < sum(map(len, batch)):
            rest = _after(batch, written)
            if not self._unwritten:
                self._blocked_since = self._shared.clock()
            piece = rest[0]
            transport.write(piece[:_PIECE])
            if len(piece) > _PIECE:
                rest[0] = memoryview(piece)[_PIECE:]
            else:
                del rest[0]
        self._unwritten = rest + buffers[_BUFFERS:]


def _after(buffers: list[Buffer], written: int) -> list[Buffer]:
    """Return what is left when so many bytes are written."""
    for position, buffer in enumerate(buffers):
        size = len(buffer)
        if written < size:
            rest = buffers[position:]
            if written:
                rest[0] = memoryview(buffer)[written:]
            return rest
        written -= size
    return []


def _peer(transport: asyncio.BaseTransport) -> str:
    """Return the client's address in gRPC's form (`ipv4:HOST:PORT`, `ipv6:[HOST]:PORT`)."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix:"
    host, port = str(name[0]), name[1]
    mapped = host.removeprefix("::ffff:")
    if ":" in mapped:
        return f"ipv6:[{host}]:{port}"
    return f"ipv4:{mapped}:{port}"
