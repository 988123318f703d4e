"""`pylot serve` that is told to end: nobody new is let in, whatever else there is to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from controlplane.ads.types import CDS
from controlplane.app import App
from controlplane.kubernetes.client import Client
from controlplane.leader import lease
from controlplane.model.base import Duration
from controlplane.settings import Address, Settings
from tests.feature.conversation import Mesh
from tests.feature.world import World
from tests.unit.kubernetes.model_server import failure
from tests.unit.sources.kubernetes.fake_api import FakeApi

STREAMS = 8
PATIENCE = 20.0


class SlowApi(FakeApi):
    """An API server that does not answer who gives a Lease away."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: dict[str, Any] = {}
        self.releasing = asyncio.Event()
        self.ended = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "/leases" not in request.path:
            return await super()._answer(request)
        name = request.path.rpartition("/")[2]
        if request.method == "GET":
            if name not in self.leases:
                return web.Response(body=failure(404, "NotFound"), status=404)
            return web.json_response(self.leases[name])
        body = msgspec.json.decode(await request.read())
        if not body["spec"]["holderIdentity"]:
            self.releasing.set()
            await self.ended.wait()
        name = body["metadata"].get("name", name)
        body["metadata"] = {"name": name, "resourceVersion": "1"}
        self.leases[name] = body
        return web.json_response(body)


@contextlib.asynccontextmanager
async def running(app: App, stop: asyncio.Event, api: SlowApi) -> AsyncIterator[None]:
    """Run a control plane until the end of the block, when it gets its answers."""
    task = asyncio.create_task(app.run(stop))
    try:
        yield
    finally:
        stop.set()
        api.ended.set()
        await asyncio.wait_for(task, PATIENCE)


async def refusal(mesh: Mesh) -> grpc.StatusCode:
    """Open a stream that is refused; returns with what."""
    async with mesh.sotw() as envoy:
        try:
            await envoy.asks(CDS)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return (await envoy.is_refused())[0]


async def test_new_streams_are_refused_while_leases_are_given_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "RELEASE_LIMIT", PATIENCE)
    settings = Settings(
        grpc_addr=Address("127.0.0.1", 0),
        secure_grpc_addr=None,
        http_addr=None,
        monitoring_addr=None,
        https_addr=None,
        shutdown_duration=Duration.parse("5s"),
    )
    api, stop, mesh = SlowApi(), asyncio.Event(), Mesh(World())
    api.put("services", "a", spec={"ports": [{"port": 80}]})
    async with api.served() as access, contextlib.AsyncExitStack() as stack:
        logs = stack.enter_context(capture_logs())

        def said(event: str) -> list[Any]:
            return [entry for entry in logs if entry["event"] == event]

        await stack.enter_async_context(running(App(settings, Client(access)), stop, api))
        await mesh.until(lambda: bool(said("app.snapshot") and said("leader.acquired")))
        (listening,) = said("app.listening")
        mesh.port = int(listening["address"].rpartition(":")[2])
        for _ in range(STREAMS):
            envoy = await stack.enter_async_context(mesh.sotw())
            await envoy.asks_and_accepts(CDS)
        stop.set()
        await asyncio.wait_for(api.releasing.wait(), PATIENCE)
        assert await refusal(mesh) is grpc.StatusCode.UNAVAILABLE
        assert not said("leader.released")
        assert not said("leader.not_released")
