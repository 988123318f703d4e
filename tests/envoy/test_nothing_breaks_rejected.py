"""What an Envoy rejects: it is found, tied to its object, and nothing else stands still."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner

from controlplane.cli.wait import wait
from tests.envoy.chaos_support import (
    SECONDS,
    ChaosMesh,
    Document,
    base,
    chaos_mesh,
    endpoint_slice,
    service,
    virtual_service,
)
from tests.envoy.harness import eventually

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

wait_app = typer.Typer()
wait_app.command()(wait)
numbers = itertools.count(1)


def too_large() -> tuple[list[dict[str, Any]], str]:
    """A match by a regular expression that only RE2 can judge, and what an Envoy says to it.

    Each is another, because what was rejected once is not sent again.
    """
    regex = "\\pN{1000}" * 40 + f"x{next(numbers)}"
    return [{"uri": {"regex": regex}}], f"regex '{regex}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[ChaosMesh]:
    async with chaos_mesh(interposed=True) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def mesh(running: ChaosMesh) -> AsyncIterator[ChaosMesh]:
    yield running
    assert running.interposer is not None
    running.interposer.keep_back_endpoints("")
    running.clear()
    # An answer that was swallowed is never acknowledged; a newer one is.
    base(running, endpoints=3)
    await asyncio.sleep(0.3)
    base(running)
    await asyncio.sleep(0.3)
    await synced(running)


async def synced(mesh: ChaosMesh) -> None:
    """Wait until every proxy is SYNCED again; what Envoys count stays as it was."""

    async def others() -> list[str]:
        return [
            f"{status['connection_id']} {url.rpartition('.')[2]} {watch['status']}"
            for status in await mesh.bed.debug("syncz")
            for url, watch in status["resources"].items()
            if watch["status"] != "SYNCED"
        ]

    await eventually(others, lambda found: not found, what="proxies that are SYNCED")


def rounds() -> Iterator[int]:
    """Count until the time is over."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


def victim(mesh: ChaosMesh, port: int, **fields: Any) -> list[Document]:
    """A service with a route of its own, rejected by Envoys when `fields` say so."""
    return [
        service("victim", port),
        endpoint_slice("victim", mesh.addresses[4:5], mesh.port),
        virtual_service("victim", "victim", {"host": "victim", "port": {"number": port}}, **fields),
    ]


async def rejections(mesh: ChaosMesh) -> list[dict[str, Any]]:
    """All rejections that stand, with the proxy."""
    return [
        {**rejection, "proxy": status["proxy"], "delta": status["delta"]}
        for status in await mesh.bed.debug("syncz")
        for rejection in status["rejections"]
    ]


async def is_rejected(mesh: ChaosMesh, number: int = 4) -> list[dict[str, Any]]:
    """Wait until so many Envoys are known to have rejected something."""
    return await eventually(
        lambda: rejections(mesh), lambda found: len(found) >= number, what=f"{number} rejections"
    )


async def metric(mesh: ChaosMesh, name: str) -> float:
    """The sum of a metric over its labels."""
    url = f"http://{mesh.bed.layout.monitoring}/metrics"
    async with mesh.bed.http.get(url) as answer:
        lines = (await answer.text()).splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((name + "{", name + " "))
    )


