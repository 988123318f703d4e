"""The whole source against an API server over HTTP: first state, changes, trouble."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import ForbiddenError, KubernetesError
from controlplane.kubernetes.paths import Resource
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.kinds import Kind
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectRef, objects_of
from controlplane.sources.base import Delta
from controlplane.sources.kubernetes import contact, reflector
from controlplane.sources.kubernetes.reflector import Reflector
from controlplane.sources.kubernetes.reporter import Reporter
from controlplane.sources.kubernetes.source import KubernetesSource
from tests.unit.sources.kubernetes.fake_api import FakeApi

SERVICE: dict[str, Any] = {"spec": {"ports": [{"port": 80}]}}
HTTP = [{"route": [{"destination": {"host": "a"}}]}]
ROUTE: dict[str, Any] = {"spec": {"hosts": ["a"], "http": HTTP}}
ROUTES = "virtualservices"


class Listener(Reporter):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}

    def events(self, kind: Kind, events: Mapping[str, int]) -> None:
        """Add up."""
        mine = self.counts.setdefault(kind.kind, {})
        for event, number in events.items():
            mine[event] = mine.get(event, 0) + number

    def served(self, kind: Kind, resource: Resource | None) -> None:
        """Note kinds that go."""
        if resource is None:
            self.said.append(f"gone {kind.kind}")

    def forbidden(self, kind: str, error: ForbiddenError) -> None:
        """Note."""
        self.said.append(f"forbidden {kind}: {error}")

    def allowed(self, kind: str) -> None:
        """Note."""
        self.said.append(f"allowed {kind}")

    def away(self, error: KubernetesError) -> None:
        """Note."""
        self.said.append("away")

    def back(self, seconds: float) -> None:
        """Note."""
        self.said.append("back")

    def relisted(self, kind: str) -> None:
        """Note."""
        self.said.append(f"relisted {kind}")

    def synced(self, objects: int) -> None:
        """Note."""
        self.said.append(f"synced {objects}")


class World:
    """A source that runs, and what it has delivered."""

    def __init__(self, source: KubernetesSource, listener: Listener) -> None:
        self.source = source
        self.listener = listener
        self.objects: dict[ObjectRef, Object] = {}
        self.deltas: list[Delta] = []
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self.mesh: MeshConfig | None = None
        self.synced = False

    def deliver(self, delta: Delta) -> None:
        """Fold a step, which must say something."""
        assert delta
        self.deltas.append(delta)
        for item, origin in ((record.item, record.origin) for record in delta.upserts):
            assert origin.source == "kubernetes"
            self.objects[item.ref] = item
        for ref in delta.removals:
            del self.objects[ref]
        if delta.diagnostics is not None:
            self.diagnostics = delta.diagnostics
        self.mesh = delta.mesh or self.mesh
        self.synced |= delta.synced

    @property
    def names(self) -> set[str]:
        return {ref.name for ref in self.objects}

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # what is waited for knows no event
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for minutes here."""
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(reflector, "LONGEST_PAUSE", 0.1)


