"""A control plane in the test's own process: source, registry, translation and ADS.

It can be asked what it has, and compared with what the API server has. The rule that is easy to
break: the comparison asks the API server itself, not another watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from controlplane.ads.pusher import Pusher
from controlplane.ads.server import AdsServer
from controlplane.ads.types import CDS, EDS
from controlplane.cli.rendering import all_resources
from controlplane.errors import PylotError
from controlplane.kubernetes.access import Access
from controlplane.kubernetes.client import Client
from controlplane.model.diff import Change
from controlplane.model.proxy import make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.registry import Registry
from controlplane.sources.kubernetes.decode import Key
from controlplane.sources.kubernetes.source import KubernetesSource
from controlplane.translate.build import Generator
from tests.feature.conversation import Answer, Mesh, SotwEnvoy
from tests.feature.world import World
from tests.unit.sources.kubernetes.test_source import Listener

PATIENCE: Final = 60.0
NODE: Final = "sidecar~10.244.9.9~client-1.default~default.svc.cluster.local"
CLUSTER_ID: Final = "Kubernetes"


class ControlPlane:
    """One replica."""

    def __init__(self, client: Client, *, root_namespace: str = "istio-system") -> None:
        self.generator: Final = Generator()
        self.pusher: Final = Pusher(
            self.generator, self.generator.classify, clock=time.monotonic, epoch=time.time
        )
        self.listener: Final = Listener()
        self.source: Final = KubernetesSource(
            client,
            root_namespace=root_namespace,
            reporter=self.listener,
            look_for_missing=0.5,
        )
        self.registry: Final = Registry(
            self._publish, sources=[self.source.name], cluster_id=CLUSTER_ID
        )
        self.changes: list[Change] = []
        self.port = 0

    def _publish(self, old: Snapshot, new: Snapshot, change: Change) -> None:
        self.pusher.publish(old, new, change)
        if change:
            self.changes.append(change)

    @property
    def snapshot(self) -> Snapshot:
        """What is served."""
        return self.registry.snapshot

    def resources(self, node: str = NODE) -> dict[str, bytes]:
        """Everything that a proxy would be sent, by type and name."""
        return resources(self.generator, self.snapshot, node)

    @asynccontextmanager
    async def envoy(self, *names: str) -> AsyncIterator[list[Answer]]:
        """Connect an Envoy that asks for all clusters and these load assignments.

        It acknowledges everything; what it hears is in the list.
        """
        mesh = Mesh(World())
        mesh.port = self.port
        heard: list[Answer] = []

        async def listen(envoy: SotwEnvoy) -> None:
            await envoy.asks(CDS)
            await envoy.asks(EDS, *names)
            while True:
                answer = await envoy.hears_anything(patience=3600)
                heard.append(answer)
                await envoy.accepts(answer, *(names if answer.type_url == EDS.url else ()))

        async with mesh.sotw(NODE) as envoy:
            task = asyncio.create_task(listen(envoy))
            try:
                await self.until(lambda: len({answer.type_url for answer in heard}) == 2)
                yield heard
                assert not task.done(), task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Any, patience: float = PATIENCE) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(patience):
            while not condition():  # noqa: ASYNC110  # what is waited for knows no event
                await asyncio.sleep(0.02)

    async def settled(self, admin: Client) -> None:
        """Wait until it has exactly what the API server has; fails with the difference."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                wrong = await self._differences(admin)
            except PylotError as error:
                wrong = [str(error)]
            if not wrong:
                return
            assert time.monotonic() < end, wrong[:5]
            await asyncio.sleep(0.1)

    async def _differences(self, admin: Client) -> list[str]:
        found: list[str] = []
        objects = {}
        said = set(self.snapshot.diagnostics)
        for one in self.source._followed.values():
            if one.reflector is None:
                continue
            truth = await versions(admin, one.reflector.path)
            entries = one.store.entries
            mine = {key: entry.identity.resource_version for key, entry in entries.items()}
            if mine != truth:
                found.append(f"{one.kind.kind}: {set(mine.items()) ^ set(truth.items())}")
            found += (str(entry) for entry in one.store.diagnostics if entry not in said)
            for entry in entries.values():
                if entry.item is not None:
                    objects[entry.item.ref] = entry.item
        if dict(self.snapshot.objects) != objects:
            found.append(f"served: {set(self.snapshot.objects) ^ set(objects)} or their content")
        return found


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    resource_version: str = ""


class _Item(msgspec.Struct):
    metadata: _Meta


class _List(msgspec.Struct):
    items: list[_Item] | None = None


async def versions(client: Client, path: str) -> dict[Key, str]:
    """Return the resourceVersion of every object in a collection."""
    listed = msgspec.json.decode(await client.request("GET", path), type=_List)
    return {
        (item.metadata.namespace, item.metadata.name): item.metadata.resource_version
        for item in listed.items or ()
    }


def resources(generator: Generator, snapshot: Snapshot, node: str = NODE) -> dict[str, bytes]:
    """Everything that a proxy would be sent, by type and name."""
    proxy = make_proxy(node, {})
    found = all_resources(generator, snapshot, proxy)
    return {
        f"{kind} {resource.name}": resource.body
        for kind, group in found.items()
        for resource in group
    }


@asynccontextmanager
async def control_plane(
    access: Access, *, idle_timeout: float = 90.0, root_namespace: str = "istio-system"
) -> AsyncIterator[ControlPlane]:
    """Run one until the end of the block; it has its first full state when the block begins."""
    async with Client(access, idle_timeout=idle_timeout) as client:
        plane = ControlPlane(client, root_namespace=root_namespace)
        server = AdsServer(plane.pusher, ready=lambda: plane.registry.ready)
        (plane.port,) = await server.start("127.0.0.1:0")
        task = asyncio.create_task(plane.registry.run([plane.source]))
        try:
            await plane.until(lambda: plane.registry.ready or task.done())
            yield plane
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.stop(0.2)
