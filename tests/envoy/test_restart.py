"""The control plane may die: requests go on, and its return changes nothing in an Envoy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from controlplane.agent.envoy import Envoy
from tests.envoy.harness import Bed, bed, eventually, virtual_hosts
from tests.envoy.traffic import Backend, Caller, Load, backends

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

REBUILT = (
    r"^cluster_manager\.cluster_(added|modified|removed|updated)$"
    r"|^listener_manager\.listener_(added|modified|removed|create_success|in_place_updated)$"
    r"|^http\..*\.rds\..*\.config_reload$"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[True, False])
async def mesh(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    async with bed() as made:
        made.copy("virtual-service-reviews-90-10.yaml", "reviews.yaml")
        await made.sidecar(delta=request.param)
        await made.gateway(delta=request.param)
        await made.settled()
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apps(mesh: Bed) -> AsyncIterator[dict[str, Backend]]:
    async with backends(mesh.layout) as made:
        yield made


async def versions(envoy: Envoy) -> dict[str, Any]:
    """The version of every cluster, listener and route configuration that an Envoy runs."""
    found: dict[str, Any] = {}
    for entry in await envoy.admin.config_dump("dynamic_active_clusters"):
        found[f"cluster {entry['cluster']['name']}"] = entry["version_info"]
    for entry in await envoy.admin.config_dump("dynamic_listeners"):
        found[f"listener {entry['name']}"] = entry["active_state"]["version_info"]
    for entry in await envoy.admin.config_dump("dynamic_route_configs"):
        found[f"route {entry['route_config']['name']}"] = entry["version_info"]
    return found


async def connections(envoy: Envoy) -> int:
    """How many streams an Envoy has opened to a control plane so far."""
    stats = await envoy.admin.stats(r"^cluster\.xds-grpc;?\.upstream_rq_total$")
    return sum(stats.values())


async def test_a_killed_control_plane_fails_no_request_and_rebuilds_nothing(
    mesh: Bed, apps: dict[str, Backend]
) -> None:
    envoys = list(mesh.envoys.values())
    async with (
        Caller(mesh.layout.service_port) as inside,
        Caller(mesh.layout.gateway_port) as outside,
    ):
        calls = Load(inside, f"reviews:{mesh.layout.service_port}")
        pages = Load(outside, "bookinfo.example.com", path="/productpage")
        await calls.reach(200)
        counters = [await envoy.admin.stats(REBUILT) for envoy in envoys]
        before = [await versions(envoy) for envoy in envoys]
        await mesh.control_plane.kill()
        await calls.reach(len(calls.outcomes) + 400)
        await mesh.start_control_plane()
        await mesh.settled()
        await calls.reach(len(calls.outcomes) + 400)
        seen, shown = await calls.stop(), await pages.stop()
    assert set(seen) == {"reviews-v1", "reviews-v2"}, seen
    assert set(shown) == {"productpage-v1"}, shown
    assert [await versions(envoy) for envoy in envoys] == before
    assert [await envoy.admin.stats(REBUILT) for envoy in envoys] == counters
    for envoy in envoys:
        assert await connections(envoy) >= 2, "the Envoy never came back, so nothing is proved"


async def test_what_changed_while_it_was_away_arrives_after_the_restart(mesh: Bed) -> None:
    sidecar = mesh.envoys["sidecar"]
    before = await virtual_hosts(sidecar)
    await mesh.control_plane.kill()
    mesh.copy("virtual-service-reviews-v3.yaml", "reviews.yaml")
    await mesh.start_control_plane()
    await eventually(
        lambda: virtual_hosts(sidecar), lambda now: now != before, what="the routes of v3"
    )
    await mesh.settled()
