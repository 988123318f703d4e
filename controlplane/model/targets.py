"""Which service ports end at an address: what inbound listeners are made of.

Owns how that is found again from the endpoints. Must not know proxies. The rule that is easy to
break: a workload that shuts down is no endpoint any more and still has its listeners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Self

from controlplane.model.columns import has_network, may_hold, network_of
from controlplane.model.names import Host
from controlplane.model.port_endpoints import PortEndpoints, places
from controlplane.model.services import Endpoint, Service, ServiceEndpoints


class ServiceTarget(NamedTuple):
    """A service port that ends at one address."""

    host: Host
    port: int  # service port number
    port_name: str
    target_port: int


class TargetIndex:
    """Which services have something at the addresses of a network. Read only.

    There is another one whenever anything ends elsewhere than before. What ends at an address
    is found by looking at the endpoints of the few services near it: an entry for each address
    would cost more than everything else that is known of an endpoint.
    """

    __slots__ = ("_hosts",)

    def __init__(self, hosts: Mapping[str, tuple[Host, ...]]) -> None:
        self._hosts: Final = hosts

    @classmethod
    def of(cls, endpoints: Mapping[Host, ServiceEndpoints]) -> Self:
        """Return the index of endpoints."""
        found: dict[str, list[Host]] = {}
        for host, own in endpoints.items():
            for network in networks(own):
                found.setdefault(network, []).append(host)
        return cls({network: tuple(sorted(hosts)) for network, hosts in found.items()})

    def near(self, address: str) -> tuple[Host, ...]:
        """Return the services of which something is in the network of an address."""
        return self._hosts.get(network_of(address), ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TargetIndex) and dict(self._hosts) == dict(other._hosts)

    __hash__ = None  # type: ignore[assignment]  # compared, and never a key


NO_TARGETS: Final = TargetIndex({})


def networks(endpoints: ServiceEndpoints) -> set[str]:
    """Return the networks of all addresses of a service."""
    found = {network_of(entry.address) for entry in endpoints.leaving}
    for group in endpoints.groups:
        if isinstance(group, PortEndpoints):
            found |= group.networks
        else:
            found.update([network_of(endpoint.address) for endpoint in group])
    return found


def moved_networks(
    moved: Iterable[str], old: ServiceEndpoints, new: ServiceEndpoints
) -> tuple[set[str], set[str]]:
    """Return the networks that a service leaves, and those that it enters, when these addresses
    moved."""
    touched = set(map(network_of, moved))
    return (
        {network for network in touched if not _is_in(new, network)},
        {network for network in touched if not _is_in(old, network)},
    )


def _is_in(endpoints: ServiceEndpoints, network: str) -> bool:
    return any(network_of(entry.address) == network for entry in endpoints.leaving) or any(
        _has(group, network) for group in endpoints.groups
    )


def _has(group: Sequence[Endpoint], network: str) -> bool:
    if not isinstance(group, PortEndpoints):
        return any(network_of(endpoint.address) == network for endpoint in group)
    return has_network(group.text, network)


def targets_at(
    address: str, service: Service, endpoints: ServiceEndpoints
) -> Iterator[ServiceTarget]:
    """Yield the ports of a service that end at an address."""
    ports = {port.name: port.number for port in service.ports}
    for name, group in zip(endpoints.names, endpoints.groups, strict=True):
        if isinstance(group, PortEndpoints) and not may_hold(group.text, address):
            continue  # almost always enough; an address may also be a part of another one
        for place, number in places(group):
            if place == address and name in ports:
                yield ServiceTarget(service.host, ports[name], name, number)
    for place, name, number in endpoints.leaving:
        if place == address and name in ports:
            yield ServiceTarget(service.host, ports[name], name, number)


def moved_addresses(old: ServiceEndpoints, new: ServiceEndpoints) -> frozenset[str]:
    """Return the addresses at which another port of the service ends than before, or none."""
    if old.names == new.names and old.leaving == new.leaving:
        found: set[str] = set()
        for before, after in zip(old.groups, new.groups, strict=True):
            moved = _moved(before, after)
            if moved is None:
                break
            found.update(moved)
        else:
            return frozenset(found)
    return frozenset(address for address, _, _ in _places(old) ^ _places(new))


def _moved(old: Sequence[Endpoint], new: Sequence[Endpoint]) -> Iterable[str] | None:
    """Return the addresses that moved, None when all has to be looked at."""
    if isinstance(old, PortEndpoints) and isinstance(new, PortEndpoints):
        return () if old.stays(new) else old.moved(new)
    return () if old == new else None


def _places(endpoints: ServiceEndpoints) -> set[tuple[str, str, int]]:
    """Return what ends where: addresses, names of service ports, and port numbers."""
    found: set[tuple[str, str, int]] = {*endpoints.leaving}
    for name, group in zip(endpoints.names, endpoints.groups, strict=True):
        found.update((address, name, port) for address, port in places(group))
    return found
