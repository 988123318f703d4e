"""A port of this machine that leads into a network namespace.

Owns the copying of bytes. Must not know what they mean.
Easy to break: each direction ends by itself, because a client may have said all that it has to say
and still wait for the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.visitor import Visitor
from controlplane.errors import OutsideError

CHUNK: Final = 65536
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Forwarder:
    """Connects whoever comes to `address` with `target` inside the visitor's namespace."""

    def __init__(self, visitor: Visitor, *, address: SocketAddress, target: SocketAddress) -> None:
        self.address = address
        self._visitor = visitor
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; raises OutsideError when the address is taken."""
        host, port = self.address.host, self.address.port
        try:
            self._server = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise OutsideError(f"nothing can listen on {self.address}: {error}") from error
        # Port 0 asked for any.
        port = int(self._server.sockets[0].getsockname()[1])
        self.address = SocketAddress(host=host, port=port)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve((reader, writer))
        except asyncio.CancelledError:
            pass  # ended by `close`; the server that called us has nothing left to do either
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, client: Stream) -> None:
        try:
            target = await self._visitor.connect(self._target)
        except OSError:
            client[1].transport.abort()
            return
        try:
            await asyncio.gather(_copy(client[0], target[1]), _copy(target[0], client[1]))
        finally:
            target[1].close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except OSError:
        # One side was reset, so the other one is.
        with contextlib.suppress(OSError):
            sink.transport.abort()
