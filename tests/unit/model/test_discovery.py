"""Discovery selectors: the namespaces that count, whenever labels or selectors change."""

from __future__ import annotations

import itertools

import pytest

from controlplane.model.assemble import Assembler, make_snapshot
from controlplane.model.base import Labels
from controlplane.model.core import (
    KubernetesService,
    KubernetesServicePort,
    Namespace,
    ServiceSpec,
)
from controlplane.model.discovery import matches
from controlplane.model.mesh import LabelSelector, LabelSelectorRequirement, MeshConfig
from controlplane.model.meta import Object, ObjectMeta, ObjectRef, Provenance, Record
from controlplane.model.snapshot import Snapshot


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, labels=Labels(labels)))


def service(name: str, in_: str) -> KubernetesService:
    return KubernetesService(
        metadata=ObjectMeta(name=name, namespace=in_),
        spec=ServiceSpec(ports=(KubernetesServicePort(port=80),)),
    )


def mesh(*selectors: dict[str, str]) -> MeshConfig:
    return MeshConfig(
        discovery_selectors=tuple(LabelSelector(match_labels=Labels(one)) for one in selectors)
    )


def names(snapshot: Snapshot) -> list[str]:
    return sorted(found.name for found in snapshot.services)


IN = (namespace("in", mesh="yes"), service("a", "in"))
OUT = (namespace("out"), service("b", "out"))
LOST = service("c", "nowhere")


def test_without_selectors_every_namespace_counts() -> None:
    assert names(make_snapshot([*IN, *OUT, LOST])) == ["a", "b", "c"]


@pytest.mark.parametrize("objects", list(itertools.permutations([*IN, *OUT, LOST])))
def test_only_objects_of_selected_namespaces_count_in_any_order(
    objects: tuple[Object, ...],
) -> None:
    snapshot = make_snapshot(objects, mesh=mesh({"mesh": "yes"}, {"other": "x"}))
    assert names(snapshot) == ["a"]
    assert set(snapshot.objects) == {
        ObjectRef("Namespace", "", "in"), ObjectRef("Namespace", "", "out"),
        ObjectRef("Service", "in", "a"),
    }  # fmt: skip
    assert set(snapshot.namespaces) == {"in", "out"}


def test_labels_of_a_namespace_let_its_objects_in_and_out() -> None:
    origin = Provenance("test")
    assembler = Assembler(mesh=mesh({"mesh": "yes"}))
    assembler.apply([Record.of(item, origin) for item in (*IN, *OUT)])
    first = assembler.snapshot()
    assert names(first) == ["a"]
    assembler.apply(
        [Record.of(namespace("out", mesh="yes"), origin), Record.of(namespace("in"), origin)]
    )
    second = assembler.snapshot()
    assert names(second) == ["b"]
    assert second.provenance[ObjectRef("Service", "out", "b")] == origin
    assert ObjectRef("Service", "in", "a") not in second.provenance
    assembler.apply([], [ObjectRef("Namespace", "", "out")])
    assert names(assembler.snapshot()) == []
    assembler.apply([Record.of(IN[0], origin)], [ObjectRef("Service", "in", "a")])
    assert names(assembler.snapshot()) == []


def test_other_selectors_hold_at_once() -> None:
    assembler = Assembler()
    assembler.apply([Record.of(item) for item in (*IN, *OUT, LOST)])
    for settings, expected in (
        (mesh(), ["a", "b", "c"]), (mesh({"mesh": "yes"}), ["a"]), (mesh({"mesh": "no"}), []),
        (mesh({}), ["a", "b", "c"]),
    ):  # fmt: skip
        assembler.set_mesh(settings)
        assert names(assembler.snapshot()) == expected


def test_a_change_of_a_held_back_object_stays_outside_and_is_there_when_it_comes_in() -> None:
    assembler = Assembler(mesh=mesh({"mesh": "yes"}))
    assembler.apply([Record.of(item) for item in OUT])
    before = assembler.snapshot()
    assembler.apply([Record.of(service("b2", "out")), Record.of(service("b", "out"))])
    after = assembler.snapshot()
    assert after.objects is before.objects
    assembler.set_mesh(MeshConfig())
    assert names(assembler.snapshot()) == ["b", "b2"]


@pytest.mark.parametrize(
    ("operator", "values", "matching"),
    [
        ("In", ("a", "b"), [{"k": "a"}]),
        ("NotIn", ("a",), [{"k": "c"}, {}]),
        ("Exists", (), [{"k": "a"}, {"k": "c"}]),
        ("DoesNotExist", (), [{}]),
    ],
)
def test_the_operators_of_expressions(
    operator: str, values: tuple[str, ...], matching: list[dict[str, str]]
) -> None:
    requirement = LabelSelectorRequirement(key="k", operator=operator, values=values)  # type: ignore[arg-type]  # one of the literals
    selector = LabelSelector(match_expressions=(requirement,))
    cases: list[dict[str, str]] = [{"k": "a"}, {"k": "c"}, {}]
    assert [labels for labels in cases if matches(selector, labels)] == matching
