"""A network that swallows packets is noticed by the kernel, in a namespace that is made for it."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aiohttp import web

from controlplane.kubernetes.client import IDLE_TIMEOUT, Client
from controlplane.kubernetes.errors import UnavailableError
from controlplane.kubernetes.keepalive import Keepalive
from tests.mesh.capture_support import Visitor, namespace, run_in
from tests.unit.kubernetes.fake_server import PlainAccess, serving

WATCHED = "/api/v1/services"
QUICK = Keepalive(idle=1, interval=1, probes=2)
PATIENCE = 20.0  # seconds, on a busy machine; far less than what notices otherwise
SWALLOW = "*filter\n-A INPUT -i lo -p tcp -j DROP\nCOMMIT\n"


async def until_noticed(name: str) -> list[tuple[str, float]]:
    """Watch, let the network swallow everything, and ask again; returns what came of both."""
    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.Response()
        response = web.StreamResponse()
        await response.prepare(request)
        asked.set()
        await asyncio.sleep(10 * PATIENCE)
        return response

    async def watch(client: Client) -> None:
        async with client.watch(WATCHED, query={}) as batches:
            async for _ in batches:
                pass

    async def fails(doing: asyncio.Task[None] | asyncio.Task[bytes]) -> tuple[str, float]:
        with pytest.raises(UnavailableError) as caught:
            await asyncio.wait_for(doing, PATIENCE)
        return str(caught.value), time.monotonic() - began

    async with serving(answer) as url, Client(PlainAccess(url), keepalive=QUICK) as client:
        await client.request("GET", WATCHED)  # leaves a connection for the next request
        watching = asyncio.create_task(watch(client))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        await asyncio.to_thread(run_in, name, "iptables-restore", "--noflush", stdin=SWALLOW)
        began = time.monotonic()
        asking = asyncio.create_task(client.request("GET", WATCHED))
        return list(await asyncio.gather(fails(watching), fails(asking)))


@pytest.mark.netns
def test_watches_and_requests_end_when_the_network_swallows_packets() -> None:
    assert IDLE_TIMEOUT > 2 * PATIENCE
    with namespace("dead") as name:
        found = Visitor(name).do(lambda: asyncio.run(until_noticed(name)))
    for (said, seconds), words in zip(found, ("broke off", "timed out"), strict=True):
        assert said.endswith(words), said
        assert seconds > QUICK.idle, (said, seconds)


def test_every_connection_is_watched_by_the_kernel() -> None:
    usual = Keepalive()
    assert usual.seconds <= 35
    with usual.make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            found = [
                made.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
                for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            ]
            assert found == [*usual, usual.seconds * 1000]
