"""What objects say about each other: references that lead nowhere, conflicts, dead rules.

Pure, over a whole snapshot; codes and levels are those of `istioctl analyze`, except that a
reference that leads nowhere is a Warning here, because the other object may be in another file
or still to come. The rule that is easy to break: a check never keeps an object out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from controlplane.model.check_gateways import gateway_checks
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.matching import StringMatch
from controlplane.model.meta import ObjectRef
from controlplane.model.names import (
    MESH_GATEWAY,
    Host,
    gateway_key,
    host_covers,
    hosts_overlap,
    is_wildcard,
    resolve_host,
)
from controlplane.model.port_endpoints import workloads
from controlplane.model.schema import Path, format_path
from controlplane.model.services import Protocol, Resolution, Service, ServiceEndpoints
from controlplane.model.snapshot import Snapshot, selects
from controlplane.model.virtual_service import Destination, HTTPRoute, VirtualService

NOT_FOUND = "IST0101"  # ReferencedResourceNotFound
CONFLICTING_HOSTS = "IST0109"  # ConflictingMeshGatewayVirtualServiceHosts
PORT_REQUIRED = "IST0112"  # VirtualServiceDestinationPortSelectorRequired
PORT_NAME = "IST0118"  # PortNameIsNotUnderNamingConvention
UNREACHABLE = "IST0130"  # VirtualServiceUnreachableRule
NO_PODS = "IST0173"  # DestinationRuleSubsetNotSelectPods
UNKNOWN_HOST = "IST0174"  # UnknownDestinationRuleHost


class Checks:
    """Runs the checks of a mesh that changes step by step, again only where it must."""

    def __init__(self) -> None:
        self._inputs: tuple[object, ...] = ()
        self._config: tuple[Diagnostic, ...] = ()
        self._subsets: dict[
            ObjectRef, tuple[DestinationRule, ServiceEndpoints, tuple[Diagnostic, ...]]
        ] = {}

    def run(self, snapshot: Snapshot) -> Iterator[Diagnostic]:
        """Yield what is wrong between the objects of a snapshot, without file and line."""
        inputs = (
            snapshot.services,
            snapshot.virtual_services,
            snapshot.destination_rules,
            snapshot.gateways,
            snapshot.pods_by_ip,
        )
        same = len(inputs) == len(self._inputs) and all(
            new is old for new, old in zip(inputs, self._inputs, strict=True)
        )
        if not same:
            self._inputs = inputs
            self._config = tuple(config_checks(snapshot))
        yield from self._config
        yield from self._subset_checks(snapshot)

    def _subset_checks(self, snapshot: Snapshot) -> Iterator[Diagnostic]:
        before, self._subsets = self._subsets, {}
        for rule in snapshot.destination_rules:
            host = resolve_host(rule.spec.host, rule.metadata.namespace, snapshot.domain)
            endpoints = snapshot.endpoints_of(host)
            known = before.get(rule.ref)
            if known is None or known[0] is not rule or known[1] is not endpoints:
                found = tuple(_subsets_without_pods(rule, endpoints))
                known = (rule, endpoints, found)
            self._subsets[rule.ref] = known
            yield from known[2]


def config_checks(snapshot: Snapshot) -> Iterator[Diagnostic]:
    """Yield what is wrong between objects, apart from what depends on endpoints."""
    hosts = Hosts(snapshot)
    for virtual_service in snapshot.virtual_services:
        yield from _destinations(virtual_service, hosts)
        yield from _gateways_exist(virtual_service, snapshot)
        yield from _unreachable(virtual_service)
    yield from _host_conflicts(snapshot)
    for rule in snapshot.destination_rules:
        namespace = rule.metadata.namespace
        host = resolve_host(rule.spec.host, namespace, snapshot.domain)
        if not hosts.covers_any(host):
            yield _diagnostic(
                Level.WARNING, UNKNOWN_HOST, rule.ref, ("spec", "host"),
                f"no service has the host {host}",
            )  # fmt: skip
    yield from gateway_checks(snapshot)
    for service in snapshot.services:
        yield from _port_names(service)


class Hosts:
    """Which hosts there are, wildcards of ServiceEntries included."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._wildcards = [host for host in snapshot.service_by_host if is_wildcard(host)]

    def find(self, host: Host) -> Service | None:
        """Return the service that answers for a host."""
        found = self.snapshot.service_by_host.get(host)
        if found is not None:
            return found
        covering = [pattern for pattern in self._wildcards if host_covers(pattern, host)]
        longest = max(covering, key=len, default=None)
        return None if longest is None else self.snapshot.service_by_host[longest]

    def covers_any(self, host: Host) -> bool:
        """Whether a host, possibly a wildcard, stands for at least one service."""
        if self.find(host) is not None:
            return True
        return is_wildcard(host) and any(
            hosts_overlap(host, known) for known in self.snapshot.service_by_host
        )


