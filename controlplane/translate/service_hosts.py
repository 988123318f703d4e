"""What services alone make of a class's virtual hosts: a VirtualService changes none of it.

Owns the services that a class sees, by port, their domains, and the virtual hosts that they have
while no VirtualService speaks for them. Must not know VirtualServices. The rule that is easy to
break: everything read here is compared by `fits`, and nothing else may be read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from operator import itemgetter
from typing import Any, Final, NamedTuple, Self, TypeVar

from msgspec import structs

from controlplane.model.diff import moved_frontends
from controlplane.model.names import Host
from controlplane.model.services import Protocol, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_services import MeshRules, RoutingRule
from controlplane.translate.destinations import Destinations
from controlplane.translate.scope import OutboundClass
from controlplane.translate.virtual_hosts import (
    RuleContent,
    ServiceContent,
    VirtualHostInput,
    service_domains,
    with_port,
)

Value = TypeVar("Value", bound=Hashable)

Selection = tuple[str, int, RoutingRule]
"""A namespace that stands for all that are alike, a port, and a VirtualService."""

_MAX_ALIASES: Final = 10
_NOBODY: Final[frozenset[Host]] = frozenset()
_NAME: Final = itemgetter(0)
_SELECTIONS_KEPT: Final = 1 << 14


class DomainsKey(NamedTuple):
    """What decides by which names a class calls a service, as long as services stay the same."""

    host: Host
    aliases: tuple[Host, ...]
    dns_domain: str
    ipv4: bool
    ipv6: bool


class Defaults(NamedTuple):
    """The virtual hosts of a port without any VirtualService, when no two share a domain."""

    by_name: Mapping[str, VirtualHostInput]  # sorted

    def domains(self) -> set[str]:
        """Return all domains in lower case; too many to be kept for each class."""
        return {domain for value in self.by_name.values() for domain in value.claims()}


class Seen(NamedTuple):
    """The services that clients of alike namespaces see, oldest first, and their other names."""

    by_port: Mapping[int, Mapping[Host, Service]]
    aliases: Mapping[Host, tuple[Host, ...]]

    @classmethod
    def of(cls, services: Iterable[Service]) -> Self:
        """Return these services by host, and by the number of each of their ports."""
        by_host = {service.host: service for service in services}
        by_port: dict[int, dict[Host, Service]] = {}
        for host, service in by_host.items():
            for port in service.ports:
                by_port.setdefault(port.number, {})[host] = service
        return cls(by_port, _aliases(by_host))


class UsualKey(NamedTuple):
    """What decides by which names a class calls the services of other namespaces on a port."""

    alike: str
    port: int
    dns_domain: str
    ipv4: bool
    ipv6: bool


class Shared:
    """Makes equal values the same object: most virtual hosts are those of many classes."""

    def __init__(self) -> None:
        self._values: Final[dict[Any, Any]] = {}
        self.domains: Final[dict[DomainsKey, tuple[str, ...]]] = {}
        self.lowered = False
        """Whether some domains are not in lower case."""
        self._renewed: Final[dict[str, dict[VirtualHostInput, VirtualHostInput]]] = {}
        self._selected: Final[dict[Selection, RuleContent | None]] = {}
        self._seen: Final[dict[str, Seen]] = {}
        self._usual: Final[dict[UsualKey, Defaults | None]] = {}
        self.led: Final[dict[tuple[MeshRules, frozenset[Host]], frozenset[Host] | None]] = {}
        """Hosts whose virtual hosts services that moved may change: `SidecarRoutes` keeps it."""

    def seen(self, namespace: str, services: Iterable[Service]) -> Seen:
        """Return the services that clients of a namespace see, gone through once."""
        found = self._seen.get(namespace)
        if found is None:
            found = self._seen[namespace] = Seen.of(services)
        return found

    def usual(self, key: UsualKey, make: Callable[[], Defaults | None]) -> Defaults | None:
        """Return the virtual hosts of a port for clients to whom no service is near, made once."""
        if key not in self._usual:
            self._usual[key] = make()
        return self._usual[key]

    def one(self, value: Value) -> Value:
        """Return the first value that was equal to this one."""
        found: Value = self._values.setdefault(value, value)
        return found

    def select(
        self, key: Selection, select: Callable[[], RuleContent | None]
    ) -> RuleContent | None:
        """Return what a VirtualService says that holds for all callers alike, selected once."""
        if key in self._selected:
            return self._selected[key]
        if len(self._selected) >= _SELECTIONS_KEPT:
            self._selected.clear()  # most are of VirtualServices as they once were
        found = self._selected[key] = select()
        return found

    def renewed(self, namespace: str) -> dict[VirtualHostInput, VirtualHostInput]:
        """Return what former virtual hosts became for clients of a namespace, to be added to."""
        return self._renewed.setdefault(namespace, {})


class ServiceHosts:
    """The services of one sidecar class, remembered for as long as they stay the same."""

    def __init__(
        self,
        snapshot: Snapshot,
        cls: OutboundClass,
        before: ServiceHosts | None = None,
        *,
        shared: Shared | None = None,
        alike: str | None = None,
    ) -> None:
        """`before` is what the same class had in another snapshot.

        `alike` names all namespaces whose clients follow the same DestinationRules (`Sights`).
        """
        self.alike: Final = cls.namespace if alike is None else alike
        self.shared: Final = shared if shared is not None else Shared()
        self._cls: Final = cls
        self._read(snapshot)
        self._defaults: Final[dict[int, Defaults | None]] = {}
        self._former: dict[int, Defaults | None] = {}
        self.routed: Final[dict[int, Any]] = {}
        """What VirtualServices made of these services, by port: `SidecarRoutes` keeps it here."""
        self.joined: Final[dict[str, Any]] = {}
        """What route configurations were joined from, by name: `Generator` keeps it here."""
        # Only in its own namespace a service has names that others do not know it by.
        namespace, found, domain = cls.dns_domain.partition(".svc.")
        self._near: Final = f".{namespace}." if found else None
        self._far_domain: Final = sys.intern(f".svc.{domain}") if found else cls.dns_domain
        self.moved: frozenset[Host] = _NOBODY
        """Hosts of services that are others than those of `former_routed`."""
        self.former_routed: Final[dict[int, Any]] = {}
        moved = None if before is None else before.moved_in(snapshot)
        if before is None:
            return
        if before.is_of(snapshot):
            self._former = dict(before._defaults)
        elif moved is not None:
            self.moved = moved
            self._former = dict(before._defaults)
            self.former_routed.update(before.routed)
            self.joined.update(before.joined)

    def is_of(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot has the same services, with the same names for the class."""
        mine = self._snapshot
        return (
            not moved_frontends(mine, snapshot)
            and snapshot.mesh.default_service_export_to == mine.mesh.default_service_export_to
        )

    def moved_in(self, snapshot: Snapshot) -> frozenset[Host] | None:
        """Return the hosts of the services that clients address otherwise in another snapshot.

        None when they are many, when one of them is another name of a service or has some, or
        when more is different.
        """
        mine = self._snapshot
        hosts = moved_frontends(mine, snapshot)
        if (
            snapshot.mesh is not mine.mesh
            or not snapshot.rules.hashes_like(mine.rules)
            or len(hosts) * 8 > len(snapshot.services)
        ):
            return None
        for known in (mine, snapshot):
            if any(service.alias_of in hosts for service in known.services):
                return None
            for host in hosts:
                service: Service | None = known.service_by_host.get(host)
                if service is not None and service.alias_of is not None:
                    return None
        return hosts

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether another snapshot has the same in everything that is read here.

        It is what is read from then on.
        """
        mine = self._snapshot
        fits = (
            self.is_of(snapshot)
            and snapshot.mesh is mine.mesh
            and snapshot.rules.hashes_like(mine.rules)
        )
        if fits:
            self._read(snapshot)
        return fits

    def _read(self, snapshot: Snapshot) -> None:
        # Without its other parts, so that they are neither read nor kept.
        self._snapshot = Snapshot(
            mesh=snapshot.mesh,
            services=snapshot.services,
            service_by_host=snapshot.service_by_host,
            rules=snapshot.rules,
        )
        self._destinations = Destinations(self._snapshot, self._cls)

    @cached_property
    def _seen(self) -> Seen:
        """A single service needs none of it."""
        services = (one for one in self._snapshot.services if self._destinations.sees(one))
        return self.shared.seen(self.alike, services)

    @property
    def by_port(self) -> Mapping[int, Mapping[Host, Service]]:
        """The services that the class sees, oldest first, by the number of each of their ports."""
        return self._seen.by_port

    def own_names(self, service: Service) -> tuple[Host, ...]:
        """Return the names in full by which a service is known."""
        return (service.host, *self._seen.aliases.get(service.host, ()))

    def domains(self, service: Service) -> tuple[str, ...]:
        """Return all names by which the class may call a service, in wire order."""
        key = self._domains_key(service)
        found = self.shared.domains.get(key)
        if found is None:
            found = self.shared.domains[key] = self._names(service, key)
        return found

    def _names(self, service: Service, key: DomainsKey) -> tuple[str, ...]:
        return service_domains(
            service.host,
            aliases=key.aliases,
            headless=service.is_headless,
            addresses=tuple(_addresses(service, self._cls)),
            dns_domain=key.dns_domain,
        )

    def _domains_key(self, service: Service, *, far: bool = False) -> DomainsKey:
        """Return the key of a class, or of one like it to which the service is `far`."""
        aliases = self._seen.aliases.get(service.host, ())
        near = not far and self._is_near(service.host, aliases)
        dns_domain = self._cls.dns_domain if near else self._far_domain
        return DomainsKey(service.host, aliases, dns_domain, self._cls.ipv4, self._cls.ipv6)

    def _is_near(self, host: Host, aliases: tuple[Host, ...]) -> bool:
        """Whether one of the names of a service may be of the namespace of the class."""
        near = self._near
        return near is not None and (near in host or any(near in name for name in aliases))

    def content(self, service: Service, port: int) -> ServiceContent:
        """Return what a service's virtual host does when no VirtualService routes it."""
        return ServiceContent(
            host=service.host,
            port=port,
            affinity=self._destinations.affinity(service.host, subset="", port=port),
            retries=self._snapshot.mesh.default_http_retry_policy,
        )

    def defaults(self, port: int) -> Defaults | None:
        """Return the virtual hosts of a port, None when services claim the same domain.

        Who keeps a domain then depends on which of them VirtualServices speak for.
        """
        if port not in self._defaults:
            known = port in self._former
            former = self._former.pop(port, None)
            if not known or (self.moved and former is None):
                self._defaults[port] = self._make_defaults(port)
            elif former is None:
                self._defaults[port] = None
            elif self.moved:
                self._defaults[port] = self._move(former, port)
            else:
                self._defaults[port] = self._renew(former, port)
        return self._defaults[port]

    def _move(self, former: Defaults, port: int) -> Defaults | None:
        """Return what the port has now that some services are others, or not there any more."""
        by_name = dict(former.by_name)
        for host in self.moved:
            by_name.pop(with_port(host, port), None)
        here = self.by_port.get(port, {})
        for service in [here[host] for host in self.moved if host in here]:
            if carries_http(service.port(port)):
                value = self._default(service, port)
                if value.name in by_name or claimed_twice(value, by_name.values()):
                    return None
                by_name[value.name] = value
        return Defaults(dict(sorted(by_name.items(), key=_NAME)))

    def _renew(self, former: Defaults, port: int) -> Defaults:
        """Return what the port has now: the same services and domains, perhaps other contents."""
        renewed = self.shared.renewed(self.alike)
        by_name: dict[str, VirtualHostInput] = {}
        for name, value in former.by_name.items():
            found = renewed.get(value)
            if found is None:
                found = renewed[value] = self._renewed(value, port)
            by_name[name] = found
        return Defaults(by_name)

    def _renewed(self, value: VirtualHostInput, port: int) -> VirtualHostInput:
        match value.content:
            case ServiceContent(host=host):
                content = self.content(self._snapshot.service_by_host[host], port)
            case _:
                raise AssertionError("without a VirtualService all goes to the service")
        if content != value.content:
            value = structs.replace(value, content=content)
        return self.shared.one(value)

    def _make_defaults(self, port: int) -> Defaults | None:
        """Return what the port has for classes far away, with the services that are near put in."""
        cls = self._cls
        usual = self.shared.usual(
            UsualKey(self.alike, port, self._far_domain, cls.ipv4, cls.ipv6),
            lambda: self._claim_all(port, far=True),
        )
        if usual is None:
            return None  # near services have the same domains, and some more
        aliases, by_name = self._seen.aliases, dict(usual.by_name)
        more = {"*"}
        for host, service in self.by_port.get(port, {}).items():
            known = (
                usual.by_name.get(with_port(host, port))
                if self._is_near(host, aliases.get(host, ()))
                else None
            )
            if known is None:
                continue
            value = self._default(service, port)
            added = set(value.claims()).difference(known.domains)
            if not more.isdisjoint(added):
                return None
            more |= added
            by_name[value.name] = value
        if self.shared.lowered:
            return self._claim_all(port, far=False)  # domains have to be compared in lower case
        if not all(more.isdisjoint(value.domains) for value in usual.by_name.values()):
            return None
        return Defaults(by_name)

    def _claim_all(self, port: int, *, far: bool) -> Defaults | None:
        made = [
            self._default(service, port, far=far)
            for service in self.by_port.get(port, {}).values()
            if service.alias_of is None and carries_http(service.port(port))
        ]
        # Afterwards, or what is kept would lie between thousands of texts that are not.
        claimed: set[str] = {"*"}  # belongs to the catch-all
        for value in made:
            claims = value.claims()
            if not claimed.isdisjoint(claims):
                return None
            claimed.update(claims)
        by_name = {value.name: value for value in sorted(made, key=lambda value: value.name)}
        return Defaults(by_name) if len(by_name) == len(made) else None

    def _default(self, service: Service, port: int, *, far: bool = False) -> VirtualHostInput:
        """Return a service's virtual host when no VirtualService routes it."""
        by_lower: dict[str, str] = {}
        for domain in self._names(service, self._domains_key(service, far=far)):
            by_lower.setdefault(domain.lower(), domain)
        if any(lowered != domain for lowered, domain in by_lower.items()):
            self.shared.lowered = True
        return self.shared.one(
            VirtualHostInput.of(
                name=with_port(service.host, port),
                text=" ".join(by_lower.values()),
                content=self.content(service, port),
                sources=service.ref,
            )
        )


