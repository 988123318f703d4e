"""The life of an agent and its Envoy, against a real control plane on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.envoy.harness import bed, eventually, free_ports
from tests.mesh.agent_support import PROXY_ID, SLOWNESS, AgentProcess, agent, ids_of, is_running

pytestmark = [pytest.mark.envoy]


async def answers(made: AgentProcess, status: int, *, seconds: float = 30.0) -> float:
    """Wait until the health port answers a status, and return how many seconds that took."""
    started = time.monotonic()
    await eventually(
        made.health, lambda seen: seen[0] == status, seconds=seconds, what=f"{status} at 15021"
    )
    return time.monotonic() - started


async def test_ready_serving_and_as_another_user() -> None:
    async with bed() as made, agent(made.layout.grpc) as proxy:
        await answers(proxy, 200)
        pid = proxy.envoy_pid
        assert is_running(pid)
        if os.geteuid() == 0:
            assert ids_of(pid) == (PROXY_ID, PROXY_ID)
            # Root still, but in the proxy's group: what the agent sends is not captured.
            assert ids_of(proxy.child.pid) == (0, PROXY_ID)
        _, page = await proxy.get(proxy.status_port, "/stats/prometheus")
        assert "envoy_server_live" in page
        assert "istio_agent_startup_duration_seconds" in page


async def test_envoy_killed_is_back_within_two_seconds() -> None:
    async with bed() as made, agent(made.layout.grpc) as proxy:
        await answers(proxy, 200)
        for _ in range(2):
            first = proxy.envoy_pid
            os.kill(first, signal.SIGKILL)
            await eventually(
                lambda pid=first: _is_new(proxy, pid),  # type: ignore[misc]
                bool,
                seconds=2 * SLOWNESS,
                what="another Envoy",
            )
            assert await answers(proxy, 200, seconds=2 * SLOWNESS) < 2 * SLOWNESS
        assert proxy.log.count("envoy_ended") == 2
        assert proxy.child.returncode is None


async def _is_new(proxy: AgentProcess, pid: int) -> bool:
    return proxy.envoy_pid != pid


async def test_agent_killed_leaves_no_orphan() -> None:
    async with bed() as made, agent(made.layout.grpc) as proxy:
        await answers(proxy, 200)
        pid = proxy.envoy_pid
        await proxy.child.kill()
        await eventually(
            lambda: asyncio.sleep(0, is_running(pid)), lambda alive: not alive, seconds=2 * SLOWNESS
        )


async def test_an_agent_and_its_envoy_end_with_whoever_started_the_agent() -> None:
    async with bed() as made:
        starter = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
        prefix = (sys.executable, "-c", starter, "setpriv", "--pdeathsig=KILL")
        async with agent(made.layout.grpc, prefix=prefix) as proxy:
            await answers(proxy, 200)
            family = [proxy.envoy_pid, *children_of(proxy.child.pid)]
            assert all(map(is_running, family))
            await proxy.child.kill()
            await eventually(
                lambda: asyncio.sleep(0, any(map(is_running, family))),
                lambda alive: not alive,
                seconds=2 * SLOWNESS,
            )


@pytest.mark.netns
async def test_as_process_one_it_takes_leave_of_orphans() -> None:
    async with bed() as made:
        prefix = ("unshare", "--pid", "--fork", "--kill-child")
        async with agent(made.layout.grpc, prefix=prefix) as proxy:
            await answers(proxy, 200)
            (outside,) = children_of(proxy.child.pid)
            # The child of a shell that ends first becomes a child of process 1.
            words = (
                "nsenter",
                "--target",
                str(outside),
                "--pid",
                "sh",
                "-c",
                "sleep 0.5 & sleep 0.1",
            )
            shell = await asyncio.create_subprocess_exec(*words)
            await shell.wait()
            assert len(children_of(outside)) == 2
            await eventually(
                lambda: _children(outside), lambda found: len(found) == 1, seconds=3 * SLOWNESS
            )
            assert is_running(children_of(outside)[0])
            assert "envoy_ended" not in proxy.log
            os.kill(outside, signal.SIGTERM)
            assert await asyncio.wait_for(proxy.child.wait(), 30) == 0


def children_of(pid: int) -> list[int]:
    """The direct children of a process, ended ones that nobody has taken leave of included."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _children(pid: int) -> list[int]:
    return children_of(pid)


async def test_a_control_plane_that_comes_late_is_waited_for() -> None:
    async with bed() as made:
        await made.control_plane.stop()
        async with agent(made.layout.grpc) as proxy:
            reason = "no CDS and LDS from the control plane yet\n"
            await eventually(proxy.own_health, lambda seen: seen == (503, reason))
            assert (await proxy.health())[0] != 200
            await asyncio.sleep(4)
            assert (await proxy.own_health())[0] == 503
            assert proxy.log.count("control_plane_unreachable") == 1
            assert "Connection refused" in proxy.log
            await made.start_control_plane()
            assert await answers(proxy, 200) < 5 * SLOWNESS


