"""The virtual hosts of a sidecar: one per service and per VirtualService host on a port.

Owns which virtual hosts a port has, which VirtualService routes each, and who keeps a domain
that two of them claim. Must not know Envoy's messages. The rule that is easy to break: virtual
hosts of VirtualServices come first, oldest first, and the first to claim a domain keeps it; two
claims of one domain would make Envoy refuse the whole route configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from controlplane.model.base import FrozenDict
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.mesh import EgressProxy
from controlplane.model.names import (
    MESH_GATEWAY,
    PASSTHROUGH_CLUSTER,
    ClusterName,
    Host,
    host_covers,
    is_wildcard,
    outbound_cluster,
)
from controlplane.model.services import Service
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_services import MeshRules, RoutingRule, mesh_hosts
from controlplane.translate.destinations import Destinations
from controlplane.translate.http_route import HttpRouteInput
from controlplane.translate.scope import OutboundClass
from controlplane.translate.service_hosts import Defaults, ServiceHosts, carries_http
from controlplane.translate.virtual_hosts import (
    ALLOW_ANY,
    BLOCK_ALL,
    Content,
    ForwardContent,
    RefuseContent,
    RuleContent,
    VirtualHostInput,
    bracketed,
    with_port,
)

HTTP_PROXY: Final = "http_proxy"
# Hosts that are no services are routed on this port only, whatever port they are called on.
DEFAULT_PORT: Final = 80
_NOTHING: Final[Mapping[Host, Service]] = FrozenDict()


class _Plan:
    """A virtual host before domains are shared out."""

    __slots__ = ("_made", "content", "domains", "name", "own", "service")

    def __init__(
        self,
        name: str,
        *,
        domains: tuple[str, ...],
        own: tuple[str, ...],
        content: Content,
        service: Service | None = None,
    ) -> None:
        """`own` are names in full; any other domain yields to a service of that name."""
        self.name: Final = name
        self.domains: Final = domains
        self.own: Final = own
        self.content: Final = content
        self.service: Final = service
        self._made: tuple[VirtualHostInput, VirtualHostInput] | None = None

    def instead_of(self, usual: VirtualHostInput) -> VirtualHostInput:
        """Return the virtual host with the domains of another, made once for each."""
        if self._made is None or self._made[0] is not usual:
            made = VirtualHostInput(
                name=self.name, domains=usual.domains, content=self.content, sources=usual.sources
            )
            self._made = (usual, made)
        return self._made[1]


class Ruled(NamedTuple):
    """What a VirtualService makes of a port; `plans` is None when other rules count as well."""

    content: RuleContent | None
    plans: tuple[_Plan, ...] | None


class SidecarRoutes:
    """The routes of one sidecar class in one snapshot."""

    def __init__(
        self, snapshot: Snapshot, cls: OutboundClass, hosts: ServiceHosts | None = None
    ) -> None:
        """`hosts` is what is remembered of the class's services, if it fits the snapshot."""
        self._snapshot: Final = snapshot
        self._cls: Final = cls
        self._destinations: Final = Destinations(snapshot, cls)
        self._hosts: Final = hosts if hosts is not None else ServiceHosts(snapshot, cls)
        self._rules: Final[MeshRules] = snapshot.routing.for_mesh(cls.namespace)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What cannot be done as the mesh configuration asks."""
        if self._snapshot.mesh.outbound_traffic_policy.mode != "ALLOW_ANY_DYNAMIC_DNS":
            return ()
        return (
            Diagnostic(
                level=Level.WARNING,
                code="UnsupportedField",
                message="ALLOW_ANY_DYNAMIC_DNS is not supported yet; ALLOW_ANY is used instead",
                field="meshConfig.outboundTrafficPolicy.mode",
            ),
        )

    def port(self, port: int) -> tuple[VirtualHostInput, ...]:
        """Return the virtual hosts of a shared port, by name, without the catch-all."""
        ruled = list(self._ruled(port))
        found = _replace(self._hosts.defaults(port), ruled)
        if found is None:
            return _share_domains([*ruled, *self._unruled(port, ruled)], ported=None)
        return found

    def all_ports(self) -> tuple[VirtualHostInput, ...]:
        """Return the virtual hosts of every port for a listener that serves them all.

        Port 80 also has the domains without a port.
        """
        plans: list[tuple[_Plan, int]] = []
        for port in sorted({*self._hosts.by_port, DEFAULT_PORT}):
            ruled = list(self._ruled(port))
            plans += ((plan, port) for plan in (*ruled, *self._unruled(port, ruled)))
        return _share_domains([plan for plan, _ in plans], ported=[port for _, port in plans])

    def sniffed(self, host: str, port: int) -> tuple[VirtualHostInput, ...]:
        """Return the only virtual host of a listener that serves one service on its own address.

        Empty when the service is gone or the port carries no HTTP.
        """
        service = self._destinations.service(host)
        if service is None or not carries_http(service.port(port)):
            return ()
        chosen: tuple[HttpRouteInput, ...] = ()
        for rule in self._rules.candidates(service.host):
            chosen = self._destinations.select(rule, gateway=MESH_GATEWAY, port=port)
            if chosen:
                break
        return (
            VirtualHostInput(
                name=with_port(service.host, port),
                domains=("*",),
                content=RuleContent(rules=(chosen,))
                if chosen
                else self._hosts.content(service, port),
                sources=((service.ref, ""),),
            ),
        )

    def catch_all(self) -> VirtualHostInput:
        """Return the virtual host of all destinations that the registry does not know."""
        policy = self._snapshot.mesh.outbound_traffic_policy
        if policy.mode == "REGISTRY_ONLY":
            return VirtualHostInput(name=BLOCK_ALL, domains=("*",), content=RefuseContent())
        cluster = PASSTHROUGH_CLUSTER
        if policy.egress_proxy is not None and policy.egress_proxy.host:
            cluster = _egress_cluster(policy.egress_proxy)
        return VirtualHostInput(
            name=ALLOW_ANY, domains=("*",), content=ForwardContent(cluster=cluster)
        )

    def _ruled(self, port: int) -> Iterator[_Plan]:
        """Yield what VirtualServices route on a port, the oldest first."""
        known: Mapping[RoutingRule, Ruled] = self._hosts.ruled.get(port, {})
        ruled: dict[RoutingRule, Ruled] = {}
        for rule in self._rules.rules:
            found = known.get(rule)
            plans = found.plans if found is not None else None
            if plans is None:
                content, plans = self._rule(rule, port, found)
                wild = any(map(is_wildcard, rule.hosts))
                found = Ruled(content, None if wild else plans)
            assert found is not None
            ruled[rule] = found
            yield from plans
        self._hosts.ruled[port] = ruled

    def _rule(
        self, rule: RoutingRule, port: int, known: Ruled | None
    ) -> tuple[RuleContent | None, tuple[_Plan, ...]]:
        registered, others = self._split(rule, self._hosts.by_port.get(port, _NOTHING))
        callable_ = [service for service in registered if carries_http(service.port(port))]
        if not callable_ and port != DEFAULT_PORT:
            return None, ()
        content = known.content if known is not None else self._select(rule, port)
        if content is None:
            return None, ()
        plans = [
            _Plan(with_port(host, port), domains=(bracketed(host),), own=(host,), content=content)
            for host in others
        ]
        plans += [self._plan(service, port, content) for service in callable_]
        return content, tuple(plans)

    def _select(self, rule: RoutingRule, port: int) -> RuleContent | None:
        def select() -> RuleContent | None:
            chosen = self._destinations.select(rule, gateway=MESH_GATEWAY, port=port)
            return RuleContent(rules=(chosen,)) if chosen else None

        hosts = self._hosts
        return (
            select()
            if rule.reads_source
            else hosts.shared.select((hosts.alike, port, rule), select)
        )

    def _unruled(self, port: int, ruled: list[_Plan]) -> Iterator[_Plan]:
        """Yield the services of a port that no VirtualService routes."""
        taken = {plan.service.host for plan in ruled if plan.service is not None}
        for service in self._hosts.by_port.get(port, _NOTHING).values():
            if service.host in taken or service.alias_of is not None:
                continue
            if carries_http(service.port(port)):
                yield self._plan(service, port, self._hosts.content(service, port))

    def _split(
        self, rule: RoutingRule, here: Mapping[Host, Service]
    ) -> tuple[list[Service], list[Host]]:
        """Return the services that a rule routes, and its hosts that are no services here.

        Source: Istio's separateVSHostsAndServices.
        """
        registered: list[Service] = []
        others: list[Host] = []
        hosts = mesh_hosts(rule)
        for host in (host for host in hosts if not is_wildcard(host)):
            service = here.get(host)
            if service is None:
                others.append(host)
            else:
                registered.append(service)
        for pattern in (host for host in hosts if is_wildcard(host)):
            covered = [service for host, service in here.items() if host_covers(pattern, host)]
            if not covered:
                others.append(pattern)
            # A service that a more specific rule speaks for belongs to that rule.
            registered += [
                service for service in covered if rule in self._rules.candidates(service.host)[:1]
            ]
        return registered, others

    def _plan(self, service: Service, port: int, content: Content) -> _Plan:
        hosts = self._hosts
        return _Plan(
            with_port(service.host, port),
            domains=hosts.domains(service),
            own=hosts.own_names(service),
            content=content,
            service=service,
        )


def _replace(defaults: Defaults | None, ruled: list[_Plan]) -> tuple[VirtualHostInput, ...] | None:
    """Return the virtual hosts of a port with those that VirtualServices route put in.

    The short way to what `_share_domains` returns; None where a domain is claimed twice, so
    that the long way has to be gone.
    """
    if defaults is None:
        return None
    instead: dict[str, VirtualHostInput] = {}
    # Only hosts that are no services could meet a domain of another.
    alone = all(plan.service is not None for plan in ruled)
    claimed = set() if alone else defaults.domains()
    for plan in ruled:
        if plan.name in instead:
            continue
        usual = defaults.by_name.get(plan.name)
        if plan.service is not None:
            if usual is None:
                return None  # an ExternalName: its domains are also those of its target
            instead[plan.name] = plan.instead_of(usual)
        else:
            lowered = [domain.lower() for domain in plan.domains]
            if not claimed.isdisjoint(lowered):
                return None
            claimed.update(lowered)
            instead[plan.name] = VirtualHostInput(
                name=plan.name, domains=plan.domains, content=plan.content
            )
    chosen = {**defaults.by_name, **instead}
    if len(chosen) == len(defaults.by_name):
        return tuple(chosen.values())
    return tuple(sorted(chosen.values(), key=lambda value: value.name))


def _share_domains(plans: list[_Plan], *, ported: list[int] | None) -> tuple[VirtualHostInput, ...]:
    """Give each domain to the first plan that claims it; return virtual hosts sorted by name.

    With `ported`, the port of each plan, domains carry it, and only those of port 80 also stand
    alone.
    """
    real = {plan.service.host for plan in plans if plan.service is not None}
    used = {"*"}  # belongs to the catch-all
    names: set[str] = set()
    out: list[VirtualHostInput] = []
    for position, plan in enumerate(plans):
        if plan.name in names:
            continue
        names.add(plan.name)
        kept: list[str] = []
        for domain in plan.domains:
            if domain == "*" or (domain in real and domain not in plan.own):
                continue
            spellings: Iterable[str] = (domain,)
            if ported is not None:
                port = ported[position]
                spelled = with_port(domain, port)
                spellings = (domain, spelled) if port == DEFAULT_PORT else (spelled,)
            for spelling in spellings:
                lowered = spelling.lower()
                if lowered not in used:
                    used.add(lowered)
                    kept.append(spelling)
        if kept:
            out.append(
                VirtualHostInput(
                    name=plan.name,
                    domains=tuple(kept),
                    content=plan.content,
                    sources=((plan.service.ref, ""),) if plan.service is not None else (),
                )
            )
    return tuple(sorted(out, key=lambda value: value.name))


def _egress_cluster(proxy: EgressProxy) -> ClusterName:
    number = proxy.port.get("number", 0) if proxy.port is not None else 0
    return outbound_cluster(number if isinstance(number, int) else 0, proxy.subset, proxy.host)
