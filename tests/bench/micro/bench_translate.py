"""Micro-benchmarks of translation: one resource of each kind, and all of a class.

Named `bench_*` so that `make test` does not collect them; `make bench` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controlplane.model.snapshot import Snapshot
from controlplane.sources.parse import parse_file
from controlplane.translate.build import Generator
from controlplane.translate.clusters import build_cluster, outbound_cluster_inputs
from controlplane.translate.endpoints import build_load_assignment, load_assignment_input
from controlplane.translate.listeners import build_listener, outbound_listener_inputs
from controlplane.translate.narrowing import Sights
from controlplane.translate.routes import join_route, route_input
from controlplane.translate.scope import Classifier, ProxyClass
from controlplane.translate.virtual_hosts import build_virtual_host
from tests.bench import world
from tests.bench.bed import Size, mesh_directory
from tests.bench.translation import load, proxies, translate

Run = Callable[..., Any]
SIZE = Size()
CLUSTER = f"outbound|9080||svc-7.ns-7.svc.{world.DOMAIN}"


@pytest.fixture(scope="module")
def snapshot() -> Iterator[Snapshot]:
    with mesh_directory(SIZE) as directory:
        yield load(directory.objects)


@pytest.fixture(scope="module")
def cls(snapshot: Snapshot) -> ProxyClass:
    (proxy,) = proxies(1, classes=1, namespaces=SIZE.namespaces)
    return Generator().classify(proxy, snapshot)


def test_inputs_of_all_clusters(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    inputs = benchmark(outbound_cluster_inputs, snapshot, cls.outbound)
    assert len(inputs) > SIZE.services


def test_one_cluster(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    value = outbound_cluster_inputs(snapshot, cls.outbound)[0]
    assert benchmark(build_cluster, value).resource is not None


def test_input_of_one_load_assignment(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    assert benchmark(load_assignment_input, snapshot, cls.outbound, CLUSTER)


def test_one_load_assignment(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    value = load_assignment_input(snapshot, cls.outbound, CLUSTER)
    made = benchmark(build_load_assignment, value).resource
    assert made is not None
    assert len(made.body) > 100


def test_one_listener(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    value = outbound_listener_inputs(snapshot, cls.outbound)[0]
    assert benchmark(build_listener, value).resource is not None


def test_input_of_a_route_configuration(
    benchmark: Run, snapshot: Snapshot, cls: ProxyClass
) -> None:
    value = benchmark(route_input, snapshot, cls.outbound, "9080")
    assert len(value.virtual_hosts) >= SIZE.services


def test_one_virtual_host(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    value = route_input(snapshot, cls.outbound, "9080").virtual_hosts[0]
    assert benchmark(build_virtual_host, value)


def test_join_of_virtual_hosts(benchmark: Run, snapshot: Snapshot, cls: ProxyClass) -> None:
    value = route_input(snapshot, cls.outbound, "9080")
    hosts = tuple(build_virtual_host(host) for host in value.virtual_hosts)
    made = benchmark(join_route, value, hosts).resource
    assert made is not None
    assert len(made.body) > 100 * SIZE.services


def test_everything_of_one_class(benchmark: Run, snapshot: Snapshot) -> None:
    clients = proxies(1, classes=1, namespaces=SIZE.namespaces)
    assert benchmark(lambda: translate(Generator(), snapshot, clients)) == 1


def test_everything_of_twenty_classes(benchmark: Run, snapshot: Snapshot) -> None:
    clients = proxies(20, classes=20, namespaces=SIZE.namespaces)
    assert benchmark(lambda: translate(Generator(), snapshot, clients)) == 20


def test_which_of_the_namespaces_are_alike(benchmark: Run, snapshot: Snapshot) -> None:
    names = [f"ns-{number}" for number in range(SIZE.namespaces)]
    assert benchmark(lambda: {Sights(snapshot).alike(name) for name in names}) == {""}


def test_class_of_one_proxy_in_a_new_snapshot(benchmark: Run, snapshot: Snapshot) -> None:
    (proxy,) = proxies(1, classes=1, namespaces=SIZE.namespaces)
    assert benchmark(lambda: Classifier(snapshot).classify(proxy))


def test_decoding_of_an_object(benchmark: Run) -> None:
    import msgspec

    data = msgspec.json.encode(world.endpoint_slice(7))
    assert benchmark(parse_file, "slice.json", data).objects