async def test_a_lost_control_plane_is_said_once_and_changes_nothing() -> None:
    async with bed() as made, agent(made.layout.grpc) as proxy:
        await answers(proxy, 200)
        await eventually(lambda: _log(proxy), lambda log: "control_plane_connected" in log)
        before = await proxy.admin.stats(r"^listener_manager\.total_listeners_active$")
        await made.control_plane.kill()
        await eventually(lambda: _log(proxy), lambda log: "control_plane_unreachable" in log)
        await asyncio.sleep(2.5)
        assert proxy.log.count("control_plane_unreachable") == 1
        assert (await proxy.health())[0] == 200
        assert await proxy.admin.stats(r"^listener_manager\.total_listeners_active$") == before
        await made.start_control_plane()
        await eventually(lambda: _log(proxy), lambda log: log.count("control_plane_connected") == 2)
        assert proxy.log.count("envoy_started") == 1


async def _log(proxy: AgentProcess) -> str:
    return proxy.log


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_agent_at_once(how: signal.Signals) -> None:
    async with bed() as made, agent(made.layout.grpc, "--drainDuration", "20s") as proxy:
        await answers(proxy, 200)
        pid = proxy.envoy_pid
        started = time.monotonic()
        os.kill(proxy.child.pid, how)
        assert await asyncio.wait_for(proxy.child.wait(), 30) == 0
        assert time.monotonic() - started < 3 * SLOWNESS
        assert not is_running(pid)
        assert "drain_ended" in proxy.log
        assert "Traceback" not in proxy.log


async def test_the_drain_takes_its_minimum_and_is_not_ready_meanwhile() -> None:
    async with bed() as made:
        environment = {"MINIMUM_DRAIN_DURATION": "2s"}
        async with agent(made.layout.grpc, environment=environment) as proxy:
            await answers(proxy, 200)
            started = time.monotonic()
            os.kill(proxy.child.pid, signal.SIGTERM)
            await eventually(
                proxy.own_health,
                lambda seen: seen == (503, "the proxy is draining\n"),
                seconds=1 * SLOWNESS,
            )
            assert await asyncio.wait_for(proxy.child.wait(), 30) == 0
            assert 2 <= time.monotonic() - started < 5 * SLOWNESS


async def test_quitquitquit_drains_and_ends() -> None:
    async with bed() as made, agent(made.layout.grpc) as proxy:
        await answers(proxy, 200)
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"http://127.0.0.1:{proxy.status_port}/quitquitquit") as answer,
        ):
            assert answer.status == 200
        assert await asyncio.wait_for(proxy.child.wait(), 30) == 0


async def test_the_gateway_finishes_what_it_has_begun() -> None:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/slow", slow)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    async with bed() as made:
        layout = made.layout
        host = f"{layout.prefix}99"
        await web.TCPSite(runner, host, layout.service_port).start()
        made.write("slow.yaml", SLOW.format(host=host, port=layout.service_port))
        environment = {
            "POD_NAMESPACE": "istio-system",
            "INSTANCE_IP": f"{layout.prefix}10",
            "ISTIO_METAJSON_LABELS": '{"app":"istio-ingressgateway","istio":"ingressgateway"}',
        }
        try:
            async with (
                agent(
                    layout.grpc,
                    *("--drainDuration", "20s"),
                    name="istio-ingressgateway",
                    role="router",
                    environment=environment,
                ) as proxy,
                aiohttp.ClientSession() as http,
            ):
                await answers(proxy, 200)
                url = f"http://127.0.0.1:{layout.gateway_port}/slow"

                async def ask() -> tuple[int, str]:
                    async with http.get(url, headers={"Host": "slow.example.com"}) as answer:
                        return answer.status, await answer.text()

                assert await ask() == (200, "done")
                request = asyncio.create_task(ask())
                await asyncio.sleep(0.5)
                os.kill(proxy.child.pid, signal.SIGTERM)
                assert await request == (200, "done")
                assert await asyncio.wait_for(proxy.child.wait(), 30) == 0
        finally:
            await runner.cleanup()


SLOW = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: slow, namespace: istio-system}}
spec:
  hosts: [slow.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{{address: {host}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: slow, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [slow.example.com]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: slow, namespace: istio-system}}
spec:
  hosts: [slow.example.com]
  gateways: [slow]
  http: [{{route: [{{destination: {{host: slow.example.com, port: {{number: 80}}}}}}]}}]
"""


async def test_a_taken_status_port_is_one_sentence() -> None:
    port = free_ports(1)[0]
    server = await asyncio.start_server(lambda *_: None, "0.0.0.0", port)
    try:
        async with bed() as made, agent(made.layout.grpc, "--statusPort", str(port)) as proxy:
            assert await asyncio.wait_for(proxy.child.wait(), 30) == 1
            assert f"Error: the status port {port} cannot be opened" in proxy.log
            assert "Traceback" not in proxy.log
    finally:
        server.close()
