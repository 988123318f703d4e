"""The network between a control plane and its API server, which a test may spoil.

It speaks plain HTTP on the near side and TLS, as the cluster's administrator, on the far side, so
that what is cut is the text and not a record of TLS. The rule that is easy to break: spoiling the
way back concerns all connections, also those that are opened meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from tests.kubernetes.cluster import Cluster
from tests.unit.kubernetes.fake_server import PlainAccess

_CHUNK: Final = 65536
_SLOW_CHUNK: Final = 512
_SLOW_PAUSE: Final = 0.005


class Network:
    """All connections to one API server."""

    def __init__(self, cluster: Cluster) -> None:
        self._port: Final = int(cluster.url.rpartition(":")[2])
        self._tls: Final = cluster.client_tls()
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._slow = False
        self._left: int | None = None  # bytes until the next cut
        self.cuts = 0

    def cut(self) -> None:
        """Break all connections at once."""
        for writer in list(self._open):
            writer.transport.abort()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Let nothing through and tell nobody, until the end of the block."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Let through little at a time."""
        self._slow = True
        try:
            yield
        finally:
            self._slow = False

    def cut_after(self, size: int) -> None:
        """Break the connection over which this byte from now goes, wherever that is in a line."""
        self._left = size

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self._open.add(writer)
        try:
            await self._flows.wait()
            far = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        try:
            done, pending = await asyncio.wait(
                [
                    asyncio.create_task(self._carry(reader, far[1], back=False)),
                    asyncio.create_task(self._carry(far[0], writer, back=True)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            self._open.discard(writer)
            for side in (writer, far[1]):
                side.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, back: bool
    ) -> None:
        while data := await source.read(_SLOW_CHUNK if self._slow and back else _CHUNK):
            await self._flows.wait()
            if back and self._left is not None:
                self._left -= len(data)
                if self._left <= 0:
                    data = data[: len(data) + self._left]
                    self._left = None
                    self.cuts += 1
                    target.write(data)
                    await target.drain()
                    return
            target.write(data)
            await target.drain()
            if self._slow and back:
                await asyncio.sleep(_SLOW_PAUSE)


@asynccontextmanager
async def network(cluster: Cluster) -> AsyncIterator[tuple[Network, PlainAccess]]:
    """Stand between; yields the network and how a client reaches the API server through it."""
    made = Network(cluster)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield made, PlainAccess(f"http://127.0.0.1:{port}")
    finally:
        server.close()
        made.cut()
