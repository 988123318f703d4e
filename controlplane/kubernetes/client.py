"""Requests to an API server over one HTTP session: bytes in, bytes out, typed errors.

Must not know what the bytes mean, and never tries anything twice but a refused token: who asks
knows how long to wait. The rule that is easy to break: every read has an end, because a
connection through a network that swallows packets stays open for ever.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from controlplane import __version__
from controlplane.kubernetes.access import Access, is_loopback
from controlplane.kubernetes.errors import (
    KubernetesError,
    SilentError,
    UnavailableError,
    error_of,
)
from controlplane.kubernetes.keepalive import Keepalive
from controlplane.kubernetes.lines import Lines, LineTooLongError
from controlplane.kubernetes.paths import Call, call_of

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

CONNECT_TIMEOUT: Final = 10.0  # seconds until a connection stands
REQUEST_TIMEOUT: Final = 60.0  # seconds for a whole request that is no watch
IDLE_TIMEOUT: Final = 90.0
"""Seconds of silence after which a watch ends. A live one may be as silent: an API server sends
no bookmarks of a kind that has not changed since it started. A dead network is noticed sooner, by
`Keepalive`; this is for whatever answers in a server's place, such as a proxy on the way."""
# Nobody tells when a TLS connection has said goodbye; aiohttp's documentation advises this pause.
_FAREWELL: Final = 0.25
_NO_QUERY: Final[Mapping[str, str]] = {}
_KEEPALIVE: Final = Keepalive()
_CHUNK: Final = 4 * 1024 * 1024  # bytes that are read ahead, so that a batch is a batch


class Client:
    """An API server. Used as an asynchronous context manager, in one event loop."""

    def __init__(
        self,
        access: Access,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        keepalive: Keepalive = _KEEPALIVE,
    ) -> None:
        self._access: Final = access
        self._idle_timeout: Final = idle_timeout
        self._keepalive: Final = keepalive
        self._session: aiohttp.ClientSession | None = None

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return self._access.server

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # Each watch holds a connection, so their number is that of the kinds.
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._keepalive.make_socket),
            # Packing costs the API server and us more time than the network saves.
            headers={
                "User-Agent": f"pylot/{__version__}",
                "Accept": JSON,
                "Accept-Encoding": "identity",
            },
            trust_env=not is_loopback(self._access.server),
            read_bufsize=_CHUNK,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
            if self._access.tls is not None:
                await asyncio.sleep(_FAREWELL)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NO_QUERY,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        seconds: float = REQUEST_TIMEOUT,
    ) -> bytes:
        """Return the body of a successful answer; raises KubernetesError.

        `seconds` is for everything, until the last byte.
        """
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        limits = aiohttp.ClientTimeout(total=seconds, connect=CONNECT_TIMEOUT)
        async with self._open(
            method, path, query=query, headers=headers, body=body, limits=limits
        ) as (call, answer):
            with _outside(call, self.server):
                return await answer.read()

    @asynccontextmanager
    async def watch(
        self, path: str, *, query: Mapping[str, str]
    ) -> AsyncGenerator[AsyncIterator[list[bytes]], None]:
        """Open a watch; what it gives are lists of complete lines, each what came at once.

        The iterator ends when the server closes the stream between two lines, or is silent for
        the idle timeout: whoever opens it again finds out whether there is a server. Opening and
        iterating raise KubernetesError: UnavailableError also when the stream breaks off or
        stops within a line, or has a line of unreasonable length.
        """
        limits = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_TIMEOUT, sock_read=self._idle_timeout
        )
        asked = {**query, "watch": "true"}
        async with self._open("GET", path, query=asked, headers={}, limits=limits) as (
            call,
            answer,
        ):
            yield self._lines(call, answer)

    async def _lines(
        self, call: Call, answer: aiohttp.ClientResponse
    ) -> AsyncGenerator[list[bytes], None]:
        lines = Lines()
        while True:
            try:
                with _outside(call, self.server):
                    chunk = await answer.content.readany()
            except SilentError:
                if lines.truncated:
                    raise
                return
            if not chunk:
                break
            try:
                complete = lines.feed(chunk)
            except LineTooLongError as error:
                raise UnavailableError(f"cannot {call}: {error}") from None
            if complete:
                yield complete
        if lines.truncated:
            raise UnavailableError(f"cannot {call}: the stream ended within a line")

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: dict[str, str],
        limits: aiohttp.ClientTimeout,
        body: bytes | None = None,
    ) -> AsyncGenerator[tuple[Call, aiohttp.ClientResponse], None]:
        """Send a request and yield its successful answer; a refused token is renewed once."""
        call = call_of(method, path, query)
        if self._session is None:
            raise RuntimeError("the client is not open: use it with `async with`")
        renew = False
        while True:
            authorization = await self._access.authorization(renew=renew)
            if authorization:
                headers["Authorization"] = authorization
            with _outside(call, self.server):
                answer = await self._session.request(
                    method,
                    self.server + path,
                    params=query,
                    headers=headers,
                    data=body,
                    timeout=limits,
                    allow_redirects=False,  # a redirect would carry the token elsewhere
                    **self._route(),
                )
            async with answer:
                if 200 <= answer.status < 300:
                    yield call, answer
                    return
                if answer.status != 401 or renew:
                    raise await self._refused(call, answer)
            renew = True

    def _route(self) -> dict[str, Any]:
        access = self._access  # whose authorities may be others than a minute ago
        named = {"proxy": access.proxy, "server_hostname": access.server_name, "ssl": access.tls}
        return {key: value for key, value in named.items() if value is not None}

    async def _refused(self, call: Call, answer: aiohttp.ClientResponse) -> KubernetesError:
        with _outside(call, self.server):
            body = await answer.read()
        retry_after = answer.headers.get("Retry-After", "")
        return error_of(call, body, status=answer.status, retry_after=retry_after)


@contextmanager
def _outside(call: Call, server: str) -> Iterator[None]:
    """Turn what goes wrong on the way into UnavailableError with one sentence."""
    try:
        yield
    except TimeoutError:
        raise SilentError(f"cannot {call} at {server}: no answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"cannot {call} at {server}: {_words(error)}") from None


def _words(error: Exception) -> str:
    """Return the reason of a failure on the way, without the address that is said anyway."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not accepted: {error.certificate_error}"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number))) if number > 0:
            return os.strerror(number).lower()
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case _:
            return str(error) or type(error).__name__
