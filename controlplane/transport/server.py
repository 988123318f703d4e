"""Listens, keeps the connections, and lets time pass for them.

Must not know what is served. The rule that is easy to break: an address in use is an error, never
a port shared with another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from ssl import SSLContext
from typing import Final

from controlplane.errors import OutsideError
from controlplane.transport.protocol import ServerProtocol, Shared
from controlplane.transport.stream import Serve

_BACKLOG: Final = 4096  # a whole mesh may come back at the same moment
# As many are accepted in one turn of the loop: what each says first takes some time to read, and
# those who are connected are not to wait until hundreds have said it.
_ACCEPTED: Final = 4
_TICK: Final = 1.0  # seconds
_SPARE_FILES: Final = 256  # descriptors that connections leave to everything else
# A push is a burst after silence, to clients nearby. BBR, the default of some hosts, paces it by
# timers: half a megabyte to each of a thousand clients took half as long again, in CPU too.
_PACED: Final = b"bbr"
_UNPACED: Final = (b"cubic", b"reno")  # the first one that the host has and allows


class GrpcServer:
    """Serves gRPC calls. All methods belong to the event loop that called `start`."""

    def __init__(
        self,
        services: Mapping[str, Serve],
        *,
        ssl: SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`services` serve calls by path, `/SERVICE/METHOD`.

        With `ssl` the server speaks TLS; the context has to offer `h2` by ALPN.
        """
        self._shared: Final = Shared(services, clock)
        self._ssl: Final = ssl
        self._servers: list[asyncio.Server] = []
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return len(self._shared.protocols)

    async def start(self, *addresses: str) -> tuple[int, ...]:
        """Listen on `HOST:PORT` or `unix:PATH` addresses; return the bound ports, 0 for a path.

        Raises OutsideError when an address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            self._shared.limit = max(soft // 2, soft - _SPARE_FILES)
        ports: list[int] = []
        try:
            for address in addresses:
                listener = _listener(address)
                server = await loop.create_server(
                    lambda: ServerProtocol(self._shared),
                    sock=listener,
                    ssl=self._ssl,
                    backlog=_ACCEPTED,
                )
                listener.listen(_BACKLOG)  # in the kernel; the other is only how many are taken
                self._servers.append(server)
                name = listener.getsockname()
                ports.append(name[1] if isinstance(name, tuple) else 0)
        except OutsideError:
            await self.stop(0.0)
            raise
        self._ticking = loop.call_later(_TICK, self._tick)
        return tuple(ports)

    async def stop(self, grace: float) -> None:
        """Take no more calls and let the present ones end, for at most `grace` seconds."""
        for server in self._servers:
            server.close()
        self._servers = []
        for protocol in tuple(self._shared.protocols):
            protocol.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._shared.idle.wait()
        for protocol in tuple(self._shared.protocols):
            protocol.abort()
        await self._shared.idle.wait()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(_TICK, self._tick)
        self._shared.plans.forget()
        self._shared.repeats.forget()
        for protocol in tuple(self._shared.protocols):
            protocol.tick()


def _listener(address: str) -> socket.socket:
    try:
        if address.startswith("unix:"):
            return _unix_listener(address.removeprefix("unix:").removeprefix("//"))
        host, _, port = address.rpartition(":")
        if not 0 <= int(port) <= 65535:
            raise ValueError("there is no such port")
        return _unpaced(_tcp_listener(host.removeprefix("[").removesuffix("]"), int(port)))
    except (OSError, ValueError) as error:
        raise OutsideError(f"the address {address} cannot be bound: {_reason(error)}") from None


def _reason(error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number not in errno.errorcode:
        return str(error)
    # `create_server` adds the address, as Python writes it, to the words of the system.
    return os.strerror(number)


def _tcp_listener(host: str, port: int) -> socket.socket:
    if host in ("", "::"):
        # Every address of both families, IPv4 alone where there is no IPv6.
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
        host = "0.0.0.0"
    family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(found[:2], family=family, backlog=_BACKLOG)


def _unpaced(listener: socket.socket) -> socket.socket:
    """Let what is accepted send bursts at once; any other choice of the host's is left alone."""
    option = getattr(socket, "TCP_CONGESTION", None)  # Linux
    if option is None or not listener.getsockopt(socket.IPPROTO_TCP, option, 16).startswith(_PACED):
        return listener
    for name in _UNPACED:
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, option, name)
            break
    return listener


def _unix_listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                raise
            Path(path).unlink(missing_ok=True)
            listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _is_abandoned(path: str) -> bool:
    """Whether nobody listens on a socket file, as after a crash."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False
