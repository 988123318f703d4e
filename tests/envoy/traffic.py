"""Backends that answer inside the test process, and callers that count what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp import web

from controlplane.demo.layout import APPLICATIONS, Layout

CALLERS: Final = 8


@dataclass(frozen=True, slots=True)
class Call:
    """One request that a backend got."""

    path: str
    headers: Mapping[str, str]

    @property
    def host(self) -> str:
        """The Host header."""
        return self.headers.get("host", "")


@dataclass(slots=True)
class Backend:
    """One HTTP server; `fail` answers are 503 before the next good one, each `delay` s late."""

    name: str
    host: str
    port: int
    fail: int = 0
    delay: float = 0.0
    calls: list[Call] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=3900, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append(Call(request.path, headers))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.fail:
            self.fail -= 1
            return web.Response(status=503, text="on purpose", headers={"x-app": self.name})
        return web.Response(text=self.name, headers={"x-app": self.name})


@contextlib.asynccontextmanager
async def backends(layout: Layout) -> AsyncIterator[dict[str, Backend]]:
    """A backend at the address of each Bookinfo application, by name such as reviews-v1."""
    made = {}
    for entry in APPLICATIONS:
        address = layout.address(entry)
        made[entry.name] = Backend(entry.name, address.host, address.port)
    await asyncio.gather(*(backend.start() for backend in made.values()))
    try:
        yield made
    finally:
        await asyncio.gather(*(backend.stop() for backend in made.values()))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, which backend answered, seconds."""

    status: int
    app: str
    text: str
    seconds: float
    headers: Mapping[str, str]


class Caller:
    """Calls services through one Envoy port on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=15), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, host: str, path: str = "/", **headers: str) -> Answer:
        """One GET with that Host header; header names have `_` for `-`."""
        started = time.monotonic()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.get(
            f"http://127.0.0.1:{self.port}{path}", headers={"Host": host, **sent}
        ) as answer:
            text = await answer.text()
            return Answer(
                status=answer.status,
                app=answer.headers.get("x-app", ""),
                text=text,
                seconds=time.monotonic() - started,
                headers={name.lower(): value for name, value in answer.headers.items()},
            )

    async def count(self, host: str, calls: int, path: str = "/", **headers: str) -> Counter[str]:
        """Count which backends answered; anything but a 200 is counted by its status or error."""
        seen: Counter[str] = Counter()
        left = iter(range(calls))

        async def caller() -> None:
            for _ in left:
                seen[await self.outcome(host, path, **headers)] += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return seen

    async def outcome(self, host: str, path: str = "/", **headers: str) -> str:
        """The backend that answered with 200, else the status or the error."""
        try:
            answer = await self.get(host, path, **headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"failed: {error!r}"
        return answer.app if answer.status == 200 else f"status {answer.status}: {answer.text}"


class Load:
    """Calls that go on until they are stopped, and what came of them."""

    def __init__(self, caller: Caller, host: str, *, path: str = "/") -> None:
        self.outcomes: list[tuple[float, str]] = []
        self._caller = caller
        self._host = host
        self._path = path
        self._stopping = False
        self._target = 0
        self._reached = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._run()) for _ in range(CALLERS)]

    async def reach(self, calls: int) -> None:
        """Wait until so many calls are done."""
        self._reached.clear()
        self._target = calls
        if len(self.outcomes) < calls:
            await self._reached.wait()

    async def stop(self) -> Counter[str]:
        """Stop, and count the outcomes."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return Counter(outcome for _, outcome in self.outcomes)

    async def _run(self) -> None:
        while not self._stopping:
            outcome = await self._caller.outcome(self._host, self._path)
            self.outcomes.append((time.monotonic(), outcome))
            if len(self.outcomes) >= self._target:
                self._reached.set()
