"""Endpoints of EndpointSlices wait for their pods where every pod is told of."""

from __future__ import annotations

import pytest

from controlplane.model.assemble import Assembler
from controlplane.model.core import EndpointSlice, SliceEndpoint, TargetRef
from controlplane.model.meta import Object, Provenance, Record
from controlplane.model.snapshot import Snapshot
from tests.unit.model.test_assemble import addresses, at, pod, service, slice_of

CLUSTER, FILES = Provenance("kubernetes"), Provenance("files", file="a.yaml", line=1)
OF_A_POD = at("10.0.0.1", pod="reviews-1")
MANUAL = at("192.0.2.1")
OF_A_NODE = SliceEndpoint(
    addresses=("192.0.2.2",), target_ref=TargetRef(kind="Node", name="node-1")
)


class Mesh:
    """An assembler that a cluster tells of everything."""

    def __init__(self) -> None:
        self._assembler = Assembler()
        self.follows(True)

    def follows(self, pods: bool) -> None:
        """The cluster tells of every pod, or not."""
        self._assembler.follow_pods(CLUSTER.source, follows=pods)

    def has(self, *objects: Object, origin: Provenance = CLUSTER) -> Snapshot:
        """Objects come or change."""
        self._assembler.apply([Record.of(item, origin) for item in objects])
        return self._assembler.snapshot()

    def loses(self, item: Object) -> Snapshot:
        """An object goes."""
        self._assembler.apply([], [item.ref])
        return self._assembler.snapshot()

    def snapshot(self) -> Snapshot:
        """What there is now."""
        return self._assembler.snapshot()


@pytest.fixture(params=[1, 2], ids=["one slice", "two slices"])
def slices(request: pytest.FixtureRequest) -> list[EndpointSlice]:
    """The endpoint of a pod and others, in one EndpointSlice or in two."""
    if request.param == 1:
        return [slice_of(OF_A_POD, MANUAL, OF_A_NODE)]
    return [slice_of(OF_A_POD, suffix="x"), slice_of(MANUAL, OF_A_NODE, suffix="y")]


def test_an_endpoint_comes_and_goes_with_its_pod(slices: list[EndpointSlice]) -> None:
    mesh = Mesh()
    found = mesh.has(service(), *slices)
    assert addresses(found) == ["192.0.2.1:8080", "192.0.2.2:8080"]
    assert found.waiting_for_pods == {"10.0.0.1"}
    assert not found.targets_at("10.0.0.1")

    mine = pod("reviews-1", "10.0.0.1", version="v1")
    found = mesh.has(mine)
    assert addresses(found) == ["10.0.0.1:8080", "192.0.2.1:8080", "192.0.2.2:8080"]
    (endpoint, *_) = found.endpoints_of(found.services[0].host).by_port["http"]
    assert endpoint.workload.labels == {"version": "v1"}
    assert not found.waiting_for_pods

    found = mesh.loses(mine)
    assert addresses(found) == ["192.0.2.1:8080", "192.0.2.2:8080"]
    assert found.waiting_for_pods == {"10.0.0.1"}


def test_a_slice_or_service_that_goes_waits_no_more(slices: list[EndpointSlice]) -> None:
    mesh = Mesh()
    assert mesh.has(service(), *slices).waiting_for_pods
    assert not mesh.loses(slices[0]).waiting_for_pods
    assert mesh.has(slices[0]).waiting_for_pods
    assert not mesh.loses(service()).waiting_for_pods


def test_nothing_waits_while_pods_are_not_told_of(slices: list[EndpointSlice]) -> None:
    mesh = Mesh()
    mesh.has(service(), *slices)
    mesh.follows(False)
    found = mesh.snapshot()
    assert addresses(found) == ["10.0.0.1:8080", "192.0.2.1:8080", "192.0.2.2:8080"]
    assert not found.waiting_for_pods
    mesh.follows(True)
    assert mesh.snapshot().waiting_for_pods == {"10.0.0.1"}


def test_slices_of_another_source_wait_for_no_pod(slices: list[EndpointSlice]) -> None:
    """Files with EndpointSlices and without pods are a whole mesh."""
    found = Mesh().has(service(), *slices, origin=FILES)
    assert addresses(found) == ["10.0.0.1:8080", "192.0.2.1:8080", "192.0.2.2:8080"]
    assert not found.waiting_for_pods
