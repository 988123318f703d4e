"""The agent's own port: readiness, merged metrics, probes of the application, the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.drain import counts
from controlplane.agent.metrics import AgentMetrics, MetricsMerger
from controlplane.agent.probes import ProbeClient, parse_probers
from controlplane.agent.readiness import Readiness, first_updates
from controlplane.agent.settings import ApplicationMetrics
from controlplane.agent.status import StatusServer, is_local
from controlplane.errors import OutsideError, UsageError

Handler = Callable[[web.Request], Awaitable[web.Response]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def application(**handlers: Handler) -> AsyncIterator[int]:
    """An HTTP server with a handler for each path `/NAME`."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_get(f"/{name}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def answering(text: str, *, status: int = 200, content_type: str = "text/plain") -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=content_type)

    return handle


class Served:
    """A status server with what it needs, and what became of it."""

    def __init__(self, probers: dict[str, Any], metrics: ApplicationMetrics | None = None) -> None:
        self.reason = ""
        self.ended = False
        self.admin = AdminClient(SocketAddress(host="127.0.0.1", port=free_port()))
        self.merger = MetricsMerger(self.admin, AgentMetrics(), application=metrics)
        self.probes = ProbeClient("127.0.0.1")
        self.server = StatusServer(
            reason=self._reason,
            merger=self.merger,
            probes=self.probes,
            probers=parse_probers(probers),
            quit_agent=self._quit,
            names=lambda: {"reviews": ("10.96.0.1",)},
        )
        self.port = free_port()
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")

    async def _reason(self) -> str:
        return self.reason

    def _quit(self) -> None:
        self.ended = True

    async def get(self, path: str, **more: Any) -> tuple[int, str]:
        async with self.http.get(path, **more) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def served(
    probers: dict[str, Any] | None = None, metrics: ApplicationMetrics | None = None
) -> AsyncIterator[Served]:
    made = Served(probers or {}, metrics)
    await made.server.start(made.port, host="127.0.0.1")
    try:
        yield made
    finally:
        await made.http.close()
        await made.server.close()
        await made.merger.close()
        await made.probes.close()
        await made.admin.close()


async def test_readiness_says_why_not() -> None:
    async with served() as made:
        assert (await made.get("/healthz/ready"))[0] == 200
        made.reason = "no CDS from the control plane yet"
        assert await made.get("/healthz/ready") == (503, "no CDS from the control plane yet\n")


async def test_only_a_post_ends_the_agent() -> None:
    async with served() as made:
        assert (await made.get("/quitquitquit"))[0] == 405
        assert not made.ended
        async with made.http.post("/quitquitquit") as answer:
            assert answer.status == 200
        assert made.ended


async def test_the_names_can_be_read_from_inside() -> None:
    async with served() as made:
        assert await made.get("/debug/ndsz") == (200, '{"reviews": ["10.96.0.1"]}')


@pytest.mark.parametrize(
    ("remote", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.6", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.244.0.9", False),
        ("fd00::9", False),
        ("::ffff:10.244.0.9", False),
        ("", False),
    ],
)
def test_who_may_end_the_agent(remote: str, *, local: bool) -> None:
    request = make_mocked_request("POST", "/quitquitquit").clone(remote=remote)
    assert is_local(request) is local


async def test_a_port_that_is_taken_is_one_sentence() -> None:
    async with served() as made:
        second = Served({})
        with pytest.raises(OutsideError, match=str(made.port)):
            await second.server.start(made.port, host="127.0.0.1")
        await second.http.close()