def claimed_twice(value: VirtualHostInput, others: Iterable[VirtualHostInput]) -> bool:
    """Whether one of the domains of a virtual host is also that of another, or of the catch-all."""
    texts = f" {' '.join([other.text for other in others])} ".lower()
    return any(claim == "*" or f" {claim} " in texts for claim in value.claims())


def carries_http(port: ServicePort | None) -> bool:
    """Whether requests to a port are routed: HTTP, or a protocol that has to be found out."""
    return port is not None and (port.protocol.is_http or port.protocol is Protocol.UNSUPPORTED)


def _addresses(service: Service, cls: OutboundClass) -> Iterator[str]:
    for address in service.addresses:
        if "/" in address or address in ("0.0.0.0", "::", "None"):
            continue
        if cls.ipv6 if ":" in address else cls.ipv4:
            yield address


def _aliases(services: Mapping[Host, Service]) -> dict[Host, tuple[Host, ...]]:
    """Return, for each service, the ExternalName services that lead to it, by way of others too."""
    found: dict[Host, list[Host]] = {}
    for service in services.values():
        target = service.alias_of
        for _ in range(_MAX_ALIASES):
            behind = services.get(target) if target is not None else None
            if behind is None or behind.alias_of is None:
                break
            target = behind.alias_of
        if target is not None and target in services and services[target].alias_of is None:
            found.setdefault(target, []).append(service.host)
    return {host: tuple(sorted(names)) for host, names in found.items()}
