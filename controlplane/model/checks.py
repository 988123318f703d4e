"""What objects say about each other: references that lead nowhere, conflicts, dead rules.

Pure, over a whole snapshot; codes and levels are those of `istioctl analyze`, except that a
reference that leads nowhere is a Warning here, because the other object may be in another file
or still to come. The rule that is easy to break: a check never keeps an object out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import is_not
from typing import Final

from controlplane.model.check_gateways import clashes, selectors_without_pods
from controlplane.model.check_virtual_services import Hosts, VirtualServiceChecks, diagnostic
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.names import resolve_host
from controlplane.model.port_endpoints import workloads
from controlplane.model.services import NO_ENDPOINTS, Protocol, Resolution, ServiceEndpoints
from controlplane.model.snapshot import Snapshot, selects

PORT_NAME = "IST0118"  # PortNameIsNotUnderNamingConvention
NO_PODS = "IST0173"  # DestinationRuleSubsetNotSelectPods
UNKNOWN_HOST = "IST0174"  # UnknownDestinationRuleHost


class Checks:
    """Runs the checks of a mesh that changes step by step, again only where it must."""

    def __init__(self) -> None:
        self._virtual_services: Final = VirtualServiceChecks()
        self._known: Final[
            dict[
                Callable[[Snapshot], Iterable[Diagnostic]],
                tuple[tuple[object, ...], tuple[Diagnostic, ...]],
            ]
        ] = {}
        self._rules: tuple[DestinationRule, ...] = ()
        self._subsets: list[_Subsets] = []

    def run(self, snapshot: Snapshot) -> Iterator[Diagnostic]:
        """Yield what is wrong between the objects of a snapshot, without file and line."""
        services, gateways = snapshot.services, snapshot.gateways
        yield from self._virtual_services.run(snapshot)
        yield from self._again(_unknown_hosts, snapshot, services, snapshot.destination_rules)
        yield from self._again(clashes, snapshot, gateways)
        yield from self._again(selectors_without_pods, snapshot, gateways, snapshot.pods_by_ip)
        yield from self._again(_port_names, snapshot, services)
        yield from self._subset_checks(snapshot)

    def _again(
        self,
        check: Callable[[Snapshot], Iterable[Diagnostic]],
        snapshot: Snapshot,
        *read: object,
    ) -> tuple[Diagnostic, ...]:
        """Return what a check finds; it is made again when something that it reads changed."""
        known = self._known.get(check)
        if known is None or any(map(is_not, known[0], read)):
            known = self._known[check] = (read, tuple(check(snapshot)))
        return known[1]

    def _subset_checks(self, snapshot: Snapshot) -> Iterator[Diagnostic]:
        rules = snapshot.destination_rules
        if rules is not self._rules:
            known = {id(entry.rule): entry for entry in self._subsets}
            self._rules = rules
            self._subsets = [
                known.get(id(rule)) or _Subsets(rule, snapshot.domain)
                for rule in rules
                if any(subset.labels for subset in rule.spec.subsets)
            ]
        for entry in self._subsets:
            endpoints = snapshot.endpoints_of(entry.host)
            if endpoints is not entry.endpoints:
                entry.endpoints = endpoints
                entry.found = tuple(_subsets_without_pods(entry.rule, endpoints))
            yield from entry.found


class _Subsets:
    """The subsets of a DestinationRule, and what was found with these endpoints."""

    __slots__ = ("endpoints", "found", "host", "rule")

    def __init__(self, rule: DestinationRule, domain: str) -> None:
        self.rule: Final = rule
        self.host: Final = resolve_host(rule.spec.host, rule.metadata.namespace, domain)
        self.endpoints = NO_ENDPOINTS
        self.found: tuple[Diagnostic, ...] = ()


def _unknown_hosts(snapshot: Snapshot) -> Iterator[Diagnostic]:
    hosts = Hosts(snapshot)
    for rule in snapshot.destination_rules:
        host = resolve_host(rule.spec.host, rule.metadata.namespace, snapshot.domain)
        if not hosts.covers_any(host):
            yield diagnostic(
                Level.WARNING, UNKNOWN_HOST, rule.ref, ("spec", "host"),
                f"no service has the host {host}",
            )  # fmt: skip


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
            yield diagnostic(
                Level.WARNING, NO_PODS, rule.ref, ("spec", "subsets", index),
                f"no endpoint of {rule.spec.host} has the labels {wanted}",
            )  # fmt: skip


def _port_names(snapshot: Snapshot) -> Iterator[Diagnostic]:
    for service in snapshot.services:
        if service.provider != "Kubernetes" or service.resolution is Resolution.ALIAS:
            continue
        for index, port in enumerate(service.ports):
            if port.protocol is Protocol.UNSUPPORTED:
                yield diagnostic(
                    Level.INFO, PORT_NAME, service.ref, ("spec", "ports", index, "name"),
                    f"the name {port.name!r} of port {port.number} says no protocol; it is"
                    " detected from the traffic",
                )  # fmt: skip
