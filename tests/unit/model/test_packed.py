"""EndpointSlices as they are kept: nothing is lost, and equal is equal in either form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from controlplane.model.base import Labels, enc_hook
from controlplane.model.core import (
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    KubernetesService,
    KubernetesServicePort,
    Namespace,
    ServiceSpec,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.meta import ObjectMeta
from controlplane.model.packed import PackedEndpoints, packed

TEXT = st.text("ab-1", max_size=4)
MAYBE = st.sampled_from((None, True, False))
ENDPOINTS = st.lists(
    st.builds(
        SliceEndpoint,
        addresses=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
        conditions=st.builds(EndpointConditions, ready=MAYBE, serving=MAYBE, terminating=MAYBE),
        target_ref=st.none() | st.builds(TargetRef, kind=TEXT, name=TEXT, namespace=TEXT),
        node_name=st.none() | TEXT,
        zone=st.none() | TEXT,
    ),
    max_size=5,
).map(tuple)


def slice_of(*endpoints: SliceEndpoint) -> EndpointSlice:
    return EndpointSlice(metadata=ObjectMeta(name="a", namespace="default"), endpoints=endpoints)


@given(ENDPOINTS)
def test_packing_loses_nothing(endpoints: tuple[SliceEndpoint, ...]) -> None:
    item = slice_of(*endpoints)
    kept = packed(item)
    assert isinstance(kept, EndpointSlice)
    assert kept.endpoints is not None
    assert isinstance(kept.endpoints, PackedEndpoints) or not endpoints
    assert tuple(kept.endpoints) == endpoints
    assert len(kept.endpoints) == len(endpoints)
    assert kept == item
    assert hash(kept) == hash(item)
    assert packed(kept) == kept
    assert msgspec.to_builtins(kept, enc_hook=enc_hook) == msgspec.to_builtins(item)


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


def test_slices_with_equal_ports_share_them() -> None:
    ports = [(EndpointPort(name="http", port=8080),) for _ in range(2)]
    first, second = (
        packed(structs.replace(slice_of(SliceEndpoint(addresses=(address,))), ports=port))
        for address, port in zip("ab", ports, strict=True)
    )
    assert isinstance(first, EndpointSlice)
    assert isinstance(second, EndpointSlice)
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


@pytest.mark.parametrize("item", [EndpointSlice(endpoints=None), EndpointSlice(), Namespace()])
def test_what_has_no_endpoints_stays_as_it_is(item: EndpointSlice | Namespace) -> None:
    assert packed(item) is item
