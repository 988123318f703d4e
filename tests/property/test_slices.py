"""Endpoints of a service with many EndpointSlices: remade in parts, always as if made anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.assemble import Assembler, make_snapshot
from controlplane.model.base import Labels
from controlplane.model.core import (
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    KubernetesService,
    KubernetesServicePort,
    Node,
    Pod,
    PodSpec,
    PodStatus,
    ServiceSpec,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.meta import Object, ObjectMeta, ObjectRef, Record

LABEL = "kubernetes.io/service-name"
NUMBERS = st.integers(0, 3)


def service(port: int, publish: bool) -> KubernetesService:
    return KubernetesService(
        metadata=ObjectMeta(name="a", namespace="default"),
        spec=ServiceSpec(
            ports=(KubernetesServicePort(port=80 + port, name="http"),),
            publish_not_ready_addresses=publish,
        ),
    )


def slice_of(number: int, pods: list[int], ready: bool) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name=f"a-{number}", namespace="default", labels=Labels({LABEL: "a"})),
        ports=(EndpointPort(name="http", port=8080),),
        endpoints=tuple(
            SliceEndpoint(
                addresses=(f"10.0.0.{pod}",),
                conditions=EndpointConditions(ready=ready),
                node_name=f"n{pod % 2}",
                target_ref=TargetRef(kind="Pod", name=f"p{pod}"),
            )
            for pod in pods
        ),
    )


def pod(number: int, version: int) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=f"p{number}", namespace="default", labels=Labels({"version": f"v{version}"})
        ),
        spec=PodSpec(node_name=f"n{number % 2}"),
        status=PodStatus(pod_ip=f"10.0.0.{number}", phase="Running"),
    )


def node(number: int, zone: int) -> Node:
    labels = Labels({"topology.kubernetes.io/zone": f"z{zone}"})
    return Node(metadata=ObjectMeta(name=f"n{number % 2}", labels=labels))


OBJECTS = st.one_of(
    st.builds(service, NUMBERS, st.booleans()),
    st.builds(slice_of, NUMBERS, st.lists(NUMBERS, max_size=3), st.booleans()),
    st.builds(pod, NUMBERS, NUMBERS),
    st.builds(node, NUMBERS, NUMBERS),
)


@given(steps=st.lists(st.lists(st.tuples(OBJECTS, st.booleans()), max_size=3), max_size=12))
def test_after_any_changes_everything_is_as_if_made_anew(
    steps: list[list[tuple[Object, bool]]],
) -> None:
    there: dict[ObjectRef, Object] = {}
    assembler = Assembler()
    first = (service(0, False), slice_of(0, [0, 1], True), slice_of(1, [1, 2], True))
    there.update((item.ref, item) for item in first)
    assembler.apply([Record.of(item) for item in there.values()])
    for step in steps:
        for item, stays in step:
            if stays:
                there[item.ref] = item
                assembler.apply([Record.of(item)])
            else:
                there.pop(item.ref, None)
                assembler.apply([], [item.ref])
        found, anew = assembler.snapshot(), make_snapshot(there.values())
        assert found.endpoints == anew.endpoints
        for number in range(4):
            address = f"10.0.0.{number}"
            assert found.targets_at(address) == anew.targets_at(address)
        assert found.services == anew.services
        assert dict(found.objects) == dict(anew.objects)