def _diagnostic(level: Level, code: str, ref: ObjectRef, path: Path, message: str) -> Diagnostic:
    return Diagnostic(level=level, code=code, ref=ref, field=format_path(path), message=message)


def _named(item: VirtualService) -> Iterator[tuple[Path, Destination]]:
    """Yield every destination of a VirtualService with its path."""
    for index, route in enumerate(item.spec.http):
        path: Path = ("spec", "http", index)
        for at, weighted in enumerate(route.route):
            yield (*path, "route", at, "destination"), weighted.destination
        if route.mirror is not None:
            yield (*path, "mirror"), route.mirror
        for at, mirror in enumerate(route.mirrors):
            yield (*path, "mirrors", at, "destination"), mirror.destination
    l4 = (
        *(("tls", index, tls.route) for index, tls in enumerate(item.spec.tls)),
        *(("tcp", index, tcp.route) for index, tcp in enumerate(item.spec.tcp)),
    )
    for kind, index, routes in l4:
        for at, target in enumerate(routes):
            yield ("spec", kind, index, "route", at, "destination"), target.destination


def _destinations(item: VirtualService, hosts: Hosts) -> Iterator[Diagnostic]:
    namespace, domain = item.metadata.namespace, hosts.snapshot.domain
    for path, destination in _named(item):
        host = resolve_host(destination.host, namespace, domain)
        service = hosts.find(host)
        if service is None:
            yield _diagnostic(
                Level.WARNING, NOT_FOUND, item.ref, (*path, "host"),
                f"no service has the host {host}; requests get 503",
            )  # fmt: skip
            continue
        if destination.subset and not _has_subset(destination.subset, host, service, item, hosts):
            yield _diagnostic(
                Level.WARNING, NOT_FOUND, item.ref, (*path, "subset"),
                f"no DestinationRule for {host} has the subset {destination.subset!r};"
                " requests get 503",
            )  # fmt: skip
        number = destination.port.number if destination.port is not None else None
        if service.resolution is Resolution.ALIAS:
            continue
        numbers = [port.number for port in service.ports if port.protocol is not Protocol.UDP]
        if number is None and len(numbers) > 1:
            yield _diagnostic(
                Level.WARNING, PORT_REQUIRED, item.ref, path,
                f"{host} has several ports ({_listed(numbers)}); name one in port.number",
            )  # fmt: skip
        elif number is not None and number not in numbers:
            yield _diagnostic(
                Level.WARNING, PORT_REQUIRED, item.ref, (*path, "port", "number"),
                f"{host} has no port {number}, only {_listed(numbers) or 'none at all'}",
            )  # fmt: skip


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _has_subset(
    name: str, host: Host, service: Service, item: VirtualService, hosts: Hosts
) -> bool:
    rule = hosts.snapshot.rules.lookup(
        host,
        client_namespace=item.metadata.namespace,
        service_namespace=service.namespace,
    )
    return rule is not None and any(subset.name == name for subset in rule.subsets)


