"""The agent's own HTTP port (15020): readiness, merged metrics, probes of the application, the end.

Owns the paths and who may ask. Must not know how the answers are found.
Easy to break: other pods reach this port too, so what ends the agent is for the loopback
interface only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from aiohttp import web

from controlplane.agent.metrics import MetricsMerger
from controlplane.agent.probes import ProbeClient, Prober
from controlplane.errors import OutsideError

SECONDS_TO_CLOSE: Final = 1.0

log = structlog.get_logger()


class StatusServer:
    """Serves the port; made once, started with `start`, ended with `close`."""

    def __init__(
        self,
        *,
        reason: Callable[[], Awaitable[str]],
        merger: MetricsMerger,
        probes: ProbeClient,
        probers: Mapping[str, Prober],
        quit_agent: Callable[[], None],
        names: Callable[[], Mapping[str, tuple[str, ...]]],
    ) -> None:
        """`reason` says why the proxy is not ready, empty when it is; `quit_agent` ends us."""
        self._reason = reason
        self._merger = merger
        self._probes = probes
        self._probers = probers
        self._quit = quit_agent
        self._names = names
        self._runner: web.AppRunner | None = None

    async def start(self, port: int, *, host: str | None = None) -> None:
        """Listen on all addresses, or on one; raises OutsideError when the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz/ready", self._ready)
        app.router.add_get("/stats/prometheus", self._metrics)
        app.router.add_route("*", "/quitquitquit", self._quitquitquit)
        app.router.add_get("/debug/ndsz", self._ndsz)
        for prefix in ("/app-health", "/app-lifecycle"):
            app.router.add_route("*", f"{prefix}/{{rest:.*}}", self._probe)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=SECONDS_TO_CLOSE
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.close()
            raise OutsideError(
                f"the status port {port} cannot be opened: {error.strerror or error}"
            ) from error

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _ready(self, _request: web.Request) -> web.Response:
        reason = await self._reason()
        if reason:
            return web.Response(status=503, text=f"{reason}\n")
        return web.Response(status=200)

    async def _metrics(self, request: web.Request) -> web.Response:
        page = await self._merger.page(request.headers)
        return web.Response(body=page.body, headers={"Content-Type": page.content_type})

    async def _probe(self, request: web.Request) -> web.Response:
        prober = self._probers.get(request.path)
        if prober is None:
            return web.Response(status=404, text=f"there is no probe at {request.path}\n")
        verdict = await self._probes.ask(prober, request.headers)
        return web.Response(
            status=verdict.status, text=verdict.text, content_type=verdict.content_type
        )

    async def _quitquitquit(self, request: web.Request) -> web.Response:
        if not is_local(request):
            return web.Response(status=403, text="only from this pod\n")
        if request.method != "POST":
            return web.Response(status=405, text="only POST\n", headers={"Allow": "POST"})
        log.info("quit_requested")
        self._quit()
        return web.Response(text="OK\n")

    async def _ndsz(self, request: web.Request) -> web.Response:
        if not is_local(request):
            return web.Response(status=403, text="only from this pod\n")
        return web.json_response({name: list(ips) for name, ips in self._names().items()})


def is_local(request: web.Request) -> bool:
    """Whether the request came over the loopback interface."""
    try:
        address = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
