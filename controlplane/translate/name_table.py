"""The name table: which names an agent answers itself, and with which addresses.

Owns what becomes a name: services with an address, headless services and their pods, hosts of
ServiceEntries with an address. Must not know DNS: short forms, search domains and wildcards are
the agent's. The rule that is easy to break: a host without an address must not be in the table,
because the agent would answer "no such address" where the real DNS knows one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from controlplane.model.services import Endpoint, Health, Resolution, Service
from controlplane.model.snapshot import Snapshot
from controlplane.translate.envoy import NameTable
from controlplane.translate.outbound_plan import visible_services
from controlplane.translate.resources import Resource, ResourceType, serialise
from controlplane.translate.scope import OutboundClass

KUBERNETES: Final = "Kubernetes"


def name_table(snapshot: Snapshot, cls: OutboundClass) -> Resource:
    """Return the one name table of a class; its resource name is empty, as in Istio.

    Source: Istio's dns/server BuildNameTable.
    """
    table = NameTable()
    for service in visible_services(snapshot, cls):
        if _is_headless(service):
            addresses = _add_headless(table, snapshot, cls, service)
        else:
            addresses = [text for text in service.addresses if _usable(cls, text)]
        if addresses:
            _add(table, service.host, addresses, service=service, shortname=service.name)
    return Resource.of(ResourceType.NAME_TABLE, "", serialise(table))


def _is_headless(service: Service) -> bool:
    return service.provider == KUBERNETES and service.resolution is Resolution.PASSTHROUGH


def _add_headless(
    table: NameTable, snapshot: Snapshot, cls: OutboundClass, service: Service
) -> list[str]:
    """Add the names of a headless service's pods, and return all its addresses."""
    addresses: list[str] = []
    pods: dict[str, list[str]] = {}
    for endpoint in _endpoints(snapshot, service):
        if not _usable(cls, endpoint.address):
            continue
        addresses.append(endpoint.address)
        hostname = _pod_hostname(snapshot, service, endpoint)
        if hostname:
            pods.setdefault(hostname, []).append(endpoint.address)
    domain = service.host.partition(".")[2]
    for hostname, own in sorted(pods.items()):
        shortname = f"{hostname}.{service.name}"
        _add(table, f"{shortname}.{domain}", own, service=service, shortname=shortname)
    return addresses


def _endpoints(snapshot: Snapshot, service: Service) -> Iterator[Endpoint]:
    """Yield the healthy endpoints of the first port that has any, each address once."""
    endpoints = snapshot.endpoints_of(service.host)
    for port in service.ports:
        found = endpoints.at(port.name)
        if found:
            seen: set[str] = set()
            for endpoint in found:
                if endpoint.health is Health.HEALTHY and endpoint.address not in seen:
                    seen.add(endpoint.address)
                    yield endpoint
            return


def _pod_hostname(snapshot: Snapshot, service: Service, endpoint: Endpoint) -> str:
    """The host name of the pod behind an endpoint, empty when it has none in this service."""
    pod = snapshot.pods_by_ip.get(endpoint.address)
    if pod is None or pod.metadata.namespace != service.namespace:
        return ""
    return pod.spec.hostname if pod.spec.subdomain == service.name else ""


def _add(
    table: NameTable, host: str, addresses: list[str], *, service: Service, shortname: str
) -> None:
    entry = table.table[host]
    entry.ips.extend(dict.fromkeys(addresses))
    entry.registry = service.provider
    if service.provider == KUBERNETES:
        entry.shortname = shortname
        entry.namespace = service.namespace


def _usable(cls: OutboundClass, text: str) -> bool:
    """Whether the text is one address of a family that the proxy has, and not "all"."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False  # a network, or a host name
    if address.is_unspecified:
        return False
    return cls.ipv6 if address.version == 6 else cls.ipv4
