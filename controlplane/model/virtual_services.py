"""The index of VirtualServices: short names resolved, bound to gateways, seen by namespaces.

Owns which VirtualServices speak for a host, and in which order. Must not know services, proxies
or Envoy. The rule that is easy to break: age alone decides between VirtualServices, and a name
is resolved in the namespace of the VirtualService that says it, never in that of the reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

from msgspec import structs

from controlplane.model.base import Model
from controlplane.model.matching import visible
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectRef, by_age
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
    source_labels: frozenset[tuple[str, str]] = frozenset()
    reads_source: bool = False

    @property
    def namespace(self) -> str:
        """The namespace of the VirtualService."""
        return self.ref.namespace


class MeshRules:
    """The rules that sidecars of one namespace follow, oldest first. Read only."""

    __slots__ = ("__weakref__", "_changed", "_exact", "_wildcards", "rules")

    def __init__(self, rules: tuple[RoutingRule, ...]) -> None:
        self.rules: Final = rules
        exact: dict[Host, list[RoutingRule]] = {}
        wildcards: dict[Host, RoutingRule] = {}
        for rule in rules:
            for host in mesh_hosts(rule):
                if is_wildcard(host):
                    wildcards.setdefault(host, rule)
                else:
                    exact.setdefault(host, []).append(rule)
        self._exact: Final = exact
        self._wildcards: Final = tuple(
            (host, wildcards[host]) for host in sorted(wildcards, key=specificity)
        )
        self._changed: Final[WeakKeyDictionary[MeshRules, frozenset[Host] | None]] = (
            WeakKeyDictionary()
        )

    def candidates(self, host: Host) -> tuple[RoutingRule, ...]:
        """Return the rules that may route a host, in the order of their precedence.

        The oldest rule that names the host wins; the next one counts only for a proxy for
        which the first has no route at all. Rules that cover the host by a wildcard count when
        none names it: the longest wildcard, and of equal ones the oldest. Source: Istio's
        sidecar.go, most specific wildcard index.
        """
        named = self._exact.get(host)
        if named is not None:
            return tuple(named)
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


def mesh_hosts(rule: RoutingRule) -> tuple[Host, ...]:
    """Return the hosts of a rule that count in the mesh: `*` is for gateways alone.

    Source: Istio's validation, which refuses `*` for the mesh; taken at its word it would
    route every service.
    """
    return tuple(host for host in rule.hosts if host != "*")


class VirtualServices:
    """All VirtualServices of a snapshot, indexed. Read only, so that a snapshot may share it."""

    __slots__ = ("_by_gateway", "_restricted", "_sources", "_views", "rules", "source_labels")

    def __init__(
        self,
        rules: tuple[RoutingRule, ...] = (),
        sources: tuple[VirtualService, ...] = (),
    ) -> None:
        self.rules: Final = rules
        self._sources: Final = sources
        by_gateway: dict[str, list[RoutingRule]] = {}
        for rule in rules:
            for gateway in dict.fromkeys(rule.gateways):
                by_gateway.setdefault(gateway, []).append(rule)
        self._by_gateway: Final = {key: tuple(found) for key, found in by_gateway.items()}
        # Namespaces differ only when some rule is not exported to all of them.
        self._restricted: Final = any("*" not in rule.export_to for rule in rules)
        self._views: Final[dict[str, MeshRules]] = {}
        self.source_labels: Final[frozenset[tuple[str, str]]] = frozenset().union(
            *(rule.source_labels for rule in rules)
        )

    @classmethod
    def build(
        cls,
        virtual_services: Iterable[VirtualService],
        mesh: MeshConfig,
        domain: str,
        *,
        previous: VirtualServices | None = None,
    ) -> VirtualServices:
        """Return the index of these VirtualServices, whatever their order.

        Resolved rules of `previous` are taken over for VirtualServices that are the same
        Python object; the mesh and domain must then be the same as before.
        """
        known: dict[int, RoutingRule] = {}
        if previous is not None:
            known = {
                id(source): rule
                for source, rule in zip(previous._sources, previous.rules, strict=True)
            }
        sources = tuple(sorted(virtual_services, key=by_age))
        rules = tuple(
            known.get(id(source)) or resolve(source, mesh=mesh, domain=domain) for source in sources
        )
        return cls(rules, sources)

    def for_mesh(self, namespace: str) -> MeshRules:
        """Return the rules bound to `mesh` that are visible in a namespace."""
        key = namespace if self._restricted else ""
        found = self._views.get(key)
        if found is None:
            found = MeshRules(self._visible(MESH_GATEWAY, namespace))
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
        source_labels=frozenset(_source_labels(source)),
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


NO_VIRTUAL_SERVICES: Final = VirtualServices()
