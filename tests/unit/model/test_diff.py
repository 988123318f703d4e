"""What differs between two snapshots is named, and nothing else."""

from __future__ import annotations

from msgspec import structs

from controlplane.model.assemble import make_snapshot
from controlplane.model.base import Labels
from controlplane.model.core import (
    KubernetesService,
    KubernetesServicePort,
    Namespace,
    ServiceSpec,
)
from controlplane.model.diff import NO_CHANGE, diff
from controlplane.model.meta import Object, ObjectMeta
from controlplane.model.virtual_service import VirtualService, VirtualServiceSpec


def service(name: str, port: int = 80) -> KubernetesService:
    return KubernetesService(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(ports=(KubernetesServicePort(port=port),)),
    )


def routes(name: str, *hosts: str) -> VirtualService:
    return VirtualService(
        metadata=ObjectMeta(name=name, namespace="default"), spec=VirtualServiceSpec(hosts=hosts)
    )


WORLD: tuple[Object, ...] = (service("a"), service("b"), routes("x", "x"), routes("y", "y"))
BEFORE = make_snapshot(WORLD)


def test_the_same_objects_are_no_change() -> None:
    change = diff(BEFORE, make_snapshot(WORLD, previous=BEFORE))
    assert change == NO_CHANGE
    assert not change


def test_a_changed_service_names_its_host_and_object() -> None:
    change = diff(BEFORE, make_snapshot((*WORLD[1:], service("a", 81)), previous=BEFORE))
    assert change.services == {"a.default.svc.cluster.local"}
    assert change.objects == {service("a").ref}
    assert not change.only_endpoints
    assert not change.full


def test_objects_that_come_change_and_go_are_named() -> None:
    after = (*WORLD[:2], routes("y", "changed"), routes("z", "z"))
    change = diff(BEFORE, make_snapshot(after, previous=BEFORE))
    assert {ref.name for ref in change.objects} == {"x", "y", "z"}
    assert not change.services


def test_namespaces_change_everything() -> None:
    item = Namespace(metadata=ObjectMeta(name="default", labels=Labels(a="b")))
    change = diff(BEFORE, make_snapshot((*WORLD, item), previous=BEFORE))
    assert change.full
    assert structs.replace(change, namespaces=False) == NO_CHANGE
