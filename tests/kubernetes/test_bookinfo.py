"""Bookinfo in a cluster with kubectl as the only input."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
import yaml

from controlplane.demo.exercises import EXERCISES, judge
from controlplane.demo.layout import bookinfo_directory
from controlplane.translate.resources import ResourceType
from tests.envoy.harness import eventually
from tests.kubernetes.bookinfo import KubernetesBookinfo
from tests.kubernetes.installation import mesh_config
from tests.kubernetes.node_bed import XDS, node_bed
from tests.kubernetes.wire import node_of, rendered, served

ROUNDS: Final = int(os.environ.get("PYLOT_SOAK") or 1)

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.controllers,
    pytest.mark.netns,
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300 * ROUNDS),  # the first test waits for everything to start
]

# It takes six seconds, which other tests spend as well.
SLOW: Final = "delay of 7 s"
BOOKINFO: Final = bookinfo_directory()
UPDATES: Final = (
    r"^listener_manager\.listener_(added|modified|removed|in_place_updated)$"
    r"|^cluster_manager\.cluster_(added|modified|removed)$|\.rds\..*\.config_reload$"
)
# How the pods of a Deployment are injected after it was rolled.
OTHERWISE: Final[Mapping[str, Mapping[str, str]]] = {
    "details": {"sidecar.istio.io/interceptionMode": "TPROXY"},
    "productpage": {"sidecar.istio.io/nativeSidecar": "false"},
}
KINDS: Final = (
    *("namespaces", "nodes", "pods", "services", "endpointslices"),
    *("destinationrules", "gateways.networking.istio.io", "virtualservices"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[KubernetesBookinfo]:
    """Bookinfo that the tests of this module share: leave it as it was found."""
    async with node_bed() as bed:
        mesh = KubernetesBookinfo(bed)
        try:
            await mesh.start()
            yield mesh
        finally:
            await mesh.close()


async def test_the_exercises_hold_and_nothing_is_rejected(mesh: KubernetesBookinfo) -> None:
    for exercise in EXERCISES:
        if exercise.title != SLOW:
            good, seen = await judge(exercise, mesh)
            assert good, f"{exercise.title}: {seen}"
    await mesh.apply()
    await mesh.settled()


async def test_scaling_and_rolling_under_load_fails_no_request(mesh: KubernetesBookinfo) -> None:
    kubectl = mesh.bed.kubectl
    async with mesh.load() as seen:
        for number in range(ROUNDS):
            await kubectl("scale", "deployment/reviews-v1", "--replicas=3")
            await mesh.rolled("deployment/reviews-v1")
            await mesh.follow_endpoints("reviews")
            name = mesh.workers(app="reviews")[-1].pod["metadata"]["name"]
            await kubectl("delete", "pod", name, "--wait=false")
            await mesh.rolled("deployment/reviews-v1")
            await kubectl("scale", "deployment/reviews-v1", "--replicas=1")
            for application, annotations in OTHERWISE.items():
                await mesh.annotate(application, {**annotations, "round": str(number)})
            for application in OTHERWISE:
                await mesh.rolled(f"deployment/{application}-v1")
            for application in ("reviews", *OTHERWISE):
                await mesh.follow_endpoints(application)
    assert set(seen) == {"good"}, seen
    assert seen["good"] > 50 * ROUNDS
    await mesh.settled()


async def test_traffic_outlives_the_control_plane_and_the_api_server(
    mesh: KubernetesBookinfo,
) -> None:
    bed = mesh.bed
    for _ in range(ROUNDS):
        await mesh.apply(reviews="reviews-v3")
        before = await updates(mesh)
        async with mesh.load() as seen:
            assert bed.control_plane is not None
            await bed.control_plane.kill()
            bed.cluster.stop_api_server(kill=True)
            try:
                await bed.start_control_plane()
                # It answers, and has no state to be ready with.
                await eventually(bed.is_control_plane_ready, lambda ready: not ready)
                await calls(seen, 30)
                assert not await bed.is_control_plane_ready()
            finally:
                await asyncio.to_thread(bed.cluster.start_api_server)
            await bed.control_plane_ready()
            await mesh.settled()
            await calls(seen, 30)
        assert set(seen) == {"good"}, seen
        assert await updates(mesh) == before, "Envoys were sent something else"
        await mesh.apply()
        await mesh.settled()


async def test_a_restarted_api_server_disturbs_no_envoy_and_is_followed_again(
    mesh: KubernetesBookinfo,
) -> None:
    for _ in range(ROUNDS):
        await mesh.apply(reviews="reviews-v3")
        before = await updates(mesh)
        async with mesh.load() as seen:
            await asyncio.to_thread(mesh.bed.cluster.restart_api_server, kill=True)
            await calls(seen, 30)
            assert await updates(mesh) == before, "Envoys were sent something else"
            await mesh.apply(reviews="all-v1")
        assert set(seen) == {"good"}, seen
    await mesh.apply()
    await mesh.settled()


async def test_a_status_tells_when_every_envoy_follows_an_object(
    mesh: KubernetesBookinfo,
) -> None:
    await mesh.apply(reviews="reviews-v3")
    for condition in ("Accepted", "Reconciled"):
        for patience in (2, 1, 0):
            # The test before may have killed the API server: a Lease has to run out, and a writer
            # backs off for up to half a minute, before a status is written again.
            wait = ("wait", "virtualservice/reviews", "--timeout=40s")
            try:
                await mesh.bed.kubectl(*wait, f"--for=condition={condition}=True")
                break
            except AssertionError:
                if not patience:
                    raise
    await mesh.apply()


async def test_every_file_of_the_example_is_accepted(mesh: KubernetesBookinfo) -> None:
    folders = [str(BOOKINFO / folder) for folder in ("platform", "networking")]
    files = [word for folder in folders for word in ("-f", folder)]
    flags = ("--server-side", "--force-conflicts", "--dry-run=server")
    said = (await mesh.bed.kubectl("apply", *flags, *files)).splitlines()
    assert len(said) > len(list((BOOKINFO / "networking").iterdir()))
    assert all("serverside-applied" in line for line in said), said


async def test_the_bytes_are_those_of_the_same_objects_as_files(
    mesh: KubernetesBookinfo, tmp_path: Path
) -> None:
    await mesh.apply(reviews="reviews-90-10", ratings="ratings-test-delay")
    text = await mesh.bed.kubectl("get", ",".join(KINDS), "--all-namespaces", "-o", "yaml")
    objects = yaml.load(text, Loader=yaml.CSafeLoader)["items"]
    files = tmp_path / "objects"
    files.mkdir()
    (files / "all.yaml").write_text(yaml.dump_all(objects, Dumper=yaml.CSafeDumper))
    mesh_file = tmp_path / "mesh"
    mesh_file.write_text(yaml.safe_dump(mesh_config(XDS)))
    address = str(await mesh.bed.forward(XDS))
    for envoy in await mesh.envoys():
        node = node_of(await envoy.admin.config_dump())
        wanted = rendered(files, mesh_file, node)
        names = {kind: sorted(wanted[kind]) for kind in (ResourceType.ENDPOINT, ResourceType.ROUTE)}
        assert names[ResourceType.ENDPOINT]
        assert names[ResourceType.ROUTE]
        assert await served(address, node, names) == wanted, envoy.name
    await mesh.apply()


async def calls(seen: Mapping[str, int], more: int) -> None:
    """Wait until as many more requests were answered."""
    wanted = sum(seen.values()) + more

    async def count() -> int:
        return sum(seen.values())

    await eventually(count, lambda number: number >= wanted, what=f"{more} more requests")


async def updates(mesh: KubernetesBookinfo) -> dict[str, Mapping[str, int]]:
    """How often each Envoy has changed a listener, a cluster or a route, by its name."""
    return {envoy.name: await envoy.admin.stats(UPDATES) for envoy in await mesh.envoys()}
