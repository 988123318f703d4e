"""An API server of several kinds over HTTP on the loopback interface, whose moods a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from controlplane.kubernetes.errors import KubernetesError
from controlplane.model.kinds import Kind
from controlplane.sources.kubernetes.mesh import CONFIG_MAP
from controlplane.sources.kubernetes.source import watched_kinds
from tests.unit.kubernetes.fake_server import PlainAccess, serving
from tests.unit.kubernetes.model_server import ModelServer, bookmark, failure

_LOOK: Final = 0.01  # seconds between two looks for new events


class FakeApi:
    """Kinds by plural. `missing` are not served, `forbidden` are refused, `down` is no answer.

    `streams` says whether a watch can bring the first state.
    """

    def __init__(self, *, streams: bool = True) -> None:
        self.kinds: Final = {kind.plural: ModelServer() for kind in (*watched_kinds(), CONFIG_MAP)}
        self.missing: set[str] = set()
        self.forbidden: set[str] = set()
        self.requests: list[str] = []
        self.down = False
        self.knows_us = True
        self.streams = streams
        self._rows = {kind.plural: kind for kind in (*watched_kinds(), CONFIG_MAP)}
        self._epoch = 0

    def __getitem__(self, plural: str) -> ModelServer:
        return self.kinds[plural]

    def put(self, plural: str, name: str, namespace: str = "default", **fields: Any) -> None:
        """Create or replace an object."""
        kind = self._rows[plural]
        said = {"apiVersion": kind.api_versions[0], "kind": kind.kind}
        scope = namespace if kind.namespaced else ""
        self.kinds[plural].put(name, scope, **said, **fields)

    def close_watches(self) -> None:
        """End all open watches in an orderly way."""
        self._epoch += 1

    @asynccontextmanager
    async def served(self) -> AsyncIterator[PlainAccess]:
        """Serve; yields the access of a client."""
        async with serving(self._answer) as url:
            yield PlainAccess(url)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        if self.down and request.transport is not None:
            request.transport.abort()
        if not self.knows_us:
            return web.Response(body=failure(401, "Unauthorized"), status=401)
        if request.path == "/apis":
            return web.json_response(self._discovery())
        plural = request.path.rpartition("/")[2]
        if plural not in self.kinds or plural in self.missing:
            return web.Response(body=failure(404, "NotFound"), status=404)
        if plural in self.forbidden:
            return web.Response(body=failure(403, "Forbidden", "not you"), status=403)
        query = dict(request.query)
        if query.pop("watch", "") == "true":
            return await self._watch(request, plural, query)
        try:
            return web.Response(body=self.kinds[plural].page(query))
        except KubernetesError as error:
            return web.Response(body=failure(error.status, error.reason), status=error.status)

    def _discovery(self) -> dict[str, Any]:
        groups: dict[str, dict[str, list[Kind]]] = {"authorization.k8s.io": {}}
        for plural, kind in self._rows.items():
            if kind.group and plural not in self.missing:
                versions = groups.setdefault(kind.group, {})
                versions.setdefault(kind.versions[0], []).append(kind)
        return {
            "kind": "APIGroupDiscoveryList",
            "items": [
                {
                    "metadata": {"name": group},
                    "versions": [
                        {"version": name, "resources": [{"resource": k.plural} for k in kinds]}
                        for name, kinds in versions.items()
                    ],
                }
                for group, versions in groups.items()
            ],
        }

    async def _watch(
        self, request: web.Request, plural: str, query: dict[str, str]
    ) -> web.StreamResponse:
        server = self.kinds[plural]
        first = query.get("sendInitialEvents") == "true"
        if first and not self.streams:
            return web.Response(body=failure(422, "Invalid"), status=422)
        response = web.StreamResponse()
        await response.prepare(request)
        epoch = self._epoch
        sent = server.version if first else int(query["resourceVersion"])
        if first:
            await response.write(b"".join(line + b"\n" for line in server.first()))
        while epoch == self._epoch and not self.down:
            lines = server.since(sent)
            if lines:
                sent = server.version
                await response.write(b"".join(line + b"\n" for line in lines))
                if b'"ERROR"' in lines[0]:
                    return response
            if plural in self.forbidden or plural in self.missing:
                return response
            await asyncio.sleep(_LOOK)
        if self.down and request.transport is not None:
            request.transport.abort()
        else:
            await response.write(bookmark(sent) + b"\n")
        return response
