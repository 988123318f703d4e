"""Sharing between classes: what a type reads of a class is all in what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec import structs

from controlplane.ads.types import UNREAD_KINDS
from controlplane.model.assemble import make_snapshot
from controlplane.model.proxy import make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate.build import Generator
from controlplane.translate.clusters import build_cluster, outbound_cluster_inputs
from controlplane.translate.endpoints import build_load_assignment, load_assignment_input
from controlplane.translate.listeners import (
    build_listener,
    outbound_conflicts,
    outbound_listener_inputs,
)
from controlplane.translate.narrowing import Sights
from controlplane.translate.resources import Resource, ResourceType, Translated
from tests.golden.support import GOLDEN, load_case, make_object

CASES = sorted(
    path
    for kind in ("clusters", "endpoints", "listeners", "routes")
    for path in (GOLDEN / kind).glob("*.in.yaml")
)


def service(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}], **spec},
    }


def rule(name: str, namespace: str, host: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"host": host, **spec},
    }


def to(host: str) -> dict[str, Any]:
    return {"destination": {"host": host}}


def world(*objects: dict[str, Any]) -> Snapshot:
    return make_snapshot([make_object(item) for item in objects])


def versions(made: list[Translated]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in made:
        if item.resource is not None:
            found.setdefault(item.resource.name, item.resource.version)
    return found


def held(resources: tuple[Resource, ...], names: dict[str, str]) -> dict[str, str]:
    return {item.name: item.version for item in resources if item.name in names}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.name[:-8]}")
def test_a_narrowed_class_gets_what_the_whole_class_would_get(path: Path) -> None:
    case = load_case(path)
    generator, snapshot = Generator(), case.snapshot
    cls = generator.classify(case.proxy, snapshot)
    clusters = versions(
        [build_cluster(value) for value in outbound_cluster_inputs(snapshot, cls.outbound)]
    )
    assert held(generator.clusters(snapshot, cls), clusters) == clusters
    listeners = versions(
        [build_listener(value) for value in outbound_listener_inputs(snapshot, cls.outbound)]
    )
    assert held(generator.listeners(snapshot, cls), listeners) == listeners
    noticed = generator.diagnostics(snapshot, cls)
    assert set(outbound_conflicts(snapshot, cls.outbound)) <= set(noticed)
    for name in clusters:
        alone = build_load_assignment(load_assignment_input(snapshot, cls.outbound, name)).resource
        assert alone is not None
        assert generator.load_assignment(snapshot, cls, name).version == alone.version


def test_namespaces_without_anything_of_their_own_are_alike() -> None:
    sights = Sights(
        world(service("a", "one"), service("b", "two"), rule("a", "one", "a.one.svc.cluster.local"))
    )
    assert sights.alike("one") == sights.alike("two") == sights.alike("three")


@pytest.mark.parametrize(
    "different",
    [
        rule("b", "one", "b.two.svc.cluster.local"),
        rule("all", "one", "*.svc.cluster.local"),
        rule("a", "one", "a", exportTo=["."]),
        rule("b", "two", "b", exportTo=["one"]),
        rule("b", "three", "b.two.svc.cluster.local", exportTo=["."]),
    ],
    ids=["other's service", "wildcard", "private", "exported to one", "third's own"],
)
def test_a_rule_that_one_namespace_follows_alone_tells_it_apart(different: dict[str, Any]) -> None:
    sights = Sights(world(service("a", "one"), service("b", "two"), different))
    names = {sights.alike(name) for name in ("one", "two", "three", "four")}
    assert len(names) == 2
    assert sights.alike("five") == sights.alike("four")


def test_a_service_that_only_some_see_tells_namespaces_apart() -> None:
    hidden = service("a", "one")
    hidden["metadata"]["annotations"] = {"networking.istio.io/exportTo": "one,two"}
    sights = Sights(world(hidden, service("b", "two")))
    assert sights.alike("one") == sights.alike("two")
    assert sights.alike("one") != sights.alike("three")
    assert sights.alike("three") == sights.alike("four")


def test_classes_that_differ_in_namespace_alone_share_clusters_and_load_assignments() -> None:
    snapshot, generator = world(service("a", "one"), service("b", "two")), Generator()
    first, second = (
        generator.classify(
            make_proxy(f"sidecar~10.0.0.1~x.{name}~{name}.svc.cluster.local"), snapshot
        )
        for name in ("one", "two")
    )
    assert first != second
    name = "outbound|80||a.one.svc.cluster.local"
    assert generator.load_assignment(snapshot, first, name) is generator.load_assignment(
        snapshot, second, name
    )
    ours, theirs = (generator.clusters(snapshot, cls) for cls in (first, second))
    assert all(one is other for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("host", ["unknown.example.com", "*.example.com"])
def test_a_rule_for_hosts_that_are_no_services_tells_its_namespace_apart(host: str) -> None:
    sights = Sights(world(service("a", "one"), rule("b", "one", host)))
    assert sights.alike("one") != sights.alike("two")
    assert sights.alike("two") == sights.alike("three")


def test_a_rule_of_the_root_namespace_that_some_see_tells_those_apart() -> None:
    shared = rule("all", "istio-system", "*.example.com", exportTo=["one"])
    sights = Sights(world(service("a", "one"), shared))
    assert sights.alike("one") != sights.alike("two")
    assert sights.alike("two") == sights.alike("three")


def test_what_a_virtual_service_says_to_one_caller_is_not_said_to_another() -> None:
    split = {
        "kind": "VirtualService",
        "metadata": {"name": "a", "namespace": "one"},
        "spec": {
            "hosts": ["a"],
            "http": [
                {"match": [{"sourceNamespace": "two"}], "route": [to("b.two.svc.cluster.local")]},
                {"route": [to("a")]},
            ],
        },
    }
    snapshot = world(service("a", "one"), service("b", "two"), split)
    generator = Generator()

    def clusters(namespace: str) -> set[str]:
        proxy = make_proxy(f"sidecar~10.0.0.1~x.{namespace}~{namespace}.svc.cluster.local")
        route = generator.route(snapshot, generator.classify(proxy, snapshot), "80")
        return {name for name in route.clusters if name.startswith("outbound|80||a.")}

    # In namespace two nothing leads to the first service: the entry before takes everything.
    assert clusters("one") == {"outbound|80||a.one.svc.cluster.local"}
    assert clusters("three") == clusters("one")
    assert clusters("two") == set()


def test_clusters_and_listeners_stay_whatever_virtual_services_say() -> None:
    client = make_proxy("sidecar~10.0.0.1~a.one~one.svc.cluster.local", {"NAMESPACE": "one"})
    route = {
        "kind": "VirtualService",
        "metadata": {"name": "a", "namespace": "one"},
        "spec": {"hosts": ["a"], "http": [{"route": [to("b.two.svc.cluster.local")]}]},
    }
    objects = service("a", "one"), service("b", "two")
    generator, before = Generator(), world(*objects)
    after = make_snapshot(map(make_object, (*objects, route)), previous=before)
    assert "VirtualService" in UNREAD_KINDS[ResourceType.CLUSTER]
    assert "VirtualService" in UNREAD_KINDS[ResourceType.LISTENER]
    cls = generator.classify(client, before)
    assert cls == generator.classify(client, after)
    clusters, listeners = generator.clusters(before, cls), generator.listeners(before, cls)
    fresh = Generator()
    for made, expected in (
        (clusters, fresh.clusters(after, cls)),
        (listeners, fresh.listeners(after, cls)),
    ):
        assert [item.version for item in made] == [item.version for item in expected]
    with mock.patch("controlplane.translate.outbound.outbound_listener_inputs") as unneeded:
        assert [item.name for item in generator.listeners(after, cls)] == [
            item.name for item in listeners
        ]
        unneeded.assert_not_called()


def test_what_was_noticed_holds_until_the_resources_are_made_again() -> None:
    # Two services that no listener can tell apart.
    objects = [
        service(name, "one", ports=[{"name": "tcp", "port": 90}], clusterIP="10.96.0.9")
        for name in ("a", "b")
    ]
    client = make_proxy("sidecar~10.0.0.1~a.one~one.svc.cluster.local", {"NAMESPACE": "one"})
    generator, snapshot = Generator(), world(*objects)
    cls = generator.classify(client, snapshot)
    generator.listeners(snapshot, cls)
    noticed = generator.diagnostics(snapshot, cls)
    assert noticed
    later = structs.replace(snapshot, endpoints={})
    generator.load_assignment(later, cls, "outbound|90||a.one.svc.cluster.local")
    assert generator.diagnostics(later, cls) == noticed
    mended = make_snapshot(map(make_object, objects[:1]), previous=later)
    generator.listeners(mended, cls)
    assert generator.diagnostics(mended, cls) == ()
