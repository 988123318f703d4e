"""On which addresses a sidecar listens for a service that is not HTTP.

Owns virtual IPs, networks, headless services and interception mode NONE. Must not know filter
chains. The rule that is easy to break: a proxy never listens on its own address for a headless
service, because the connection would not leave the pod.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from controlplane.model.services import Health, Resolution, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.translate.scope import OutboundClass


class Place(NamedTuple):
    """An address to listen on; `network` narrows the wildcard to destinations inside a CIDR."""

    bind: str
    network: str = ""


def places(
    snapshot: Snapshot, cls: OutboundClass, service: Service, port: ServicePort
) -> tuple[Place, ...]:
    """Return where a class listens for a TCP port of a service, without repetition.

    Source: Istio's buildSidecarOutboundListeners and GetAddressForProxy.
    """
    if cls.interception_mode == "NONE":
        return (Place(cls.loopback_address),)
    if service.addresses:
        return tuple(dict.fromkeys(_of_addresses(cls, service)))
    if service.resolution is Resolution.PASSTHROUGH:
        return tuple(_of_endpoints(snapshot, cls, service, port))
    return (Place(cls.wildcard_address),)


def has_networks(service: Service) -> bool:
    """Whether one of the service's addresses stands for more than itself."""
    return any("/" in address and _is_network(address) for address in service.addresses)


def partial_wildcard(host: str) -> bool:
    """Whether the wildcard of a host covers only a part of a label, as in `*-eu.example.com`."""
    return host.startswith("*") and host != "*" and not host.startswith("*.")


def _of_addresses(cls: OutboundClass, service: Service) -> Iterator[Place]:
    usable = [
        parsed
        for address in service.addresses
        if (parsed := _parse(address)) is not None and _has_family(cls, parsed)
    ]
    if service.provider == "Kubernetes":
        # A proxy of one IP family listens on one of the cluster IPs.
        usable = usable[:1]
    for parsed in usable:
        yield Place(parsed.bind or cls.wildcard_address, parsed.network)


def _of_endpoints(
    snapshot: Snapshot, cls: OutboundClass, service: Service, port: ServicePort
) -> Iterator[Place]:
    """Yield one place for each endpoint of a headless service, in the order of the endpoints."""
    endpoints = snapshot.endpoints_of(service.host).at(port.name)
    if not endpoints and service.provider != "Kubernetes" and not service.selector:
        yield Place(cls.wildcard_address)  # a ServiceEntry that says only a name
        return
    for address in dict.fromkeys(
        endpoint.address for endpoint in endpoints if endpoint.health is not Health.UNHEALTHY
    ):
        parsed = _parse(address)
        if parsed is not None and _has_family(cls, parsed) and address not in cls.own_headless:
            yield Place(address)


class _Parsed(NamedTuple):
    """An address: what to bind, empty for the wildcard, and the network to narrow that to."""

    version: int
    bind: str
    network: str


@functools.lru_cache(maxsize=65536)
def _parse(address: str) -> _Parsed | None:
    """Return what an IP address or CIDR means, None when it is neither.

    A network of one address is that address; a network of all addresses narrows nothing.
    """
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        return None
    if network.num_addresses == 1:
        plain = network.network_address
        return _Parsed(network.version, "" if plain.is_unspecified else str(plain), "")
    return _Parsed(network.version, "", str(network) if network.prefixlen else "")


def _has_family(cls: OutboundClass, parsed: _Parsed) -> bool:
    return cls.ipv6 if parsed.version == 6 else cls.ipv4


def _is_network(address: str) -> bool:
    parsed = _parse(address)
    return parsed is not None and not parsed.bind
