"""A client of one Envoy's admin interface, over TCP or a unix socket.

Owns: the paths of the interface and how their answers are read.
Must not know: what the configuration means.
Easy to break: the interface serves one request at a time on Envoy's main thread, so each request
asks for as little as it needs, and has a time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import aiohttp
import msgspec

from controlplane.agent.bootstrap import EnvoyAddress, PipeAddress
from controlplane.errors import OutsideError

SECONDS: Final = 10.0


class AdminClient:
    """Asks one Envoy; close it with `async with` or `close`."""

    def __init__(self, address: EnvoyAddress) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> AdminClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def is_ready(self) -> bool:
        """Whether Envoy has its first listeners and clusters; False too when nobody answers."""
        try:
            status, _ = await self._request("GET", "/ready")
        except OutsideError:
            return False
        return status == 200

    async def stats(self, regex: str = "") -> Mapping[str, int]:
        """The counters and gauges whose name contains a match of `regex`, by name.

        Raises OutsideError when Envoy does not answer.
        """
        query = {"type": "All", "filter": regex} if regex else {"type": "All"}
        text = (await self.get("/stats", query)).decode()
        found: dict[str, int] = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(": ")
            if value.lstrip("-").isdigit():
                found[name] = int(value)
        return found

    async def config_dump(self, resource: str = "") -> list[dict[str, Any]]:
        """The entries of `/config_dump`; `resource` narrows it, such as dynamic_route_configs.

        Raises OutsideError when Envoy does not answer.
        """
        body = await self.get("/config_dump", {"resource": resource} if resource else {})
        return list(msgspec.json.decode(body).get("configs", ()))

    async def clusters(self) -> list[dict[str, Any]]:
        """The clusters with their endpoints as Envoy uses them; raises OutsideError."""
        body = await self.get("/clusters", {"format": "json"})
        return list(msgspec.json.decode(body).get("cluster_statuses", ()))

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """The body at `path`; raises OutsideError when Envoy is silent or answers an error."""
        status, body = await self._request("GET", path, query)
        if status != 200:
            text = body.decode("utf-8", "replace").strip()
            raise OutsideError(f"Envoy's admin interface answers {status} to {path}: {text}")
        return body

    async def post(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """As `get`, for what changes something."""
        _, body = await self._request("POST", path, query)
        return body

    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        session = self._open()
        try:
            async with session.request(method, self._url(path), params=query or {}) as answer:
                return answer.status, await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise OutsideError(
                f"Envoy's admin interface at {self.address} does not answer: {reason}"
            ) from error

    def _url(self, path: str) -> str:
        host = "envoy" if isinstance(self.address, PipeAddress) else str(self.address)
        return f"http://{host}{path}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector | None = None
            if isinstance(self.address, PipeAddress):
                connector = aiohttp.UnixConnector(self.address.path)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=SECONDS)
            )
        return self._session
