"""The index of VirtualServices: short names resolved, bound to gateways, seen by namespaces.

Owns which VirtualServices speak for a host, and in which order. Must not know services, proxies
or Envoy. The rule that is easy to break: age alone decides between VirtualServices, and a name
is resolved in the namespace of the VirtualService that says it, never in that of the reader.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self
from weakref import WeakKeyDictionary

from msgspec import structs

from controlplane.model.base import Model
from controlplane.model.matching import visible
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectRef, by_age, in_order
from controlplane.model.names import (
    MESH_GATEWAY,
    Host,
    gateway_key,
    host_covers,
    is_wildcard,
    resolve_host,
    specificity,
)
from controlplane.model.virtual_service import (
    Destination,
    HTTPRoute,
    TCPRoute,
    TLSRoute,
    VirtualService,
)

NO_SOURCE_LABELS: Final[frozenset[tuple[str, str]]] = frozenset()


class RoutingRule(Model):
    """A VirtualService with every name resolved: hosts, gateways, destinations, mirrors.

    `age` decides between rules (`meta.by_age`); `gateways` holds `mesh` or `NAMESPACE/NAME`;
    `export_to` has the mesh default filled in; `source_labels` are those of all its matches;
    `reads_source` says that it does not hold for all callers alike.
    """

    ref: ObjectRef
    age: tuple[str, str, str]
    hosts: tuple[Host, ...]
    gateways: tuple[str, ...]
    export_to: tuple[str, ...]
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    source_labels: frozenset[tuple[str, str]] = NO_SOURCE_LABELS
    reads_source: bool = False

    @property
    def namespace(self) -> str:
        """The namespace of the VirtualService."""
        return self.ref.namespace


class MeshRules:
    """The rules that sidecars of one namespace follow, oldest first. Read only."""

    __slots__ = ("__weakref__", "_changed", "_exact", "_wildcards", "rules")

    def __init__(
        self,
        rules: tuple[RoutingRule, ...],
        exact: Mapping[Host, tuple[RoutingRule, ...]],
        wildcards: tuple[tuple[Host, RoutingRule], ...],
    ) -> None:
        """`exact` are the rules of each host, `wildcards` the oldest of each, the longest first."""
        self.rules: Final = rules
        self._exact: Final = exact
        self._wildcards: Final = wildcards
        self._changed: Final[WeakKeyDictionary[MeshRules, frozenset[Host] | None]] = (
            WeakKeyDictionary()
        )

    @classmethod
    def of(cls, rules: tuple[RoutingRule, ...]) -> Self:
        """Return the index of these rules, which stand in the order of their age."""
        exact: dict[Host, tuple[RoutingRule, ...]] = {}
        wildcards: dict[Host, RoutingRule] = {}
        for rule in rules:
            for host in mesh_hosts(rule):
                if is_wildcard(host):
                    wildcards.setdefault(host, rule)
                else:
                    exact[host] = (*exact.get(host, ()), rule)
        longest = sorted(wildcards, key=specificity)
        return cls(rules, exact, tuple((host, wildcards[host]) for host in longest))

    def replaced(self, gone: Sequence[RoutingRule], came: Sequence[RoutingRule]) -> MeshRules:
        """Return the index without some rules and with others."""
        if not gone and not came:
            return self
        rules = in_order(self.rules, gone, came, key=_age)
        hosts = {host for rule in (*gone, *came) for host in mesh_hosts(rule)}
        if any(map(is_wildcard, hosts)) or _are_many(hosts, self._exact):
            return MeshRules.of(rules)
        exact = dict(self._exact)
        for host in hosts:
            old, new = ([rule for rule in rules if host in rule.hosts] for rules in (gone, came))
            speaking = in_order(exact.pop(host, ()), old, new, key=_age)
            if speaking:
                exact[host] = speaking
        made = MeshRules(rules, exact, self._wildcards)
        made._changed[self] = frozenset(hosts)
        return made

    def candidates(self, host: Host) -> tuple[RoutingRule, ...]:
        """Return the rules that may route a host, in the order of their precedence.

        The oldest rule that names the host wins; the next one counts only for a proxy for
        which the first has no route at all. Rules that cover the host by a wildcard count when
        none names it: the longest wildcard, and of equal ones the oldest. Source: Istio's
        sidecar.go, most specific wildcard index.
        """
        named = self._exact.get(host)
        if named is not None:
            return named
        for pattern, rule in self._wildcards:
            if host_covers(pattern, host):
                return (rule,)
        return ()

    def changed_hosts(self, before: MeshRules) -> frozenset[Host] | None:
        """Return the hosts of the rules that are only here, or only in `before`.

        None when one of them is a wildcard: it may concern any host.
        """
        if before not in self._changed:
            rules = set(self.rules).symmetric_difference(before.rules)
            hosts = frozenset(host for rule in rules for host in mesh_hosts(rule))
            self._changed[before] = None if any(map(is_wildcard, hosts)) else hosts
        return self._changed[before]


_age: Final = attrgetter("age")


def _count_restricted(rules: Iterable[RoutingRule]) -> int:
    return sum("*" not in rule.export_to for rule in rules)


def _are_many(some: Sized, all_: Sized) -> bool:
    """Whether so many change that looking at all of them costs no more."""
    return len(some) * 8 > len(all_)


def mesh_hosts(rule: RoutingRule) -> tuple[Host, ...]:
    """Return the hosts of a rule that count in the mesh: `*` is for gateways alone.

    Source: Istio's validation, which refuses `*` for the mesh; taken at its word it would
    route every service.
    """
    return tuple(host for host in rule.hosts if host != "*")


def http_destinations(rule: RoutingRule) -> Iterator[Destination]:
    """Yield all destinations of the `http` entries of a rule, those of shadow requests too."""
    for route in rule.http:
        yield from (weighted.destination for weighted in route.route)
        yield from (mirror.destination for mirror in route.mirrors)
        if route.mirror is not None:
            yield route.mirror


class _Former(NamedTuple):
    """What the index was made of that came before, and what was different then."""

    views: Mapping[str, MeshRules]
    gone: Sequence[RoutingRule]
    came: Sequence[RoutingRule]


class VirtualServices:
    """All VirtualServices of a snapshot, indexed. Read only, so that a snapshot may share it."""

    __slots__ = ("_by_gateway", "_former", "_restricted", "_views", "rules", "source_labels")

    def __init__(
        self,
        rules: tuple[RoutingRule, ...],
        by_gateway: Mapping[str, tuple[RoutingRule, ...]],
        *,
        restricted: int,
        source_labels: frozenset[tuple[str, str]],
        former: _Former | None = None,
    ) -> None:
        """`restricted` is how many rules are not exported to all namespaces."""
        self.rules: Final = rules
        self._by_gateway: Final = by_gateway
        self._restricted: Final = restricted
        self.source_labels: Final = source_labels
        self._former: Final = former
        self._views: Final[dict[str, MeshRules]] = {}

    @classmethod
    def of(cls, rules: tuple[RoutingRule, ...]) -> Self:
        """Return the index of these rules, which stand in the order of their age."""
        by_gateway: dict[str, list[RoutingRule]] = {}
        for rule in rules:
            for gateway in dict.fromkeys(rule.gateways):
                by_gateway.setdefault(gateway, []).append(rule)
        return cls(
            rules,
            {key: tuple(found) for key, found in by_gateway.items()},
            restricted=_count_restricted(rules),
            source_labels=frozenset().union(*(rule.source_labels for rule in rules)),
        )

    @classmethod
    def build(
        cls, virtual_services: Iterable[VirtualService], mesh: MeshConfig, domain: str
    ) -> Self:
        """Return the index of these VirtualServices, whatever their order."""
        rules = (resolve(source, mesh=mesh, domain=domain) for source in virtual_services)
        return cls.of(tuple(sorted(rules, key=_age)))

    def replaced(
        self,
        gone: Collection[VirtualService],
        came: Collection[VirtualService],
        mesh: MeshConfig,
        domain: str,
    ) -> VirtualServices:
        """Return the index without some VirtualServices and with others.

        `gone` are among those that it is made of, with the same mesh and domain.
        """
        old = [self.rules[bisect_left(self.rules, by_age(item), key=_age)] for item in gone]
        new = [resolve(item, mesh=mesh, domain=domain) for item in came]
        rules = in_order(self.rules, old, new, key=_age)
        moved = (*old, *new)
        if _are_many(moved, self.rules):
            return VirtualServices.of(rules)
        by_gateway = dict(self._by_gateway)
        for gateway in {gateway for rule in moved for gateway in rule.gateways}:
            bound = in_order(
                by_gateway.pop(gateway, ()),
                *([rule for rule in some if gateway in rule.gateways] for some in (old, new)),
                key=_age,
            )
            if bound:
                by_gateway[gateway] = bound
        restricted = self._restricted + _count_restricted(new) - _count_restricted(old)
        labels = self.source_labels
        if any(rule.source_labels for rule in moved):
            labels = frozenset().union(*(rule.source_labels for rule in rules))
        return VirtualServices(
            rules,
            by_gateway,
            restricted=restricted,
            source_labels=labels,
            former=_Former(self._views, old, new)
            if bool(restricted) == bool(self._restricted)
            else None,
        )

    def for_mesh(self, namespace: str) -> MeshRules:
        """Return the rules bound to `mesh` that are visible in a namespace."""
        # Namespaces differ only when some rule is not exported to all of them.
        key = namespace if self._restricted else ""
        found = self._views.get(key)
        if found is None:
            former = self._former
            before = former.views.get(key) if former is not None else None
            if former is None or before is None:
                found = MeshRules.of(self._visible(MESH_GATEWAY, namespace))
            else:
                found = before.replaced(
                    *(
                        [
                            rule
                            for rule in rules
                            if MESH_GATEWAY in rule.gateways
                            and visible(rule.export_to, rule.namespace, namespace)
                        ]
                        for rules in (former.gone, former.came)
                    )
                )
            self._views[key] = found
        return found

    def for_gateway(self, gateway: str, namespace: str) -> tuple[RoutingRule, ...]:
        """Return the rules bound to `NAMESPACE/NAME` and visible in a namespace, oldest first.

        `namespace` is that of the gateway's proxies, not of the Gateway object.
        """
        return self._visible(gateway, namespace)

    def _visible(self, gateway: str, namespace: str) -> tuple[RoutingRule, ...]:
        return tuple(
            rule
            for rule in self._by_gateway.get(gateway, ())
            if visible(rule.export_to, rule.namespace, namespace)
        )


def resolve(source: VirtualService, *, mesh: MeshConfig, domain: str) -> RoutingRule:
    """Return a VirtualService with every name resolved in its own namespace.

    Source: Istio's model.ResolveVirtualServiceShortnames.
    """
    spec = source.spec
    namespace = source.metadata.namespace
    resolver = _Resolver(namespace, domain)
    return RoutingRule(
        ref=source.ref,
        age=by_age(source),
        hosts=tuple(
            dict.fromkeys(
                Host(resolver.host(host).lower()) for host in spec.hosts if _sayable(host)
            )
        ),
        gateways=tuple(gateway_key(name, namespace) for name in spec.gateways) or (MESH_GATEWAY,),
        export_to=spec.export_to or mesh.default_virtual_service_export_to,
        http=tuple(resolver.http(route) for route in spec.http),
        tls=tuple(resolver.tls(route) for route in spec.tls),
        tcp=tuple(resolver.tcp(route) for route in spec.tcp),
        source_labels=frozenset(_source_labels(source)) or NO_SOURCE_LABELS,
        reads_source=any(
            match.source_labels or match.source_namespace
            for route in spec.http
            for match in route.match
        ),
    )


def _source_labels(source: VirtualService) -> Iterator[tuple[str, str]]:
    spec = source.spec
    for routes in (spec.http, spec.tls, spec.tcp):
        for route in routes:
            for match in route.match:
                yield from (match.source_labels or {}).items()


def _sayable(host: str) -> bool:
    """Whether a host can be said in a request at all; Envoy refuses domains with line breaks."""
    return bool(host) and host.isprintable() and " " not in host


class _Resolver:
    """Resolves the names inside routes, keeping every value that does not change."""

    def __init__(self, namespace: str, domain: str) -> None:
        self._namespace = namespace
        self._domain = domain

    def host(self, host: str) -> Host:
        return resolve_host(host, self._namespace, self._domain)

    def http(self, route: HTTPRoute) -> HTTPRoute:
        changes: dict[str, Any] = {"match": self._matches(route.match)}
        changes["route"] = self._destinations(route.route)
        changes["mirrors"] = self._destinations(route.mirrors)
        if route.mirror is not None:
            changes["mirror"] = self._destination(route.mirror)
        return structs.replace(route, **changes)

    def tls(self, route: TLSRoute) -> TLSRoute:
        return structs.replace(
            route, match=self._matches(route.match), route=self._destinations(route.route)
        )

    def tcp(self, route: TCPRoute) -> TCPRoute:
        return structs.replace(
            route, match=self._matches(route.match), route=self._destinations(route.route)
        )

    def _matches(self, matches: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            structs.replace(
                match,
                gateways=tuple(gateway_key(name, self._namespace) for name in match.gateways),
            )
            if match.gateways
            else match
            for match in matches
        )

    def _destinations(self, routes: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            structs.replace(route, destination=self._destination(route.destination))
            for route in routes
        )

    def _destination(self, destination: Destination) -> Destination:
        return structs.replace(destination, host=self.host(destination.host))


NO_VIRTUAL_SERVICES: Final = VirtualServices.of(())
