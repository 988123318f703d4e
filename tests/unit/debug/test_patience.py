"""Connections that ask nothing are closed; those that are being answered are not."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
import structlog
from aiohttp import ClientSession, web

from controlplane.debug.patience import FIRST_REQUEST, MOST_CONNECTIONS, NEXT_REQUEST, Patience
from controlplane.logs import configure

HOST = "127.0.0.1"


class Bed:
    """A server whose clock the test holds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.patience = Patience(clock=lambda: self.now)
        self.slow = asyncio.Event()
        app = web.Application(middlewares=[self.patience.middleware])
        app.router.add_get("/", self._answer)
        app.router.add_get("/slow", self._wait)
        self.runner = web.AppRunner(app, access_log=None)
        self.port = 0

    async def __aenter__(self) -> Bed:
        await self.runner.setup()
        await web.TCPSite(self.runner, HOST, 0).start()
        self.port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.slow.set()
        await self.runner.cleanup()

    async def look(self, seconds: float) -> None:
        """Let that much time pass and look."""
        assert self.runner.server is not None
        self.patience.look(self.runner.server)
        self.now += seconds
        self.patience.look(self.runner.server)
        await asyncio.sleep(0.05)

    async def half_a_request(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection that never finishes its request."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(b"GET /rea")
        await writer.drain()
        await asyncio.sleep(0.02)
        return reader, writer

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(text="here")

    async def _wait(self, _: web.Request) -> web.Response:
        await self.slow.wait()
        return web.Response(text="at last")


async def close(writer: asyncio.StreamWriter) -> None:
    """Close our side, whatever the server did with its own."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_a_request_that_never_ends_is_cut_off() -> None:
    async with Bed() as bed:
        reader, writer = await bed.half_a_request()
        await bed.look(FIRST_REQUEST - 1)
        assert not reader.at_eof()
        await bed.look(2)
        assert await asyncio.wait_for(reader.read(), 1) == b""
        await close(writer)


async def test_an_answer_may_take_as_long_as_it_takes() -> None:
    async with Bed() as bed, ClientSession() as client:
        asked = asyncio.create_task(client.get(f"http://{HOST}:{bed.port}/slow"))
        await asyncio.sleep(0.05)
        await bed.look(10 * NEXT_REQUEST)
        bed.slow.set()
        assert (await asked).status == 200


async def test_the_oldest_idle_connections_make_room() -> None:
    async with Bed() as bed:
        open_ones = [await asyncio.open_connection(HOST, bed.port)]
        await asyncio.sleep(0.02)
        await bed.look(1)
        open_ones += [
            await asyncio.open_connection(HOST, bed.port) for _ in range(MOST_CONNECTIONS)
        ]
        await asyncio.sleep(0.1)
        await bed.look(0)
        assert await asyncio.wait_for(open_ones[0][0].read(), 1) == b""
        assert not open_ones[-1][0].at_eof()
        for _, writer in open_ones:
            await close(writer)


async def test_an_unreadable_request_leaves_no_token_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("debug", "json")
    try:
        async with Bed() as bed:
            reader, writer = await asyncio.open_connection(HOST, bed.port)
            writer.write(b"GET / HTTP/1.1\r\nAuthorization: Bearer SUPER\x01SECRET\r\n\r\n")
            assert b"400" in await asyncio.wait_for(reader.readline(), 2)
            await close(writer)
            await asyncio.sleep(0.05)
        written = capsys.readouterr().err
        assert "http.unreadable_request" in written
        assert "SECRET" not in written
        assert "Traceback" not in written
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers = []
