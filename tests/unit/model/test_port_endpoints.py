"""Endpoints in columns read like the objects that they were made of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.meta import ObjectRef
from controlplane.model.port_endpoints import PortEndpoints, known_endpoints, places, workloads
from controlplane.model.services import Endpoint, Health, Workload

WORKLOADS = st.builds(Workload, name=st.sampled_from(("a", "b")), node=st.sampled_from(("", "n")))
ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        address=st.sampled_from(("10.0.0.1", "10.0.0.2", "::1")),
        port=st.integers(0, 2),
        health=st.sampled_from(Health),
        weight=st.integers(1, 2),
        workload=WORKLOADS,
        source=st.none()
        | st.builds(ObjectRef, st.just("Pod"), st.just("x"), st.sampled_from("ab")),
    ),
    max_size=5,
).map(tuple)


@given(ENDPOINTS)
def test_columns_lose_nothing(endpoints: tuple[Endpoint, ...]) -> None:
    kept = PortEndpoints.of(endpoints)
    assert tuple(kept) == endpoints
    assert kept == endpoints
    assert len(kept) == len(endpoints)
    assert [kept[index] for index in range(len(kept))] == list(endpoints)
    assert kept[1:] == endpoints[1:]
    assert set(workloads(kept)) == set(workloads(endpoints))


@given(ENDPOINTS, ENDPOINTS)
def test_columns_are_equal_when_endpoints_are(
    first: tuple[Endpoint, ...], second: tuple[Endpoint, ...]
) -> None:
    kept, other = PortEndpoints.of(first), PortEndpoints.of(second)
    assert (kept == other) == (first == second)
    assert hash(kept) == hash(PortEndpoints.of(list(first)))


@given(ENDPOINTS, ENDPOINTS)
def test_what_is_known_does_not_change_what_is_made(
    first: tuple[Endpoint, ...], second: tuple[Endpoint, ...]
) -> None:
    last = PortEndpoints.of(first)
    made = known_endpoints(PortEndpoints.of(second), last)
    assert tuple(made) == second
    assert (made is last) == (first == second)


@given(ENDPOINTS)
def test_places_are_addresses_and_ports(endpoints: tuple[Endpoint, ...]) -> None:
    expected = [(endpoint.address, endpoint.port) for endpoint in endpoints]
    assert list(places(PortEndpoints.of(endpoints))) == expected
    assert list(places(endpoints)) == expected


def test_a_workload_that_stays_is_the_same_object() -> None:
    last, made = (
        PortEndpoints.of(
            Endpoint(address=f"10.0.0.{number}", port=1, workload=Workload(name=str(number)))
            for number in numbers
        )
        for numbers in ((1, 2), (2, 3))
    )
    kept = known_endpoints(made, last)
    assert kept[0].workload is last[1].workload
    assert kept == made


def test_what_all_endpoints_share_is_kept_once_for_all_services() -> None:
    first, second = (
        PortEndpoints.of(
            [Endpoint(address=f"10.0.{number}.{last}", port=80 + number) for last in (1, 2)]
        )
        for number in (0, 0)
    )
    assert first.workloads is second.workloads
    assert first.stays(second)
    assert not first.stays(PortEndpoints.of([Endpoint(address="10.0.0.1", port=80)]))
