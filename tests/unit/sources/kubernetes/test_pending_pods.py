"""An EndpointSlice of an API server that comes before its pod, as the registry sees it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controlplane.kubernetes.client import Client
from controlplane.model.diff import Change
from controlplane.model.names import Host
from controlplane.model.snapshot import Snapshot
from controlplane.registry import Registry
from controlplane.sources.kubernetes import reflector
from controlplane.sources.kubernetes.source import KubernetesSource
from tests.unit.sources.kubernetes.fake_api import FakeApi

HOST = Host("a.default.svc.cluster.local")
SERVICE: dict[str, Any] = {"spec": {"ports": [{"name": "http", "port": 80}]}}
SLICE: dict[str, Any] = {
    "metadata": {"labels": {"kubernetes.io/service-name": "a"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080}],
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "targetRef": {"kind": "Pod", "name": "a-1", "namespace": "default"},
        },
        {"addresses": ["192.0.2.1"]},
    ],
}
POD: dict[str, Any] = {
    "metadata": {"labels": {"version": "v1"}},
    "status": {"podIP": "10.0.0.1", "phase": "Running"},
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for minutes here."""
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(reflector, "LONGEST_PAUSE", 0.1)


class Mesh:
    """A registry that a Kubernetes source feeds, and all that it has published."""

    def __init__(self, client: Client) -> None:
        self.source = KubernetesSource(client, dice=random.Random(1), look_for_missing=0.1)
        self.registry = Registry(self._publish, sources=[self.source.name])
        self.published: list[Snapshot] = []

    def _publish(self, old: Snapshot, new: Snapshot, change: Change) -> None:
        del old, change
        self.published.append(new)

    @property
    def endpoints(self) -> dict[str, dict[str, str]]:
        """Addresses, and the labels of what is there."""
        return endpoints(self.registry.snapshot)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # what is waited for knows no event
                await asyncio.sleep(0.01)


def endpoints(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    return {
        endpoint.address: dict(endpoint.workload.labels)
        for group in snapshot.endpoints_of(HOST).by_port.values()
        for endpoint in group
    }


@asynccontextmanager
async def running(api: FakeApi) -> AsyncIterator[Mesh]:
    """Run a source and a registry until the end of the block; it is ready when that begins."""
    async with api.served() as access, Client(access) as client:
        mesh = Mesh(client)
        task = asyncio.create_task(mesh.registry.run([mesh.source]))
        try:
            await mesh.until(lambda: mesh.registry.ready or task.done())
            yield mesh
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_the_endpoint_of_a_pod_waits_for_it_and_others_do_not() -> None:
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    async with running(api) as mesh:
        api.put("endpointslices", "a", **SLICE)
        await mesh.until(lambda: mesh.endpoints)
        assert mesh.endpoints == {"192.0.2.1": {}}
        assert mesh.registry.snapshot.waiting_for_pods == {"10.0.0.1"}
        api.put("pods", "a-1", **POD)
        await mesh.until(lambda: len(mesh.endpoints) == 2)
        assert mesh.endpoints["10.0.0.1"] == {"version": "v1"}
        assert not mesh.registry.snapshot.waiting_for_pods
        assert all(endpoints(each).get("10.0.0.1") != {} for each in mesh.published)


async def test_the_first_snapshot_has_no_endpoint_without_its_pod() -> None:
    """Whichever kind is read first."""
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    api.put("endpointslices", "a", **SLICE)
    api.put("pods", "a-1", **POD)
    async with running(api) as mesh:
        assert mesh.endpoints == {"10.0.0.1": {"version": "v1"}, "192.0.2.1": {}}
        assert endpoints(mesh.published[0]) == mesh.endpoints


async def test_no_endpoint_is_lost_where_pods_may_not_be_read() -> None:
    api = FakeApi()
    api.forbidden = {"pods"}
    api.put("services", "a", **SERVICE)
    api.put("endpointslices", "a", **SLICE)
    api.put("pods", "a-1", **POD)
    async with running(api) as mesh:
        assert mesh.endpoints == {"10.0.0.1": {}, "192.0.2.1": {}}
        api.forbidden = set()
        await mesh.until(lambda: mesh.endpoints.get("10.0.0.1") == {"version": "v1"})
        api.forbidden = {"pods"}
        await mesh.until(lambda: mesh.source.warnings)
        changed = {**SLICE["endpoints"][0], "addresses": ["10.0.0.2"]}
        changed["targetRef"] = {**changed["targetRef"], "name": "a-2"}
        api.put("endpointslices", "a", **{**SLICE, "endpoints": [changed]})
        await mesh.until(lambda: mesh.endpoints == {"10.0.0.2": {}})
