"""The virtual hosts of a sidecar: one per service and per VirtualService host on a port.

Owns which virtual hosts a port has, which VirtualService routes each, and who keeps a domain
that two of them claim. Must not know Envoy's messages. The rule that is easy to break: virtual
hosts of VirtualServices come first, oldest first, and the first to claim a domain keeps it; two
claims of one domain would make Envoy refuse the whole route configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Final, NamedTuple

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
from controlplane.model.services import Protocol, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_services import MeshRules, RoutingRule, mesh_hosts
from controlplane.translate.destinations import Destinations
from controlplane.translate.http_route import HttpRouteInput
from controlplane.translate.scope import OutboundClass
from controlplane.translate.virtual_hosts import (
    ALLOW_ANY,
    BLOCK_ALL,
    Content,
    ForwardContent,
    RefuseContent,
    RuleContent,
    ServiceContent,
    VirtualHostInput,
    bracketed,
    service_domains,
    with_port,
)

HTTP_PROXY: Final = "http_proxy"
# Hosts that are no services are routed on this port only, whatever port they are called on.
DEFAULT_PORT: Final = 80
_MAX_ALIASES: Final = 10


class _Plan(NamedTuple):
    """A virtual host before domains are shared out."""

    name: str
    domains: tuple[str, ...]
    own: tuple[str, ...]  # names in full; any other domain yields to a service of that name
    content: Content
    service: Service | None


class SidecarRoutes:
    """The routes of one sidecar class in one snapshot."""

    def __init__(self, snapshot: Snapshot, cls: OutboundClass) -> None:
        self._snapshot: Final = snapshot
        self._cls: Final = cls
        self._destinations: Final = Destinations(snapshot, cls)
        self._rules: Final[MeshRules] = snapshot.routing.for_mesh(cls.namespace)

    @cached_property
    def _services(self) -> dict[Host, Service]:
        """The services that the class sees, oldest first. A single service needs none of it."""
        return {
            service.host: service
            for service in self._snapshot.services
            if self._destinations.sees(service)
        }

    @cached_property
    def _aliases(self) -> dict[Host, tuple[Host, ...]]:
        return _aliases(self._services)

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
        return _share_domains(list(self._plans(port)), ported=None)

    def all_ports(self) -> tuple[VirtualHostInput, ...]:
        """Return the virtual hosts of every port for a listener that serves them all.

        Port 80 also has the domains without a port.
        """
        ports = {port.number for service in self._services.values() for port in service.ports}
        plans = [
            (plan, port) for port in sorted({*ports, DEFAULT_PORT}) for plan in self._plans(port)
        ]
        return _share_domains([plan for plan, _ in plans], ported=[port for _, port in plans])

    def sniffed(self, host: str, port: int) -> tuple[VirtualHostInput, ...]:
        """Return the only virtual host of a listener that serves one service on its own address.

        Empty when the service is gone or the port carries no HTTP.
        """
        service = self._destinations.service(host)
        if service is None or not _carries_http(service.port(port)):
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
                content=RuleContent(rules=(chosen,)) if chosen else self._default(service, port),
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

    def _plans(self, port: int) -> Iterator[_Plan]:
        here = {
            host: service
            for host, service in self._services.items()
            if service.port(port) is not None
        }
        ruled: set[Host] = set()
        for rule in self._rules.rules:
            registered, others = self._split(rule, here)
            callable_ = [service for service in registered if _carries_http(service.port(port))]
            if not callable_ and port != DEFAULT_PORT:
                continue
            chosen = self._destinations.select(rule, gateway=MESH_GATEWAY, port=port)
            if not chosen:
                continue
            content = RuleContent(rules=(chosen,))
            for host in others:
                yield _Plan(with_port(host, port), (bracketed(host),), (host,), content, None)
            for service in callable_:
                ruled.add(service.host)
                yield self._plan(service, port, content)
        for service in here.values():
            if service.host in ruled or service.alias_of is not None:
                continue
            if _carries_http(service.port(port)):
                yield self._plan(service, port, self._default(service, port))

    def _split(
        self, rule: RoutingRule, here: dict[Host, Service]
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
        cls = self._cls
        aliases = self._aliases.get(service.host, ())
        domains = service_domains(
            service.host,
            aliases=aliases,
            headless=service.is_headless,
            addresses=tuple(_addresses(service, cls)),
            dns_domain=cls.dns_domain,
        )
        own = (service.host, *aliases)
        return _Plan(with_port(service.host, port), domains, own, content, service)

    def _default(self, service: Service, port: int) -> ServiceContent:
        return ServiceContent(
            host=service.host,
            port=port,
            affinity=self._destinations.affinity(service.host, subset="", port=port),
            retries=self._snapshot.mesh.default_http_retry_policy,
        )


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


def _carries_http(port: ServicePort | None) -> bool:
    return port is not None and (port.protocol.is_http or port.protocol is Protocol.UNSUPPORTED)


def _addresses(service: Service, cls: OutboundClass) -> Iterator[str]:
    for address in service.addresses:
        if "/" in address or address in ("0.0.0.0", "::", "None"):
            continue
        if cls.ipv6 if ":" in address else cls.ipv4:
            yield address


def _aliases(services: dict[Host, Service]) -> dict[Host, tuple[Host, ...]]:
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


def _egress_cluster(proxy: EgressProxy) -> ClusterName:
    number = proxy.port.get("number", 0) if proxy.port is not None else 0
    return outbound_cluster(number if isinstance(number, int) else 0, proxy.subset, proxy.host)
