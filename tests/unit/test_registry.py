"""Steps of sources become snapshots, each published at its moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.assemble import Assembler
from controlplane.model.base import Labels
from controlplane.model.core import (
    EndpointPort,
    EndpointSlice,
    KubernetesService,
    KubernetesServicePort,
    ServiceSpec,
    SliceEndpoint,
)
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.diff import Change
from controlplane.model.grouping import Groups
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectMeta, ObjectRef, Provenance, Record
from controlplane.model.packed import packed
from controlplane.model.snapshot import Snapshot
from controlplane.registry import Registry
from controlplane.sources.base import Delta
from controlplane.sources.memory import MemorySource

HOST = "one.default.svc.cluster.local"


def service(name: str, port: int = 80) -> KubernetesService:
    return KubernetesService(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(
            cluster_ip="10.0.0.1", ports=(KubernetesServicePort(port=port, name="http"),)
        ),
    )


def slice_of(name: str, *addresses: str) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            name=f"{name}-x",
            namespace="default",
            labels=Labels({"kubernetes.io/service-name": name}),
        ),
        ports=(EndpointPort(name="http", port=8080),),
        endpoints=tuple(SliceEndpoint(addresses=(address,)) for address in addresses),
    )


class World:
    """A registry with a clock of ours and what it published and reported."""

    def __init__(self, *sources: str) -> None:
        self.now = 100.0
        self.published: list[tuple[Snapshot, Change]] = []
        self.reported: list[str] = []
        self.times: list[tuple[float, float]] = []
        self.failures: list[str] = []
        self.registry = Registry(
            lambda _old, new, change: self.published.append((new, change)),
            sources=sources or ("memory",),
            clock=lambda: self.now,
            reporter=self._report,
            timed=lambda waited, making: self.times.append((waited, making)),
            failed=lambda error: self.failures.append(str(error)),
        )

    def _report(self, new: tuple[Diagnostic, ...], gone: tuple[Diagnostic, ...]) -> None:
        self.reported += [f"+{entry.message}" for entry in new]
        self.reported += [f"-{entry.message}" for entry in gone]

    def say(
        self,
        *objects: Object,
        source: str = "memory",
        synced: bool = True,
        file: str = "",
        line: int = 0,
    ) -> None:
        origin = Provenance(source, file, line)
        upserts = tuple(Record.of(item, origin) for item in objects)
        self.registry.deliver(source, Delta(upserts=upserts, synced=synced))

    def at(self, seconds: float) -> int:
        """Go to a moment after the first one; returns how much was published so far."""
        self.now = 100.0 + seconds
        self.registry.tick()
        return len(self.published)

    def addresses(self) -> list[str]:
        found = self.registry.snapshot.endpoints_of(HOST)  # type: ignore[arg-type]  # a plain str
        return [endpoint.address for group in found.by_port.values() for endpoint in group]


def test_nothing_is_published_before_every_source_is_synced() -> None:
    world = World("kubernetes", "file")
    world.say(service("one"), source="kubernetes")
    assert world.at(0) == 0
    assert not world.registry.ready
    assert world.registry.waiting_for == ("file",)
    world.say(slice_of("one", "1.1.1.1"), source="file", synced=False)
    assert world.at(1) == 0
    world.say(source="file")
    assert world.at(2) == 1
    assert world.registry.ready
    assert world.addresses() == ["1.1.1.1"]


def test_a_mesh_without_any_object_is_published_too() -> None:
    world = World()
    world.say()
    assert world.at(0) == 1
    assert world.registry.ready


def test_without_sources_the_registry_is_ready_at_once() -> None:
    published: list[Snapshot] = []
    registry = Registry(lambda _old, new, _change: published.append(new), sources=())
    registry.tick()
    assert registry.ready
    assert len(published) == 1


def test_the_first_endpoint_change_goes_out_at_once_and_later_ones_in_steps() -> None:
    world = World()
    world.say(service("one"), slice_of("one", "1.1.1.1"))
    assert world.at(0) == 1
    world.now = 105.0
    world.say(slice_of("one", "1.1.1.1", "1.1.1.2"))
    assert world.at(5.0) == 2
    assert world.published[-1][1].only_endpoints
    world.say(slice_of("one", "1.1.1.2"))
    assert world.at(5.05) == 2
    assert world.at(5.1) == 3
    assert world.addresses() == ["1.1.1.2"]


def test_how_long_changes_waited_for_others_is_told_of_each_snapshot() -> None:
    world = World()
    world.say(service("one"), synced=False)
    world.now = 107.0
    world.say(synced=True)
    world.at(7.0)
    world.now = 120.0
    world.say(service("one", 81))
    world.at(20.0)
    world.say(service("one", 82))
    world.now = 120.05
    world.say(service("one", 83))
    world.say(slice_of("one", "1.1.1.1"))
    assert world.at(20.1) == 3, "the endpoints alone"
    assert world.at(20.16) == 4
    waited = [waited for waited, _ in world.times]
    assert waited == [0.0, 0.0, pytest.approx(0.05), pytest.approx(0.16)]


def test_removals_of_endpoints_wait_no_longer_than_others() -> None:
    world = World()
    world.say(service("one"), slice_of("one", "1.1.1.1"))
    world.at(0)
    world.now = 105.0
    world.registry.deliver("memory", Delta(removals=(slice_of("one").ref,)))
    assert world.at(5.0) == 2
    assert world.addresses() == []


def test_config_is_debounced_after_the_first_change() -> None:
    world = World()
    world.say(service("one"))
    world.at(0)
    world.now = 105.0
    world.say(service("two"))
    assert world.at(5.0) == 2
    world.now = 105.02
    world.say(service("three"))
    assert world.at(5.05) == 2
    world.now = 105.09
    world.say(service("four"))
    assert world.at(5.13) == 2
    assert world.at(5.2) == 3
    assert len(world.registry.snapshot.services) == 4


def test_waiting_config_does_not_slip_out_with_endpoints() -> None:
    world = World()
    world.say(service("one"), slice_of("one", "1.1.1.1"))
    world.at(0)
    world.now = 105.0
    world.say(service("two"))
    world.at(5.0)
    world.now = 105.09
    world.say(service("three"))
    world.say(slice_of("one", "1.1.1.2"))
    assert world.at(5.1) == 3
    assert world.published[-1][1].only_endpoints
    assert world.addresses() == ["1.1.1.2"]
    assert [found.name for found in world.registry.snapshot.services] == ["one", "two"]
    assert world.registry.is_waiting(service("three").ref)
    assert world.at(5.2) == 4
    assert len(world.registry.snapshot.services) == 3


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("strong", "weak")),
        st.sampled_from("ab"),  # the name
        st.booleans(),  # whether it is endpoints
        st.integers(0, 2),  # which version, 0 for none
        st.booleans(),  # whether time goes by
    ),
    max_size=20,
)


@given(STEPS)
def test_whatever_sources_say_each_object_is_that_of_the_strongest_that_has_it(
    steps: list[tuple[str, str, bool, int, bool]],
) -> None:
    world = World("strong", "weak")
    world.say(source="strong")
    world.say(source="weak")
    world.at(0)
    said: dict[str, dict[ObjectRef, Object]] = {"weak": {}, "strong": {}}
    for index, (source, name, endpoints, version, passes) in enumerate(steps):
        item = slice_of(name, f"10.0.0.{version}") if endpoints else service(name, 80 + version)
        if version:
            said[source][item.ref] = packed(item)
            world.say(item, source=source)
        else:
            said[source].pop(item.ref, None)
            world.registry.deliver(source, Delta(removals=(item.ref,)))
        if passes:
            world.at(20 * (index + 1))
    world.at(1000)
    snapshot = world.registry.snapshot
    assert dict(snapshot.objects) == said["weak"] | said["strong"]
    assert {ref: origin.source for ref, origin in snapshot.provenance.items()} == {
        ref: source for source, objects in said.items() for ref in objects
    }


def test_of_two_sources_the_stronger_one_is_believed() -> None:
    world = World("strong", "weak")
    world.say(service("one", 80), source="strong")
    world.say(service("one", 81), source="weak")
    world.at(0)
    assert world.registry.snapshot.services[0].ports[0].number == 80
    world.now = 105.0
    world.registry.deliver("strong", Delta(removals=(service("one").ref,)))
    world.at(5)
    assert world.registry.snapshot.services[0].ports[0].number == 81


def test_settings_of_the_mesh_are_replaced_as_config() -> None:
    world = World()
    world.say()
    world.at(0)
    world.now = 105.0
    world.registry.deliver("memory", Delta(mesh=MeshConfig(root_namespace="other")))
    world.at(5)
    assert world.registry.snapshot.mesh.root_namespace == "other"
    assert world.published[-1][1].full


def test_diagnostics_are_reported_when_they_come_and_when_they_go() -> None:
    world = World()
    world.say()
    world.at(0)
    wrong = Diagnostic(level=Level.ERROR, code="Unreadable", message="bad", file="a.yaml", line=1)
    world.now = 105.0
    world.registry.deliver("memory", Delta(diagnostics=(wrong,)))
    world.at(5)
    assert world.registry.diagnostics == (wrong,)
    world.now = 106.0
    world.registry.deliver("memory", Delta(diagnostics=(wrong,)))
    world.at(6)
    world.now = 107.0
    world.registry.deliver("memory", Delta(diagnostics=()))
    world.at(7)
    assert world.reported == ["+bad", "-bad"]


async def test_a_running_registry_publishes_by_itself() -> None:
    published: asyncio.Queue[Change] = asyncio.Queue()
    source = MemorySource()
    registry = Registry(
        lambda _old, _new, change: published.put_nowait(change), sources=[source.name]
    )
    task = asyncio.create_task(registry.run([source]))
    source.apply(service("one"))
    async with asyncio.timeout(5):
        assert (await published.get()).services == {HOST}
        assert registry.ready
        source.apply(slice_of("one", "1.1.1.1"))
        assert (await published.get()).endpoints == {HOST}
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_source_that_fails_ends_the_registry() -> None:
    class Failing(MemorySource):
        async def run(self, deliver: object) -> None:
            raise OSError("no network")

    registry = Registry(lambda _old, _new, _change: None, sources=["memory"])
    with pytest.raises(ExceptionGroup) as error:
        await registry.run([Failing()])
    assert error.group_contains(OSError, match="no network")


def test_endpoints_wait_for_the_config_of_their_own_step() -> None:
    world = World()
    world.say(service("one"), slice_of("one", "10.1.0.1"))
    world.at(0)
    world.now = 101.0
    world.say(service("other"))
    world.at(1)
    # Soon after a change of config: config waits, and what came with it waits too.
    world.now = 101.05
    gone = (slice_of("one").ref, service("one").ref)
    world.registry.deliver("memory", Delta(removals=gone))
    before = world.at(1.06)
    assert world.addresses() == ["10.1.0.1"]
    assert all(world.registry.is_waiting(ref) for ref in gone)
    assert world.at(1.2) == before + 1
    assert world.addresses() == []
    assert not any(world.registry.is_waiting(ref) for ref in gone)


def test_a_snapshot_that_fails_is_made_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.say(service("one"), slice_of("one", "1.1.1.1"))
    world.at(0)
    once = iter([True])
    make = Assembler.snapshot

    def fails_once(self: Assembler, given: Iterable[Diagnostic] = ()) -> Snapshot:
        if next(once, False):
            raise KeyError("lost")
        return make(self, given)

    monkeypatch.setattr(Assembler, "snapshot", fails_once)
    before = world.registry.snapshot
    world.now = 105.0
    world.say(service("other"))
    assert world.at(6) == 2
    assert world.failures == ["'lost'"]
    assert world.addresses() == ["1.1.1.1"]
    snapshot, change = world.published[-1]
    assert change.services == {"other.default.svc.cluster.local"}
    assert snapshot.endpoints is before.endpoints, "nothing that is equal is new"
    assert not world.registry.diagnostics


def test_what_cannot_be_made_keeps_the_snapshot_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.say(service("one"), slice_of("one", "1.1.1.1"))
    world.at(0)
    make = Assembler.snapshot

    def fails_with_bad(self: Assembler, given: Iterable[Diagnostic] = ()) -> Snapshot:
        if self.record(service("bad").ref) is not None:
            raise TypeError("a mistake")
        return make(self, given)

    monkeypatch.setattr(Assembler, "snapshot", fails_with_bad)
    world.now = 105.0
    world.say(service("bad"), file="bad.yaml", line=7)
    world.at(6)
    text = "an error of the control plane keeps it out: TypeError: a mistake"
    assert world.failures == ["a mistake"] * 2
    assert [str(one) for one in world.registry.diagnostics] == [
        f"bad.yaml:7 Service default/bad: {text}"
    ]
    assert world.reported == [f"+{text}"]
    assert world.addresses() == ["1.1.1.1"]
    # What comes next waits with it, until it is mended.
    world.now = 110.0
    world.say(slice_of("one", "2.2.2.2"))
    world.at(11)
    assert world.addresses() == ["1.1.1.1"]
    assert len(world.registry.diagnostics) == 2
    world.now = 115.0
    world.registry.deliver("memory", Delta(removals=(service("bad").ref,)))
    world.at(16)
    assert world.addresses() == ["2.2.2.2"]
    assert not world.registry.diagnostics
    assert [str(one.ref.name) for one in world.registry.snapshot.objects.values()] == [
        "one",
        "one-x",
    ]


def test_an_object_that_cannot_be_taken_in_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.say(service("one"))
    world.at(0)
    put = Groups.put

    def fails_with_bad(self: Groups, record: Record) -> None:
        if record.ref.name == "bad":
            raise ValueError("what is this")
        put(self, record)

    monkeypatch.setattr(Groups, "put", fails_with_bad)
    world.now = 105.0
    world.say(service("bad"), slice_of("one", "1.1.1.1"), file="bad.yaml", line=7)
    world.at(6)
    assert world.failures == ["what is this"]
    assert world.addresses() == ["1.1.1.1"]
    (told,) = world.registry.diagnostics
    assert str(told).startswith("bad.yaml:7 Service default/bad: ")
    assert "ValueError: what is this" in told.message
    monkeypatch.setattr(Groups, "put", put)
    world.now = 110.0
    world.say(service("bad", port=81))
    world.at(11)
    assert not world.registry.diagnostics
    assert len(world.registry.snapshot.services) == 2


def test_a_first_snapshot_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_self: Assembler, _given: Iterable[Diagnostic] = ()) -> Snapshot:
        raise TypeError("a mistake")

    monkeypatch.setattr(Assembler, "snapshot", fails)
    world = World()
    world.say(service("one"))
    with pytest.raises(TypeError, match="a mistake"):
        world.at(0)
    assert not world.published