def _gateways_exist(item: VirtualService, snapshot: Snapshot) -> Iterator[Diagnostic]:
    known = {
        f"{gateway.metadata.namespace}/{gateway.metadata.name}" for gateway in snapshot.gateways
    }
    places: list[tuple[Path, str]] = [
        (("spec", "gateways", index), name) for index, name in enumerate(item.spec.gateways)
    ]
    for index, route in enumerate(item.spec.http):
        for at, match in enumerate(route.match):
            below: Path = ("spec", "http", index, "match", at, "gateways")
            places += [((*below, number), name) for number, name in enumerate(match.gateways)]
    for path, name in places:
        key = gateway_key(name, item.metadata.namespace)
        if key != MESH_GATEWAY and key not in known:
            yield _diagnostic(
                Level.WARNING, NOT_FOUND, item.ref, path, f"there is no Gateway {key}"
            )


def _unreachable(item: VirtualService) -> Iterator[Diagnostic]:
    for index, route in enumerate(item.spec.http[:-1]):
        if _catches_all(route):
            for later in range(index + 1, len(item.spec.http)):
                yield _diagnostic(
                    Level.WARNING, UNREACHABLE, item.ref, ("spec", "http", later),
                    f"is never reached: spec.http[{index}] takes every request",
                )  # fmt: skip
            return


def _catches_all(route: HTTPRoute) -> bool:
    if not route.match:
        return True
    plain = StringMatch(prefix="/")
    return any(
        match.uri == plain and not any(_conditions(match, "uri", "name", "stat_prefix"))
        for match in route.match
    )


def _conditions(match: Any, *besides: str) -> Iterator[bool]:
    for field in match.__struct_fields__:
        if field not in besides:
            yield bool(getattr(match, field))


def _host_conflicts(snapshot: Snapshot) -> Iterator[Diagnostic]:
    """Yield, for every mesh host with several VirtualServices, who lost it to whom."""
    taken: dict[Host, list[VirtualService]] = {}
    default = snapshot.mesh.default_virtual_service_export_to
    for item in snapshot.virtual_services:
        if item.spec.gateways and MESH_GATEWAY not in item.spec.gateways:
            continue
        namespace = item.metadata.namespace
        for index, name in enumerate(item.spec.hosts):
            host = resolve_host(name, namespace, snapshot.domain)
            before = taken.setdefault(host, [])
            winner = next((first for first in before if _seen_together(first, item, default)), None)
            if winner is not None:
                yield _diagnostic(
                    Level.WARNING, CONFLICTING_HOSTS, item.ref, ("spec", "hosts", index),
                    f"{host} belongs to the older {winner.ref}; the rules here have no effect"
                    " on the mesh gateway",
                )  # fmt: skip
            before.append(item)


def _seen_together(first: VirtualService, second: VirtualService, default: tuple[str, ...]) -> bool:
    """Whether some namespace sees both."""
    viewers = [
        {
            item.metadata.namespace if entry == "." else entry
            for entry in (item.spec.export_to or default)
            if entry != "~"
        }
        for item in (first, second)
    ]
    if not all(viewers):
        return False
    return any("*" in seen for seen in viewers) or bool(viewers[0] & viewers[1])


def _subsets_without_pods(
    rule: DestinationRule, endpoints: ServiceEndpoints
) -> Iterator[Diagnostic]:
    labels: list[Mapping[str, str]] = [
        workload.labels for group in endpoints.groups for workload in workloads(group)
    ]
    if not any(labels):
        return  # nothing is known of the workloads, so nothing can be missing
    for index, subset in enumerate(rule.spec.subsets):
        if subset.labels and not any(selects(subset.labels, found) for found in labels):
            wanted = ", ".join(f"{key}={value}" for key, value in sorted(subset.labels.items()))
            yield _diagnostic(
                Level.WARNING, NO_PODS, rule.ref, ("spec", "subsets", index),
                f"no endpoint of {rule.spec.host} has the labels {wanted}",
            )  # fmt: skip


def _port_names(service: Service) -> Iterator[Diagnostic]:
    if service.provider != "Kubernetes" or service.resolution is Resolution.ALIAS:
        return
    for index, port in enumerate(service.ports):
        if port.protocol is Protocol.UNSUPPORTED:
            yield _diagnostic(
                Level.INFO, PORT_NAME, service.ref, ("spec", "ports", index, "name"),
                f"the name {port.name!r} of port {port.number} says no protocol; it is detected"
                " from the traffic",
            )  # fmt: skip