async def pylot(mesh: ChaosMesh, *words: str) -> tuple[int, str]:
    """Run a live command against the control plane; its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controlplane", *words),
        *("--control-plane", f"http://{mesh.bed.layout.http}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


async def waited(mesh: ChaosMesh, target: str, limit: str = "20s") -> tuple[int, str]:
    """Run `pylot wait`; its exit code and output."""
    url = f"http://{mesh.bed.layout.http}"
    words = [target, "--timeout", limit, "--control-plane", url]
    result = await asyncio.to_thread(CliRunner().invoke, wait_app, words)
    return result.exit_code, result.output


async def test_a_rejected_object_comes_and_goes(mesh: ChaosMesh) -> None:
    rejected = await metric(mesh, "pilot_total_xds_rejects")
    async with mesh.load():
        for number in rounds():
            port = mesh.port if number % 2 else mesh.other_port
            match, _ = too_large()
            mesh.write("victim.yaml", *victim(mesh, port, match=match))
            await asyncio.sleep(random.uniform(0.1, 1.0))
            mesh.write("victim.yaml")
            await asyncio.sleep(random.uniform(0.1, 0.5))
    assert await metric(mesh, "pilot_total_xds_rejects") >= rejected + 4


async def test_a_rejected_object_comes_and_goes_while_a_cluster_warms(mesh: ChaosMesh) -> None:
    assert mesh.interposer is not None
    mesh.interposer.keep_back_endpoints("||cold")
    async with mesh.load():
        for number in rounds():
            name = f"cold-{number}"
            mesh.write(
                "cold.yaml",
                service(name, mesh.port),
                endpoint_slice(name, mesh.addresses[5:6], mesh.port),
            )
            match, _ = too_large()
            mesh.write("victim.yaml", *victim(mesh, mesh.port, match=match))
            await asyncio.sleep(random.uniform(0.3, 1.0))
            mesh.write("victim.yaml")
            await asyncio.sleep(random.uniform(0.1, 0.5))
        assert mesh.interposer.kept, "nothing was kept back, so nothing was warming"
        mesh.interposer.keep_back_endpoints("")
        mesh.write("cold.yaml")
        await asyncio.sleep(1)


async def test_routes_move_on_while_a_cluster_warms_for_ever_and_others_come(
    mesh: ChaosMesh,
) -> None:
    """No Envoy acknowledges clusters then; each route waits for its own five seconds at most."""
    assert mesh.interposer is not None
    mesh.interposer.keep_back_endpoints("||cold")
    mesh.write(
        "cold.yaml",
        service("cold", mesh.port),
        endpoint_slice("cold", mesh.addresses[5:6], mesh.port),
    )
    wanted: dict[str, float] = {}

    async def late() -> list[str]:
        """Which Envoys lack a route that was wanted so long ago."""
        due = [name for name, since in wanted.items() if since + 7 < time.monotonic()]
        found = []
        for envoy_name, envoy in mesh.bed.envoys.items():
            text = json.dumps(await envoy.admin.config_dump("dynamic_route_configs"))
            found += [f"{envoy_name} lacks {name}" for name in due if f"||{name}." not in text]
        return found

    async with mesh.load() as loads:
        for number in range(int(max(10, SECONDS))):
            name = f"new-{number}"
            made = [
                service(name, mesh.port),
                endpoint_slice(name, mesh.addresses[4:5], mesh.port),
                virtual_service(name, name, {"host": name}),
            ]
            wanted[name] = time.monotonic()
            mesh.write(f"{name}.yaml", *made)
            # What goes to known clusters does not wait at all.
            mesh.route({"host": "front"}, timeout=f"{10 + number}s")
            await eventually(
                partial(mesh.lacking, f'"timeout": "{10 + number}s"'),
                lambda names: not names,
                seconds=4,
                what="the newest timeout",
            )
            await asyncio.sleep(1)
            assert not await late()
    assert mesh.interposer.kept, "nothing was kept back, so nothing was warming"
    for load in loads:
        assert set(load.seen) == {"backend-0", "backend-1"}


async def test_the_control_plane_is_killed_while_an_object_stands_rejected(
    mesh: ChaosMesh,
) -> None:
    """It comes back knowing nothing, finds the culprit again, and takes nothing from the rest."""
    match, message = too_large()
    destination = {"host": "bad", "port": {"number": mesh.port}}
    mesh.write(
        "bad.yaml",
        service("bad", mesh.port),
        virtual_service("bad", "bad", destination, match=match),
        # Others of the same route configuration, so that the culprit is not found at once.
        *(service(f"calm-{number}", mesh.port) for number in range(10)),
    )
    await is_rejected(mesh)
    async with mesh.load():
        for number in range(1 if SECONDS < 10 else 8):
            await mesh.bed.control_plane.kill()
            await mesh.bed.start_control_plane()
            found = await is_rejected(mesh)
            assert all(message in rejection["message"] for rejection in found)
            assert {"VirtualService default/bad"} == {
                name for rejection in found for name in rejection["objects"] if "Virtual" in name
            }
            # What is not guilty moves on.
            mesh.route({"host": "front"}, timeout=f"{20 + number}s")
            await eventually(
                partial(mesh.lacking, f'"timeout": "{20 + number}s"'),
                lambda names: not names,
                what="the newest timeout",
            )


async def test_a_rejection_is_shown_everywhere_and_lifted_when_mended(mesh: ChaosMesh) -> None:
    before = await metric(mesh, "pilot_total_xds_rejects")
    match, message = too_large()
    # Routers have but one route configuration, so there it is shared with `front`.
    mesh.write("victim.yaml", *victim(mesh, mesh.other_port, match=match))
    for rejection in await is_rejected(mesh):
        assert "VirtualService default/victim" in rejection["objects"]
        assert "VirtualService default/front" not in rejection["objects"]
        assert rejection["type"] == "RDS"
        assert message in rejection["message"]
    findings = [item for item in await mesh.bed.findings() if item["code"] == "RejectedByEnvoy"]
    assert {"VirtualService default/victim"} <= {item["origin"] for item in findings}
    assert all(message in item["message"] and item["file"] for item in findings), findings
    assert await metric(mesh, "pilot_total_xds_rejects") >= before + 2
    assert await metric(mesh, "pilot_xds_rds_reject") == 4
    code, shown = await pylot(mesh, "proxy-status")
    assert code == 0
    assert shown.count("REJECTED   ") == 4, shown
    assert "REJECTED by " in shown
    assert "made by" in shown
    assert "VirtualService default/victim" in shown
    assert message in shown
    code, shown = await waited(mesh, "virtualservice/victim")
    assert code == 1
    assert "was rejected" in shown
    assert message in shown
    await still(mesh)
    mesh.write("victim.yaml", *victim(mesh, mesh.other_port))
    await eventually(lambda: rejections(mesh), lambda found: not found, what="no rejection")
    await synced(mesh)
    assert not [item for item in await mesh.bed.findings() if item["code"] == "RejectedByEnvoy"]
    assert (await waited(mesh, "virtualservice/victim"))[0] == 0


async def still(mesh: ChaosMesh) -> None:
    """Nothing is sent again and again: the count of rejections stays as it is."""
    before = await metric(mesh, "pilot_total_xds_rejects")
    await asyncio.sleep(1.5)
    assert await metric(mesh, "pilot_total_xds_rejects") == before


@pytest.mark.parametrize("together", [False, True])
async def test_everything_else_moves_on_beside_a_rejected_object(
    mesh: ChaosMesh, together: bool
) -> None:
    """Also what shares the port, and thereby the route configuration, with it."""
    match, _ = too_large()
    mesh.write(
        "victim.yaml", *victim(mesh, mesh.port if together else mesh.other_port, match=match)
    )
    await is_rejected(mesh)
    mesh.route(
        {"host": "fresh"},
        service("fresh", mesh.port),
        endpoint_slice("fresh", mesh.addresses[5:6], mesh.port),
    )
    sidecars = [envoy for name, envoy in mesh.bed.envoys.items() if name.startswith("sidecar")]

    async def routes() -> list[str]:
        return [
            json.dumps(await envoy.admin.config_dump("dynamic_route_configs")) for envoy in sidecars
        ]

    await eventually(
        routes, lambda found: all("||fresh." in text for text in found), what="the new route"
    )
    async with mesh.load() as (inside, _):
        await asyncio.sleep(1)
    assert set(inside.seen) == {"backend-5"}


async def test_wait_ends_when_every_envoy_runs_the_object(mesh: ChaosMesh) -> None:
    for number in range(8):
        name = f"awaited-{number}"
        mesh.route(
            {"host": name},
            service(name, mesh.port),
            endpoint_slice(name, mesh.addresses[5:6], mesh.port),
        )
        for target in ("vs/front", f"Service/{name}.default"):
            code, shown = await waited(mesh, target)
            assert code == 0, shown
            assert "acknowledged by 4 proxies" in shown
        for envoy in mesh.bed.envoys.values():
            assert f"||{name}." in json.dumps(
                await envoy.admin.config_dump("dynamic_route_configs")
            )
    newest = (await mesh.bed.debug("journal", object="VirtualService/front.default"))[0]
    assert {"type", "name", "old", "new"} == set(newest["resources"][0])
    assert newest["objects"][-1]["source"].startswith("/")
    assert len(newest["proxies"]) == 4
    assert all(proxy["ackSeconds"] < 5 for proxy in newest["proxies"])


async def test_a_cluster_that_warms_too_long_is_named(mesh: ChaosMesh) -> None:
    assert mesh.interposer is not None
    before = await metric(mesh, "pylot_xds_warming_timeouts")
    mesh.interposer.keep_back_endpoints("||frozen")
    started = time.monotonic()
    mesh.route(
        {"host": "frozen"},
        service("frozen", mesh.port),
        endpoint_slice("frozen", mesh.addresses[5:6], mesh.port),
    )
    code, shown = await waited(mesh, "Service/frozen.default", "1s")
    assert code == 1
    assert "has not acknowledged" in shown
    assert "bookinfo.default" in shown

    async def log() -> list[str]:
        return [
            line
            for line in mesh.bed.log.splitlines()
            if "ads.warming" in line and "||frozen" in line
        ]

    lines = await eventually(log, lambda found: len(found) >= 4, seconds=20, what="a warning")
    assert time.monotonic() - started > 4.5
    assert all(f"outbound|{mesh.port}||frozen.default.svc" in line for line in lines)
    assert await metric(mesh, "pylot_xds_warming_timeouts") == before + 4
