"""EndpointSlices and Services as they are kept: nothing that anybody reads is lost."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from controlplane.model.base import Labels
from controlplane.model.core import (
    Container,
    ContainerPort,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    KubernetesService,
    KubernetesServicePort,
    Namespace,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    ServiceSpec,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.packed import (
    SERVICE_NAME,
    PackedSlice,
    SliceRow,
    pack_slice,
    packed,
    unpacked,
)

TEXT = st.text("ab-1", max_size=4)
ADDRESS = st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"))
MAYBE = st.sampled_from((None, True, False))
ENDPOINTS = st.lists(
    st.builds(
        SliceEndpoint,
        addresses=st.lists(ADDRESS, min_size=1, max_size=3).map(tuple),
        conditions=st.builds(EndpointConditions, ready=MAYBE, serving=MAYBE, terminating=MAYBE),
        target_ref=st.none() | st.builds(TargetRef, kind=TEXT, name=TEXT, namespace=TEXT),
        node_name=st.none() | TEXT,
        zone=st.none() | TEXT,
    ),
    max_size=5,
).map(tuple)


def slice_of(*endpoints: SliceEndpoint) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            name="a",
            namespace="default",
            labels=Labels({SERVICE_NAME: "b", "app": "b"}),
            annotations=Labels({"endpoints.kubernetes.io/last-change-trigger-time": "now"}),
        ),
        endpoints=endpoints,
    )


def rows_of(endpoints: tuple[SliceEndpoint, ...]) -> list[SliceRow]:
    """What endpoints say, address by address."""
    return [
        SliceRow(
            address,
            endpoint.conditions,
            None
            if endpoint.target_ref is None or not endpoint.target_ref.kind
            else ObjectRef(
                endpoint.target_ref.kind,
                endpoint.target_ref.namespace or "default",
                endpoint.target_ref.name,
            ),
            endpoint.node_name or "",
            endpoint.zone or "",
        )
        for endpoint in endpoints
        for address in endpoint.addresses
    ]


@given(ENDPOINTS)
def test_packing_loses_nothing(endpoints: tuple[SliceEndpoint, ...]) -> None:
    item = slice_of(*endpoints)
    kept = packed(item)
    assert isinstance(kept, PackedSlice)
    assert list(kept.rows()) == sorted(rows_of(endpoints), key=lambda row: row.address)
    assert kept.ref == item.ref
    assert kept.service == "b"
    assert packed(kept) is kept
    assert kept == packed(item)
    assert hash(kept) == hash(packed(item))


@given(ENDPOINTS, ENDPOINTS)
def test_slices_are_equal_when_they_say_the_same(
    first: tuple[SliceEndpoint, ...], second: tuple[SliceEndpoint, ...]
) -> None:
    same = sorted(rows_of(first), key=lambda row: row.address) == sorted(
        rows_of(second), key=lambda row: row.address
    )
    assert (packed(slice_of(*first)) == packed(slice_of(*second))) == same


def test_the_name_of_a_target_is_the_text_of_the_pod() -> None:
    name = sys.intern("".join(("pod-", "1")))
    target = TargetRef(kind="Pod", name="".join(("pod", "-1")))
    (row,) = pack_slice(slice_of(SliceEndpoint(addresses=("10.0.0.1",), target_ref=target))).rows()
    assert row.target is not None
    assert row.target.name is name


def test_a_target_with_a_name_that_no_object_has_is_none() -> None:
    target = TargetRef(kind="Pod", name="a\0b")
    kept = pack_slice(slice_of(SliceEndpoint(addresses=("10.0.0.1",), target_ref=target)))
    assert [row.target for row in kept.rows()] == [None]


def kept_service(name: str, **spec: Any) -> KubernetesService:
    labels = Labels({"app": name})
    item = KubernetesService(
        metadata=ObjectMeta(name=name, namespace="default", labels=labels),
        spec=ServiceSpec(
            ports=(KubernetesServicePort(name="http", port=80, target_port=8080),), **spec
        ),
    )
    kept = packed(item)
    assert isinstance(kept, KubernetesService)
    assert kept == item
    return kept


def test_services_with_equal_ports_share_them() -> None:
    first, second = kept_service("a"), kept_service("b")
    assert first.spec.ports is second.spec.ports


def test_pods_of_a_deployment_share_what_they_have_in_common() -> None:
    kept = []
    for number in (1, 2):
        item = Pod(
            metadata=ObjectMeta(name=f"a-{number}", namespace="default"),
            spec=PodSpec(
                node_name="".join(("node", "-1")),
                containers=(Container(name="app", ports=(ContainerPort(container_port=80),)),),
            ),
            status=PodStatus(conditions=(PodCondition(type="Ready", status="True"),)),
        )
        pod = packed(item)
        assert pod == item
        assert isinstance(pod, Pod)
        kept.append(pod)
    first, second = kept
    assert first.spec.containers is second.spec.containers
    assert first.status.conditions is second.status.conditions
    assert first.spec.node_name is second.spec.node_name


def test_slices_with_equal_ports_share_them() -> None:
    ports = [(EndpointPort(name="http", port=8080),) for _ in range(2)]
    first, second = (
        packed(structs.replace(slice_of(SliceEndpoint(addresses=(address,))), ports=port))
        for address, port in zip("ab", ports, strict=True)
    )
    assert isinstance(first, PackedSlice)
    assert isinstance(second, PackedSlice)
    assert first.ports is second.ports == ports[1]


def test_a_selector_that_repeats_the_labels_is_kept_once() -> None:
    same = kept_service("a", selector=Labels({"app": "a"}))
    assert same.spec.selector is same.metadata.labels
    other = kept_service("a", selector=Labels({"app": "b"}))
    assert other.spec.selector == {"app": "b"}


def test_other_endpoints_make_another_slice() -> None:
    one, other = (packed(slice_of(SliceEndpoint(addresses=(name,)))) for name in ("a", "b"))
    assert one != other
    assert one == packed(slice_of(SliceEndpoint(addresses=("a",))))


@pytest.mark.parametrize("item", [EndpointSlice(endpoints=None, ports=None), EndpointSlice()])
def test_a_slice_without_endpoints_has_no_rows(item: EndpointSlice) -> None:
    kept = pack_slice(item)
    assert list(kept.rows()) == []
    assert kept.ports == ()


def test_other_kinds_stay_as_they_are() -> None:
    item = Namespace()
    assert packed(item) is item


@given(ENDPOINTS)
def test_a_slice_that_is_unpacked_says_what_was_kept_of_it(
    endpoints: tuple[SliceEndpoint, ...],
) -> None:
    kept = pack_slice(slice_of(*endpoints))
    assert pack_slice(unpacked(kept)) == kept
    assert unpacked(kept).metadata.labels == {SERVICE_NAME: "b"}