async def test_an_http_probe_is_passed_on_with_its_headers() -> None:
    seen: list[Any] = []

    async def health(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Host"), request.headers.get("X-Own"), request.remote))
        return web.Response(status=418, text="short and stout")

    async with application(health=health) as port:
        probe = {
            "httpGet": {
                "path": "/health",
                "port": port,
                "httpHeaders": [{"name": "Host", "value": "web"}],
            }
        }
        async with served({"/app-health/web/readyz": probe}) as made:
            answer = await made.get("/app-health/web/readyz", headers={"X-Own": "1"})
            assert answer == (418, "short and stout")
            assert (await made.get("/app-health/web/livez"))[0] == 404
    assert seen == [("web", "1", "127.0.0.6")]


async def test_redirects_are_followed_on_the_same_host_only() -> None:
    async def inside(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/health"})

    async def outside(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://198.51.100.1/"})

    async def around(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/around"})

    async with application(
        inside=inside, outside=outside, around=around, health=answering("", status=204)
    ) as port:
        probers = {
            f"/app-health/{name}/livez": {"httpGet": {"path": f"/{name}", "port": port}}
            for name in ("inside", "outside", "around")
        }
        async with served(probers) as made:
            assert (await made.get("/app-health/inside/livez"))[0] == 204
            assert (await made.get("/app-health/outside/livez"))[0] == 200
            assert (await made.get("/app-health/around/livez"))[0] == 500


async def test_a_tcp_probe_connects() -> None:
    async with application() as port:
        probers = {
            "/app-health/up/livez": {"tcpSocket": {"port": port}},
            "/app-health/down/livez": {"tcpSocket": {"port": free_port()}},
        }
        async with served(probers) as made:
            assert (await made.get("/app-health/up/livez"))[0] == 200
            assert (await made.get("/app-health/down/livez"))[0] == 500


async def test_a_slow_application_fails_its_probe_in_time() -> None:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with application(slow=slow) as port:
        probe = {"httpGet": {"path": "/slow", "port": port}, "timeoutSeconds": 1}
        async with served({"/app-health/a/livez": probe}) as made:
            status, text = await made.get("/app-health/a/livez")
    assert (status, "1 s" in text) == (500, True)


@pytest.mark.parametrize(("answer", "status"), [(b"\x08\x01", 200), (b"\x08\x02", 500), (b"", 500)])
async def test_a_grpc_probe_asks_for_the_health_of_its_service(answer: bytes, status: int) -> None:
    asked: list[bytes] = []

    def check(request: bytes, _context: Any) -> bytes:
        asked.append(request)
        return answer

    class Health(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, details: Any) -> Any:
            if details.method == "/grpc.health.v1.Health/Check":
                return grpc.unary_unary_rpc_method_handler(check)
            return None

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Health(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        probe = {"grpc": {"port": port, "service": "web"}, "timeoutSeconds": 5}
        async with served({"/app-health/a/readyz": probe}) as made:
            assert (await made.get("/app-health/a/readyz"))[0] == status
    finally:
        await server.stop(0)
    assert asked == [b"\x0a\x03web"]


@pytest.mark.parametrize("entry", [{"httpGet": {}}, {}, {"tcpSocket": {"port": "http"}}])
def test_a_broken_table_of_probes_is_refused_by_name(entry: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="/app-health/a/livez"):
        parse_probers({"/app-health/a/livez": entry})


async def test_metrics_of_all_three_are_one_page() -> None:
    envoys_page: dict[str, Handler] = {"stats/prometheus": answering("envoy_requests 3")}
    async with (
        application(metrics=answering("app_requests 7\n")) as port,
        application(**envoys_page) as envoy,
        served(metrics=ApplicationMetrics(port=port, path="/metrics")) as made,
    ):
        made.admin.address = SocketAddress(host="127.0.0.1", port=envoy)
        async with made.http.get("/stats/prometheus") as answer:
            text = await answer.text()
            content_type = answer.headers["Content-Type"]
    lines = text.splitlines()
    assert "envoy_requests 3" in lines
    assert "app_requests 7" in lines
    assert "istio_agent_scrapes_total 1.0" in lines
    assert content_type.startswith("text/plain")


async def test_open_metrics_of_the_application_end_the_page() -> None:
    page = answering("app 1\n# EOF\n", content_type="application/openmetrics-text")
    async with (
        application(metrics=page) as port,
        served(metrics=ApplicationMetrics(port=port, path="/metrics")) as made,
        made.http.get("/stats/prometheus") as answer,
    ):
        text = await answer.text()
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("app 1\n# EOF\n")
    assert text.count("# EOF") == 1


async def test_what_cannot_be_scraped_is_counted_and_the_rest_is_there() -> None:
    metrics = ApplicationMetrics(port=free_port(), path="/metrics")
    async with served(metrics=metrics) as made:
        status, _ = await made.get("/stats/prometheus")
        assert status == 200
        _, text = await made.get("/stats/prometheus")
    assert 'istio_agent_scrape_failures_total{type="application"}' in text
    assert 'istio_agent_scrape_failures_total{type="envoy"}' in text


@pytest.mark.parametrize(
    ("clusters", "listeners", "rejected", "said"),
    [
        (0, 0, 0, "no CDS and LDS from the control plane yet"),
        (1, 0, 0, "no LDS from the control plane yet"),
        (1, 0, 1, "Envoy rejected the control plane's LDS"),
        (1, 1, 5, ""),
    ],
)
def test_what_is_missing_of_the_first_configuration(
    clusters: int, listeners: int, rejected: int, said: str
) -> None:
    assert first_updates(clusters=clusters, listeners=listeners, rejected=rejected) == said


async def test_a_proxy_without_envoy_or_that_drains_is_not_ready() -> None:
    async with AdminClient(SocketAddress(host="127.0.0.1", port=free_port())) as admin:
        readiness = Readiness(admin)
        assert await readiness.reason() == "Envoy does not answer yet"
        readiness.draining = True
        assert await readiness.reason() == "the proxy is draining"


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("listener.0.0.0.0_15006.downstream_cx_active", True),
        ("listener.[__]_15006.downstream_cx_active", True),
        ("listener.10.96.0.1_9080.downstream_cx_active", True),
        ("listener.0.0.0.0_15021.downstream_cx_active", False),
        ("listener.0.0.0.0_15090.downstream_cx_active", False),
        ("listener.admin.downstream_cx_active", False),
        ("listener.admin.main_thread.downstream_cx_active", False),
        ("listener.0.0.0.0_15006.worker_0.downstream_cx_active", False),
        ("listener.0.0.0.0_15006.downstream_cx_total", False),
    ],
)
def test_which_connections_hold_up_the_end(name: str, *, counted: bool) -> None:
    assert counts(name, frozenset({15021, 15090})) is counted
