"""Asks the application's health on behalf of the kubelet.

Owns HTTP, TCP and gRPC probes as the kubelet makes them, from inside the pod.
Must not know who asks.
Easy to break: the connection leaves from 127.0.0.6, which capture lets through; from the pod's own
address it would be sent through the sidecar again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from controlplane.errors import UsageError
from controlplane.model.base import Model, dec_hook
from controlplane.translate.resources import length_delimited

SOURCE_IPV4: Final = "127.0.0.6"
SOURCE_IPV6: Final = "::6"
MOST_REDIRECTS: Final = 10
MOST_BODY: Final = 10 * 1024
SERVING: Final = b"\x08\x01"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
# Of one connection only, or about a body that was unpacked.
_HOP: Final = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "content-length"})


class Header(Model):
    """A header of an HTTP probe."""

    name: str
    value: str = ""


class HttpGet(Model):
    """An HTTP probe."""

    port: int
    path: str = "/"
    scheme: str = "HTTP"
    http_headers: tuple[Header, ...] = ()


class TcpSocket(Model):
    """A probe that only connects."""

    port: int


class GrpcCheck(Model):
    """A probe by grpc.health.v1."""

    port: int
    service: str | None = None


class Prober(Model):
    """One probe or hook of a container."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    grpc: GrpcCheck | None = None
    timeout_seconds: int = 1


class Verdict(NamedTuple):
    """What the kubelet is told."""

    status: int
    text: str = ""
    content_type: str = "text/plain"


def parse_probers(table: Mapping[str, Any]) -> dict[str, Prober]:
    """Return the probes by path, as ISTIO_KUBE_APP_PROBERS has them; raises UsageError."""
    found: dict[str, Prober] = {}
    for path, entry in table.items():
        try:
            prober = msgspec.convert(entry, Prober, dec_hook=dec_hook)
        except msgspec.ValidationError as error:
            raise UsageError(f"ISTIO_KUBE_APP_PROBERS: {path}: {error}") from None
        if not (prober.http_get or prober.tcp_socket or prober.grpc):
            raise UsageError(
                f"ISTIO_KUBE_APP_PROBERS: {path}: there is none of httpGet, tcpSocket and grpc"
            )
        found[path] = prober
    return found


class ProbeClient:
    """Asks the application of one pod, at the pod's address; close it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, prober: Prober, headers: Mapping[str, str]) -> Verdict:
        """Return the application's answer; 500 with a reason when there is none.

        `headers` are those of the kubelet's request.
        """
        seconds = max(1, prober.timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                if prober.http_get is not None:
                    return await self._http(prober.http_get, headers)
                if prober.tcp_socket is not None:
                    return await self._tcp(prober.tcp_socket)
                assert prober.grpc is not None
                return await self._grpc(prober.grpc)
        except TimeoutError:
            return Verdict(500, f"the application did not answer within {seconds} s")
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return Verdict(500, f"the application does not answer: {error}")

    async def _http(self, probe: HttpGet, headers: Mapping[str, str]) -> Verdict:
        sent = CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in _HOP)
        for header in probe.http_headers:
            sent.popall(header.name, None)
        for header in probe.http_headers:
            sent.add(header.name, header.value)
        path = probe.path if probe.path.startswith("/") else f"/{probe.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = URL(f"{probe.scheme.lower()}://{host}:{probe.port}{path}", encoded=True)
        first = url
        for _ in range(MOST_REDIRECTS):
            async with self._open().get(
                url,
                headers=sent,
                allow_redirects=False,
                ssl=False,  # the kubelet does not verify the certificate of a probe either
            ) as answer:
                location = answer.headers.get("Location", "")
                if not 300 <= answer.status < 400 or not location:
                    body = await answer.content.read(MOST_BODY)
                    return Verdict(
                        answer.status, body.decode("utf-8", "replace"), answer.content_type
                    )
            url = url.join(URL(location, encoded=True))
            if (url.host, url.port) != (first.host, first.port):
                # The kubelet does not follow to another host, and takes it for healthy.
                return Verdict(200, f"redirected to {url.host}")
        return Verdict(500, f"more than {MOST_REDIRECTS} redirects")

    async def _tcp(self, probe: TcpSocket) -> Verdict:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            bind_source(connection)
            await loop.sock_connect(connection, (self.host, probe.port))
        return Verdict(200)

    async def _grpc(self, probe: GrpcCheck) -> Verdict:
        import grpc  # most pods have no such probe, and the import takes as long as all others

        # gRPC chooses its source address itself, and only the loopback address is never captured;
        # the pod's own is for an application that listens on nothing else.
        verdict = Verdict(500)
        for host in dict.fromkeys((loopback_of(self.host), self.host)):
            target = f"[{host}]" if ":" in host else host
            async with grpc.aio.insecure_channel(f"{target}:{probe.port}") as channel:
                request = length_delimited(1, probe.service.encode()) if probe.service else b""
                try:
                    answer = await channel.unary_unary(HEALTH_CHECK)(request)
                except grpc.aio.AioRpcError as error:
                    verdict = Verdict(500, f"{error.code().name}: {error.details()}")
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        continue
                    return verdict
            if answer == SERVING:
                return Verdict(200)
            return Verdict(500, "the application says that it does not serve")
        return verdict

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                force_close=True, socket_factory=_socket_from_source, limit=0
            )
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._session


def loopback_of(host: str) -> str:
    """The loopback address of a host's family; the host itself when it is one."""
    address = ipaddress.ip_address(host)
    if address.is_loopback:
        return host
    return "::1" if address.version == 6 else "127.0.0.1"


def bind_source(connection: socket.socket) -> None:
    """Let a connection leave from the address that capture lets through, where there is one.

    ::6 exists only where capture of IPv6 has made it.
    """
    source = SOURCE_IPV6 if connection.family == socket.AF_INET6 else SOURCE_IPV4
    try:
        connection.bind((source, 0))
    except OSError:
        return


def _socket_from_source(address: Any) -> socket.socket:
    connection = socket.socket(address[0], address[1], address[2])
    connection.setblocking(False)
    bind_source(connection)
    return connection
