"""What VirtualServices say about other objects and each other, kept up to date.

Owns their findings, one VirtualService and one host at a time. Codes and levels are those of
`istioctl analyze`, except that a reference that leads nowhere is a Warning here. The rule that is
easy to break: what else is read here is compared in `run`, or an old finding would stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from controlplane.model.check_gateways import unanswered_hosts
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.gateway import Gateway
from controlplane.model.matching import StringMatch
from controlplane.model.meta import ObjectRef, by_age, moved
from controlplane.model.names import (
    MESH_GATEWAY,
    Host,
    gateway_key,
    host_covers,
    hosts_overlap,
    is_wildcard,
    resolve_host,
)
from controlplane.model.schema import Path, format_path
from controlplane.model.services import Protocol, Resolution, Service
from controlplane.model.snapshot import EMPTY, Snapshot
from controlplane.model.table import changed_keys
from controlplane.model.virtual_service import Destination, HTTPRoute, VirtualService

NOT_FOUND = "IST0101"  # ReferencedResourceNotFound
CONFLICTING_HOSTS = "IST0109"  # ConflictingMeshGatewayVirtualServiceHosts
PORT_REQUIRED = "IST0112"  # VirtualServiceDestinationPortSelectorRequired
UNREACHABLE = "IST0130"  # VirtualServiceUnreachableRule


class _Claim(NamedTuple):
    """A VirtualService that speaks for a host in the mesh, and where it says so."""

    item: VirtualService
    position: int


class VirtualServiceChecks:
    """The findings of all VirtualServices; only those that changed are looked at again."""

    def __init__(self) -> None:
        self._read: Snapshot = EMPTY
        self._items: tuple[VirtualService, ...] = ()
        self._own: Final[dict[ObjectRef, tuple[Diagnostic, ...]]] = {}
        self._claims: Final[dict[Host, list[_Claim]]] = {}
        self._conflicts: Final[dict[Host, tuple[Diagnostic, ...]]] = {}

    def run(self, snapshot: Snapshot) -> Iterator[Diagnostic]:
        """Yield what is wrong with the VirtualServices of a snapshot."""
        again = self._led_elsewhere(snapshot)
        if again is None:
            self._items, again = (), []
            self._own.clear()
            self._claims.clear()
            self._conflicts.clear()
        # Without its other parts, so that they are neither read nor kept.
        self._read = Snapshot(
            mesh=snapshot.mesh,
            domain=snapshot.domain,
            service_by_host=snapshot.service_by_host,
            rules=snapshot.rules,
            gateways=snapshot.gateways,
        )
        gone, came = moved(self._items, snapshot.virtual_services)
        self._items = snapshot.virtual_services
        touched: set[Host] = set()
        for item in gone:
            for host, _ in _claims(item, snapshot.domain):
                touched.add(host)
                self._claims[host] = [old for old in self._claims[host] if old.item is not item]
        for item in (*gone, *again):
            self._own.pop(item.ref, None)
        if came or again:
            hosts = Hosts(snapshot)
            gateways = {
                f"{one.metadata.namespace}/{one.metadata.name}": one for one in snapshot.gateways
            }
        for item in (*came, *again):
            found = (
                *_destinations(item, hosts),
                *_gateways_exist(item, gateways),
                *_unreachable(item),
                *unanswered_hosts(item, gateways, snapshot.domain),
            )
            if found:
                self._own[item.ref] = found
        for item in came:
            for host, claim in _claims(item, snapshot.domain):
                touched.add(host)
                self._claims.setdefault(host, []).append(claim)
        for host in touched:
            self._decide(host, snapshot.mesh.default_virtual_service_export_to)
        for known in (self._own, self._conflicts):
            for group in known.values():
                yield from group

    def _led_elsewhere(self, snapshot: Snapshot) -> list[VirtualService] | None:
        """Return the VirtualServices that lead to what is different now, None for any of them."""
        read = self._read
        rules = snapshot.rules.changed_hosts(read.rules)
        services = changed_keys(read.service_by_host, snapshot.service_by_host)
        if (
            snapshot.mesh is not read.mesh
            or snapshot.domain != read.domain
            or snapshot.gateways is not read.gateways
            or rules is None
            or any(map(is_wildcard, services))
        ):
            return None
        hosts = rules | services
        if not hosts:
            return []
        known = set(map(id, self._items))
        return [
            item
            for item in snapshot.virtual_services
            if id(item) in known
            and any(
                resolve_host(destination.host, item.metadata.namespace, snapshot.domain) in hosts
                for _, destination in _named(item)
            )
        ]

    def _decide(self, host: Host, default: tuple[str, ...]) -> None:
        """Find who lost a host to whom."""
        claims = self._claims[host]
        if len(claims) > 1:
            claims.sort(key=lambda claim: (by_age(claim.item), claim.position))
            found = tuple(_lost_hosts(host, claims, default))
        else:
            found = ()
        if found:
            self._conflicts[host] = found
        else:
            self._conflicts.pop(host, None)
        if not claims:
            del self._claims[host]


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


def diagnostic(level: Level, code: str, ref: ObjectRef, path: Path, message: str) -> Diagnostic:
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
            yield diagnostic(
                Level.WARNING, NOT_FOUND, item.ref, (*path, "host"),
                f"no service has the host {host}; requests get 503",
            )  # fmt: skip
            continue
        if destination.subset and not _has_subset(destination.subset, host, service, item, hosts):
            yield diagnostic(
                Level.WARNING, NOT_FOUND, item.ref, (*path, "subset"),
                f"no DestinationRule for {host} has the subset {destination.subset!r};"
                " requests get 503",
            )  # fmt: skip
        number = destination.port.number if destination.port is not None else None
        if service.resolution is Resolution.ALIAS:
            continue
        numbers = [port.number for port in service.ports if port.protocol is not Protocol.UDP]
        if number is None and len(numbers) > 1:
            yield diagnostic(
                Level.WARNING, PORT_REQUIRED, item.ref, path,
                f"{host} has several ports ({_listed(numbers)}); name one in port.number",
            )  # fmt: skip
        elif number is not None and number not in numbers:
            yield diagnostic(
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


def _gateways_exist(item: VirtualService, known: Mapping[str, Gateway]) -> Iterator[Diagnostic]:
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
            yield diagnostic(Level.WARNING, NOT_FOUND, item.ref, path, f"there is no Gateway {key}")


def _unreachable(item: VirtualService) -> Iterator[Diagnostic]:
    for index, route in enumerate(item.spec.http[:-1]):
        if _catches_all(route):
            for later in range(index + 1, len(item.spec.http)):
                yield diagnostic(
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


def _claims(item: VirtualService, domain: str) -> Iterator[tuple[Host, _Claim]]:
    """Yield the hosts that a VirtualService speaks for in the mesh."""
    if item.spec.gateways and MESH_GATEWAY not in item.spec.gateways:
        return
    for index, name in enumerate(item.spec.hosts):
        yield resolve_host(name, item.metadata.namespace, domain), _Claim(item, index)


def _lost_hosts(host: Host, claims: list[_Claim], default: tuple[str, ...]) -> Iterator[Diagnostic]:
    """Yield, for one host with several VirtualServices, who lost it to whom."""
    for position, (item, index) in enumerate(claims):
        older = (claim.item for claim in claims[:position])
        winner = next((first for first in older if _seen_together(first, item, default)), None)
        if winner is not None:
            yield diagnostic(
                Level.WARNING, CONFLICTING_HOSTS, item.ref, ("spec", "hosts", index),
                f"{host} belongs to the older {winner.ref}; the rules here have no effect"
                " on the mesh gateway",
            )  # fmt: skip


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
