"""Pods and EndpointSlices are told of in any order, and no endpoint is seen without its pod."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.assemble import Assembler
from controlplane.model.base import Labels
from controlplane.model.core import (
    EndpointPort,
    EndpointSlice,
    KubernetesService,
    KubernetesServicePort,
    Pod,
    PodSpec,
    PodStatus,
    ServiceSpec,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.meta import Object, ObjectMeta, ObjectRef, Provenance, Record
from controlplane.model.names import Host
from controlplane.model.snapshot import Snapshot

SOURCE = "kubernetes"
ORIGIN = Provenance(SOURCE)
HOST = Host("a.default.svc.cluster.local")
SERVICE = KubernetesService(
    metadata=ObjectMeta(name="a", namespace="default"),
    spec=ServiceSpec(ports=(KubernetesServicePort(port=80, name="http"),)),
)
NUMBERS = st.integers(0, 3)

Event = tuple[ObjectRef, Object | None]


def pod(number: int, version: int) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=f"p{number}", namespace="default", labels=Labels({"version": f"v{version}"})
        ),
        spec=PodSpec(),
        status=PodStatus(pod_ip=f"10.0.0.{number}", phase="Running"),
    )


def slice_of(number: int, pods: list[int], manual: bool) -> EndpointSlice:
    """Endpoints of pods, and with `manual` one that belongs to none."""
    label = {"kubernetes.io/service-name": "a"}
    endpoints = [
        SliceEndpoint(
            addresses=(f"10.0.0.{pod}",), target_ref=TargetRef(kind="Pod", name=f"p{pod}")
        )
        for pod in pods
    ]
    if manual:
        endpoints.append(SliceEndpoint(addresses=(f"192.0.2.{number}",)))
    return EndpointSlice(
        metadata=ObjectMeta(name=f"a-{number}", namespace="default", labels=Labels(label)),
        ports=(EndpointPort(name="http", port=8080),),
        endpoints=tuple(endpoints),
    )


def events(objects: st.SearchStrategy[Object]) -> st.SearchStrategy[list[Event]]:
    """What a watch of one kind tells: objects come, change and go."""
    event = st.tuples(objects, st.booleans())
    return st.lists(event.map(lambda told: (told[0].ref, told[0] if told[1] else None)), max_size=8)


def merged(left: Sequence[Event], right: Sequence[Event], turns: Sequence[bool]) -> list[Event]:
    """Both in their own order, in turns."""
    rest, other, found = list(left), list(right), []
    for turn in turns:
        chosen = rest if turn else other
        if chosen:
            found.append(chosen.pop(0))
    return [*found, *rest, *other]


def tell(assembler: Assembler, event: Event) -> Snapshot:
    ref, item = event
    assembler.apply(
        [] if item is None else [Record.of(item, ORIGIN)], [ref] if item is None else []
    )
    return assembler.snapshot()


def following() -> Assembler:
    assembler = Assembler()
    assembler.follow_pods(SOURCE, follows=True)
    assembler.apply([Record.of(SERVICE, ORIGIN)])
    return assembler


def endpoints(snapshot: Snapshot) -> dict[str, str]:
    """Addresses of endpoints, with the version that their pod is labelled with."""
    return {
        endpoint.address: endpoint.workload.labels.get("version", "")
        for group in snapshot.endpoints_of(HOST).by_port.values()
        for endpoint in group
    }


@given(
    pods=events(st.builds(pod, NUMBERS, NUMBERS)),
    slices=events(st.builds(slice_of, NUMBERS, st.lists(NUMBERS, max_size=3), st.booleans())),
    turns=st.lists(st.booleans(), max_size=16),
)
def test_any_order_ends_the_same_and_shows_no_endpoint_without_its_pod(
    pods: list[Event], slices: list[Event], turns: list[bool]
) -> None:
    assembler, in_order = following(), following()
    found = assembler.snapshot()
    for event in merged(pods, slices, turns):
        found = tell(assembler, event)
        for address, version in endpoints(found).items():
            assert bool(version) == address.startswith("10."), endpoints(found)
    wanted = in_order.snapshot()
    for event in (*pods, *slices):
        wanted = tell(in_order, event)
    assert found == wanted

    there = {ref: item for ref, item in dict(slices).items() if item is not None}
    known = {ref.name for ref, item in dict(pods).items() if item is not None}
    named = {
        (address, endpoint.target_ref.name if endpoint.target_ref is not None else "")
        for item in there.values()
        if isinstance(item, EndpointSlice)
        for endpoint in item.endpoints or ()
        for address in endpoint.addresses
    }
    assert endpoints(found).keys() == {
        address for address, name in named if not name or name in known
    }
    assert found.waiting_for_pods == {
        address for address, name in named if name and name not in known
    }