@asynccontextmanager
async def running(
    api: FakeApi, *, idle_timeout: float = 30, mesh_config: bool = True, revision: str = "default"
) -> AsyncIterator[World]:
    async with api.served() as access, Client(access, idle_timeout=idle_timeout) as client:
        listener = Listener()
        source = KubernetesSource(
            client,
            reporter=listener,
            revision=revision,
            mesh_config=mesh_config,
            dice=random.Random(1),
            look_for_missing=0.05,
        )
        world = World(source, listener)
        task = asyncio.create_task(source.run(world.deliver))
        try:
            yield world
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("streams", [True, False])
async def test_everything_is_delivered_once_and_then_each_change(streams: bool) -> None:
    api = FakeApi(streams=streams)
    api.put("services", "a", **SERVICE)
    api.put(ROUTES, "b", **ROUTE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert world.names == {"a", "b"}
        assert world.listener.said == ["synced 2"]
        api.put("services", "c", **SERVICE)
        await world.until(lambda: "c" in world.names)
        api["services"].delete("a")
        await world.until(lambda: world.names == {"b", "c"})
        count = len(world.deltas)
        api.put("services", "c", **SERVICE, status={"loadBalancer": {}})
        await world.until(lambda: world.listener.counts["Service"].get("updatesame"))
        assert len(world.deltas) == count
    assert world.listener.counts["Service"] == {"add": 2, "delete": 1, "updatesame": 1}


async def test_others_have_their_turn_while_many_objects_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the server sends at once is not decoded at once; it is still one step."""
    api = FakeApi()
    for index in range(1200):
        api.put("services", f"s{index}", **SERVICE)
    sizes: list[int] = []
    on_lines = Reflector.on_lines

    def listen(self: Reflector, lines: list[bytes]) -> None:
        sizes.append(len(lines))
        on_lines(self, lines)

    monkeypatch.setattr(Reflector, "on_lines", listen)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert [len(delta.upserts) for delta in world.deltas if delta.upserts] == [1200]
        assert 400 < max(sizes) <= 500


async def test_endpoints_are_asked_for_only_where_there_are_no_slices() -> None:
    api = FakeApi()
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert not any("/endpoints?" in request for request in api.requests)
    old = FakeApi()
    old.missing.add("endpointslices")
    old.put("endpoints", "e", subsets=[])
    async with running(old) as world:
        await world.until(lambda: world.synced)
        assert world.names == {"e"}


async def test_a_closed_watch_and_a_gap_deliver_only_differences() -> None:
    api = FakeApi()
    for name in "abc":
        api.put("services", name, **SERVICE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        count = len(world.deltas)
        api.close_watches()
        api.put("services", "d", **SERVICE)
        await world.until(lambda: "d" in world.names)
        assert [
            item.metadata.name
            for delta in world.deltas[count:]
            for item in objects_of(delta.upserts)
        ]
        assert len(world.deltas) == count + 1
        api.close_watches()
        api["services"].delete("a")
        api.put("services", "b", spec={"ports": [{"port": 81}]})
        api["services"].compact()
        await world.until(lambda: "a" not in world.names)
        (last,) = world.deltas[count + 1 :]
        assert [item.metadata.name for item in objects_of(last.upserts)] == ["b"]
        assert [ref.name for ref in last.removals] == ["a"]
        assert "relisted Service" in world.listener.said


async def test_an_api_server_that_is_away_leaves_the_state_and_its_age() -> None:
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert world.source.status().age == 0
        count = len(world.deltas)
        api.down = True
        await world.until(lambda: "away" in world.listener.said)
        await world.until(lambda: world.source.status().age > 0.2)
        assert world.source.status().away > 0
        assert world.names == {"a"}
        api.down = False
        await world.until(lambda: "back" in world.listener.said)
        await world.until(lambda: world.source.status().age == 0)
        assert len(world.deltas) == count
        assert world.listener.said.count("away") == 1


async def test_credentials_that_are_refused_are_told_once_until_they_hold_again() -> None:
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        api.knows_us = False
        api.close_watches()
        before = len(api.requests)
        await world.until(lambda: len(api.requests) > before + 60)
        assert world.listener.said.count("away") == 1
        assert world.source.status().away > 0
        assert world.names == {"a"}
        api.knows_us = True
        api.put("services", "b", **SERVICE)
        await world.until(lambda: world.names == {"a", "b"})
        assert world.listener.said.count("back") == 1


async def test_all_kinds_go_on_as_soon_as_the_api_server_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kind whose pause has grown while the API server was away does not wait to its end."""
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        monkeypatch.setattr(contact, "SOONEST", 0.01)
        monkeypatch.setattr(reflector, "FIRST_PAUSE", 3600.0)
        monkeypatch.setattr(reflector, "LONGEST_PAUSE", 3600.0)
        api.down = True
        api.close_watches()
        await world.until(lambda: not any(kind.connected for kind in world.source.status().kinds))
        api.put("services", "b", **SERVICE)
        api.down = False
        await world.until(lambda: world.names == {"a", "b"})


async def test_an_api_server_that_is_not_there_at_first_is_waited_for() -> None:
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    api.down = True
    async with running(api) as world:
        await world.until(lambda: len(api.requests) > 1)
        assert world.listener.said == ["away"]
        assert not world.synced
        api.down = False
        await world.until(lambda: world.synced)
        assert world.names == {"a"}


async def test_a_silent_connection_is_opened_again() -> None:
    api = FakeApi()
    async with running(api, idle_timeout=0.2) as world:
        await world.until(lambda: world.synced)
        before = len(api.requests)
        await world.until(lambda: len(api.requests) > before + 20)
        api.put("services", "a", **SERVICE)
        await world.until(lambda: world.names == {"a"})
        assert "away" not in world.listener.said  # a kind that does not change is as silent


async def test_a_forbidden_kind_counts_as_empty_and_is_tried_again() -> None:
    api = FakeApi()
    api.put("services", "a", **SERVICE)
    api.put(ROUTES, "b", **ROUTE)
    api.forbidden.add(ROUTES)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert world.names == {"a"}
        (warning,) = world.source.warnings
        assert warning.startswith("cannot ")
        assert f"{ROUTES}.networking.istio.io" in warning
        assert f'apiGroups: ["networking.istio.io"], resources: ["{ROUTES}"]' in warning
        await world.until(lambda: sum(f"/{ROUTES}?" in r for r in api.requests) > 4)
        assert [said for said in world.listener.said if "forbidden" in said] == [
            f"forbidden VirtualService: {warning}"
        ]
        api.forbidden.clear()
        await world.until(lambda: world.names == {"a", "b"})
        assert world.source.warnings == ()
        assert "allowed VirtualService" in world.listener.said
        api.forbidden.add(ROUTES)
        await world.until(lambda: world.source.warnings)
        assert world.names == {"a", "b"}, "what was there stays"


async def test_a_kind_comes_and_goes_with_its_definition() -> None:
    api = FakeApi()
    api.missing |= {ROUTES, "gateways"}
    api.put(ROUTES, "b", **ROUTE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert world.names == set()
        api.missing.remove(ROUTES)
        await world.until(lambda: world.names == {"b"})
        api.missing.add(ROUTES)
        await world.until(lambda: world.names == set())
        assert "gone VirtualService" in world.listener.said
        api.missing.remove(ROUTES)
        await world.until(lambda: world.names == {"b"})


async def test_a_broken_object_is_left_out_and_named_until_it_is_mended() -> None:
    api = FakeApi()
    api.put(ROUTES, "good", **ROUTE)
    api.put(ROUTES, "bad", spec={"hosts": "x"})
    async with running(api) as world:
        await world.until(lambda: world.synced)
        assert world.names == {"good"}
        assert {str(said.ref) for said in world.diagnostics} == {"VirtualService default/bad"}
        api.put(ROUTES, "good", spec={"hosts": "x"})
        await world.until(lambda: world.names == set())
        api.put(ROUTES, "bad", **ROUTE)
        api.put(ROUTES, "good", **ROUTE)
        await world.until(lambda: world.names == {"bad", "good"})
        await world.until(lambda: not world.diagnostics)


async def test_the_mesh_config_comes_from_the_config_map_of_the_revision() -> None:
    api = FakeApi()
    text = "trustDomain: one\n"
    api.put("configmaps", "istio-canary", "istio-system", data={"mesh": text})
    async with running(api, revision="canary") as world:
        await world.until(lambda: world.synced)
        asked = next(request for request in api.requests if "/configmaps?" in request)
        assert asked.startswith("/api/v1/namespaces/istio-system/configmaps?")
        assert "fieldSelector=metadata.name%3Distio-canary" in asked
        assert world.mesh == MeshConfig(trust_domain="one")
        api.put("configmaps", "istio-canary", "istio-system", data={"mesh": "trustDomain: two"})
        await world.until(lambda: world.mesh == MeshConfig(trust_domain="two"))
        api.put("configmaps", "istio-canary", "istio-system", data={"mesh": "trustDomain: []"})
        await world.until(lambda: world.diagnostics)
        (said,) = world.diagnostics
        assert str(said.ref) == "ConfigMap istio-system/istio-canary"
        assert said.field == "data.mesh.trustDomain"
        assert world.mesh == MeshConfig(trust_domain="two")
        api.put("configmaps", "istio-canary", "istio-system", data={"mesh": "a: ["})
        await world.until(lambda: world.diagnostics[0].field == "data.mesh")
        api["configmaps"].delete("istio-canary", "istio-system")
        await world.until(lambda: world.mesh == MeshConfig())
        assert world.diagnostics == ()


async def test_a_mesh_config_file_leaves_the_config_map_alone() -> None:
    api = FakeApi()
    async with running(api, mesh_config=False) as world:
        await world.until(lambda: world.synced)
        assert not any("/configmaps" in request for request in api.requests)


async def test_an_object_of_five_megabytes_is_read() -> None:
    api = FakeApi()
    api.put(ROUTES, "big", **ROUTE, metadata={"annotations": {"a": "x" * 5_000_000}})
    async with running(api) as world:
        await world.until(lambda: world.synced)
        api.put(ROUTES, "big", **ROUTE, metadata={"annotations": {"a": "y" * 5_000_000}})
        await world.until(
            lambda: (
                "y"
                in world.objects[
                    ObjectRef("VirtualService", "default", "big")
                ].metadata.annotations["a"][:1]
            )
        )


async def test_the_state_says_what_is_followed() -> None:
    api = FakeApi()
    api.missing.add(ROUTES)
    api.put("services", "a", **SERVICE)
    async with running(api) as world:
        await world.until(lambda: world.synced)
        status = world.source.status()
        kinds = {kind.kind: kind for kind in status.kinds}
        assert (kinds["Service"].objects, kinds["Service"].version) == (1, "v1")
        assert kinds["Service"].connected
        assert not kinds["VirtualService"].served
        assert msgspec.json.encode(status)
