"""Every Envoy takes every example file and settles: nothing is rejected, nothing warms for ever.

One gateway, one sidecar of mode NONE and one of mode REDIRECT, each with both protocols, stay
running while the files are swapped. Envoy shares a port between processes, so the two of a kind may
listen on the same ones: they get no traffic here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.envoy.harness import (
    EXERCISES,
    Bed,
    assert_settled,
    bed,
    eventually,
    free_ports,
    listener_names,
    virtual_hosts,
)

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SIDECARS = ("sidecar-delta", "sidecar-sotw", "redirected-delta", "redirected-sotw")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Bed]:
    outbound, inbound = free_ports(2)
    ports = f"proxyListenPort: {outbound}\nproxyInboundListenPort: {inbound}\n"
    async with bed(mesh_config=ports) as made:
        for protocol, delta in (("delta", True), ("sotw", False)):
            await made.gateway(f"gateway-{protocol}", delta=delta)
            await made.sidecar(f"sidecar-{protocol}", delta=delta)
            await made.redirected(f"redirected-{protocol}", delta=delta)
        await made.settled()
        yield made


async def routing(mesh: Bed, name: str) -> dict[str, Any]:
    """The virtual hosts of the services in the namespace of the sidecars."""
    found = await virtual_hosts(mesh.envoys[name])
    return {host: value for host, value in found.items() if ".default.svc." in host}


async def test_every_kind_of_envoy_settles_with_the_base_files(mesh: Bed) -> None:
    for envoy in mesh.envoys.values():
        await assert_settled(envoy)


async def test_a_redirected_sidecar_takes_both_capture_listeners(mesh: Bed) -> None:
    for name in ("redirected-delta", "redirected-sotw"):
        names = await listener_names(mesh.envoys[name])
        port = mesh.layout.service_port
        assert {"virtualOutbound", "virtualInbound", f"0.0.0.0_{port}"} <= names


async def test_a_sidecar_without_capture_listens_on_the_loopback_interface_only(mesh: Bed) -> None:
    for name in ("sidecar-delta", "sidecar-sotw"):
        assert await listener_names(mesh.envoys[name]) == {f"127.0.0.1_{mesh.layout.service_port}"}


async def test_the_gateway_listens_on_the_target_port_of_its_service(mesh: Bed) -> None:
    for name in ("gateway-delta", "gateway-sotw"):
        assert await listener_names(mesh.envoys[name]) == {f"0.0.0.0_{mesh.layout.gateway_port}"}


@pytest.mark.parametrize("exercise", EXERCISES)
async def test_every_envoy_settles_with(mesh: Bed, exercise: str) -> None:
    before = {name: await routing(mesh, name) for name in SIDECARS}
    mesh.copy(exercise, "exercise.yaml")

    async def now() -> dict[str, Any]:
        return {name: await routing(mesh, name) for name in SIDECARS}

    await eventually(
        now,
        lambda seen: all(seen[name] != before[name] for name in SIDECARS),
        what=f"every sidecar routes by {exercise}",
    )
    await mesh.settled()
    after = await now()
    assert after["sidecar-delta"] == after["sidecar-sotw"]
    assert after["redirected-delta"] == after["redirected-sotw"]


async def test_every_envoy_settles_with_all_files_at_once(mesh: Bed) -> None:
    (mesh.live / "exercise.yaml").unlink(missing_ok=True)
    for exercise in EXERCISES:
        mesh.copy(exercise, exercise)
    try:
        await eventually(
            mesh.findings,
            lambda found: any("reviews" in finding.get("origin", "") for finding in found),
            what="a finding about VirtualServices that claim one name",
        )
        await mesh.settled()
    finally:
        for exercise in EXERCISES:
            mesh.remove(exercise)


async def test_every_envoy_settles_when_the_subsets_go_and_come_back(mesh: Bed) -> None:
    rules = (mesh.live / "networking" / "destination-rule-all.yaml").read_text()
    sidecar = mesh.envoys["sidecar-delta"]

    async def clusters() -> set[str]:
        return {entry["name"] for entry in await sidecar.admin.clusters()}

    subset = f"outbound|{mesh.layout.service_port}|v2|reviews.default.svc.cluster.local"
    await eventually(clusters, lambda names: subset in names, what="the subset v2")
    mesh.remove("networking/destination-rule-all.yaml")
    await eventually(clusters, lambda names: subset not in names, what="no subset v2")
    await mesh.settled()
    mesh.write("networking/destination-rule-all.yaml", rules)
    await eventually(clusters, lambda names: subset in names, what="the subset v2 again")
    await mesh.settled()
