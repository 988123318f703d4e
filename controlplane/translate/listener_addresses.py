"""On which addresses a sidecar listens for a service that is not HTTP.

Owns virtual IPs, networks, headless services and interception mode NONE. Must not know filter
chains. The rule that is easy to break: a proxy never listens on its own address for a headless
service, because the connection would not leave the pod.
"""

from __future__ import annotations

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
    return any(_network(address) is not None for address in service.addresses if "/" in address)


def partial_wildcard(host: str) -> bool:
    """Whether the wildcard of a host covers only a part of a label, as in `*-eu.example.com`."""
    return host.startswith("*") and host != "*" and not host.startswith("*.")


def _of_addresses(cls: OutboundClass, service: Service) -> Iterator[Place]:
    usable = [address for address in service.addresses if _in_family(cls, address)]
    if service.provider == "Kubernetes":
        # A proxy of one IP family listens on one of the cluster IPs.
        usable = usable[:1]
    for address in usable:
        network = _network(address) if "/" in address else None
        if network is not None:
            yield Place(cls.wildcard_address, "" if network.endswith("/0") else network)
            continue
        plain = ipaddress.ip_address(address.partition("/")[0])
        yield Place(cls.wildcard_address if plain.is_unspecified else str(plain))


def _of_endpoints(
    snapshot: Snapshot, cls: OutboundClass, service: Service, port: ServicePort
) -> Iterator[Place]:
    """Yield one place for each endpoint of a headless service, in the order of the endpoints."""
    endpoints = snapshot.endpoints_of(service.host).by_port.get(port.name, ())
    if not endpoints and service.provider != "Kubernetes" and not service.selector:
        yield Place(cls.wildcard_address)  # a ServiceEntry that says only a name
        return
    for address in dict.fromkeys(
        endpoint.address for endpoint in endpoints if endpoint.health is not Health.UNHEALTHY
    ):
        if address not in cls.own_headless and _in_family(cls, address):
            yield Place(address)


def _in_family(cls: OutboundClass, address: str) -> bool:
    """Whether an address is an IP address or network of a family that the proxy has."""
    try:
        version = ipaddress.ip_interface(address).version
    except ValueError:
        return False
    return cls.ipv6 if version == 6 else cls.ipv4


def _network(address: str) -> str | None:
    """Return the CIDR with host bits zero, None for a single address or what is no CIDR."""
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        return None
    return None if network.num_addresses == 1 else str(network)
