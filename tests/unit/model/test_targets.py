"""What ends at an address is found from the endpoints, as if there were an entry for each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.names import Host
from controlplane.model.port_endpoints import PortEndpoints
from controlplane.model.services import (
    NO_ENDPOINTS,
    Endpoint,
    Health,
    Leaving,
    Protocol,
    Service,
    ServiceEndpoints,
    ServicePort,
)
from controlplane.model.snapshot import Snapshot
from controlplane.model.targets import (
    ServiceTarget,
    TargetIndex,
    moved_addresses,
    moved_networks,
    networks,
)

ADDRESSES = ("10.0.0.1", "10.0.0.11", "110.0.0.1", "10.0.1.1", "fd00::1", "fd00::11")
PORTS = {"http": 80, "tcp": 81}
HOSTS = (Host("a"), Host("b"))
PLACES = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from((8080, 9090)))
GROUPS = st.lists(PLACES, unique=True, min_size=1, max_size=4).map(
    lambda found: PortEndpoints.of(
        Endpoint(address=address, port=port) for address, port in sorted(found)
    )
)
ENDPOINTS = st.builds(
    ServiceEndpoints.of,
    st.dictionaries(st.sampled_from(sorted(PORTS)), GROUPS),
    st.lists(
        st.builds(Leaving, st.sampled_from(ADDRESSES), st.sampled_from(sorted(PORTS)), st.just(7)),
        unique=True,
        max_size=2,
    ),
)


def snapshot_of(*endpoints: ServiceEndpoints) -> Snapshot:
    by_host = dict(zip(HOSTS, endpoints, strict=False))
    return Snapshot(
        service_by_host={
            host: Service(
                host=host,
                name=host,
                namespace="default",
                ports=tuple(
                    ServicePort(name=name, number=number, protocol=Protocol.TCP)
                    for name, number in PORTS.items()
                ),
            )
            for host in by_host
        },
        endpoints=by_host,
        targets=TargetIndex.of(by_host),
    )


def all_targets(snapshot: Snapshot) -> dict[str, list[ServiceTarget]]:
    """The targets of each address, by looking at every endpoint."""
    found: dict[str, set[ServiceTarget]] = {}
    for host, own in snapshot.endpoints.items():
        for name, group in own.by_port.items():
            for item in group:
                target = ServiceTarget(host, PORTS[name], name, item.port)
                found.setdefault(item.address, set()).add(target)
        for address, name, port in own.leaving:
            found.setdefault(address, set()).add(ServiceTarget(host, PORTS[name], name, port))
    return {address: sorted(targets) for address, targets in found.items()}


@given(ENDPOINTS, ENDPOINTS)
def test_targets_of_an_address_are_those_of_all_services(
    first: ServiceEndpoints, second: ServiceEndpoints
) -> None:
    snapshot = snapshot_of(first, second)
    expected = all_targets(snapshot)
    for address in ADDRESSES:
        assert list(snapshot.targets_at(address)) == expected.get(address, [])


@given(ENDPOINTS, ENDPOINTS)
def test_addresses_move_when_their_targets_differ(
    old: ServiceEndpoints, new: ServiceEndpoints
) -> None:
    before, after = all_targets(snapshot_of(old)), all_targets(snapshot_of(new))
    expected = {address for address in ADDRESSES if before.get(address) != after.get(address)}
    assert moved_addresses(old, new) == expected


@given(ENDPOINTS, ENDPOINTS)
def test_networks_are_left_and_entered_as_addresses_move(
    old: ServiceEndpoints, new: ServiceEndpoints
) -> None:
    left, entered = moved_networks(moved_addresses(old, new), old, new)
    assert left == networks(old) - networks(new)
    assert entered == networks(new) - networks(old)


def test_another_health_moves_nothing() -> None:
    old, new = (
        ServiceEndpoints.of(
            {"http": PortEndpoints.of([Endpoint(address="10.0.0.1", port=80, health=health)])}
        )
        for health in (Health.HEALTHY, Health.UNHEALTHY)
    )
    assert old != new
    assert moved_addresses(old, new) == frozenset()
    assert moved_addresses(old, NO_ENDPOINTS) == {"10.0.0.1"}
