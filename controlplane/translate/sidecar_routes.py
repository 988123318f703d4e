"""The virtual hosts of a sidecar: one per service and per VirtualService host on a port.

Owns which virtual hosts a port has, which VirtualService routes each, and who keeps a domain
that two of them claim. Must not know Envoy's messages. The rule that is easy to break: virtual
hosts of VirtualServices come first, oldest first, and the first to claim a domain keeps it; two
claims of one domain would make Envoy refuse the whole route configuration.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from msgspec import structs

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
from controlplane.model.virtual_services import (
    MeshRules,
    RoutingRule,
    http_destinations,
    mesh_hosts,
)
from controlplane.translate.destinations import Destinations
from controlplane.translate.http_route import HttpRouteInput
from controlplane.translate.scope import OutboundClass
from controlplane.translate.service_hosts import (
    Defaults,
    ServiceHosts,
    carries_http,
    claimed_twice,
)
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


class _Plan(NamedTuple):
    """A virtual host before domains are shared out; without a service it has its host alone."""

    name: str
    host: Host
    content: Content
    service: Service | None = None


class Routed(NamedTuple):
    """The virtual hosts of a port under some rules; `apart` when no two claim one domain."""

    rules: MeshRules
    virtual_hosts: tuple[VirtualHostInput, ...]
    apart: bool


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
    def joined(self) -> dict[str, Any]:
        """What `ServiceHosts.joined` remembers."""
        return self._hosts.joined

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
        last: Routed | None = self._hosts.routed.get(port)
        moved: frozenset[Host] = frozenset()
        if last is None:
            last, moved = self._hosts.former_routed.pop(port, None), self._hosts.moved
        made = None if last is None else self._renew(last, port, moved)
        if made is None:
            ruled = list(self._ruled(port))
            found = _replace(self._hosts.defaults(port), ruled)
            apart = found is not None
            if found is None:
                found = self._share_domains([*ruled, *self._unruled(port, ruled)], ported=None)
            made = Routed(self._rules, found, apart)
        self._hosts.routed[port] = made
        return made.virtual_hosts

    def _renew(self, last: Routed, port: int, moved: frozenset[Host]) -> Routed | None:
        """Return what a port has now that other rules hold, or that some services `moved`.

        Only the hosts that this may concern are looked at. None where domains have to be shared
        out again.
        """
        if last.rules is self._rules and not moved:
            return last
        defaults, hosts = self._hosts.defaults(port), self._rules.changed_hosts(last.rules)
        led = self._led_to(moved)
        if defaults is None or hosts is None or led is None or not last.apart:
            return None
        virtual_hosts = list(last.virtual_hosts)
        changed = False
        for host in hosts | led:
            name = with_port(host, port)
            at = bisect_left(virtual_hosts, name, key=_NAME)
            known = virtual_hosts[at] if at < len(virtual_hosts) else None
            if known is not None and known.name != name:
                known = None
            content = self._content(host, port)
            made = defaults.by_name.get(name)
            if made is not None and content is not None:
                made = structs.replace(made, content=content)
            elif made is None and content is not None and known is not None and host not in moved:
                made = structs.replace(known, content=content)
            elif made is None and (
                content is not None or (known is not None and host not in moved)
            ):
                return None  # a host that is no service comes or goes, and with it a domain
            if made == known:
                continue
            changed = True
            virtual_hosts[at : at + (known is not None)] = [] if made is None else [made]
            if made is not None and (known is None or known.text != made.text):
                others = (*virtual_hosts[:at], *virtual_hosts[at + 1 :])
                if claimed_twice(made, others):
                    return None
        return Routed(self._rules, tuple(virtual_hosts) if changed else last.virtual_hosts, True)

    def _led_to(self, moved: frozenset[Host]) -> frozenset[Host] | None:
        """Return these hosts and those of all rules that route them, or that lead to them.

        None when one of them is a wildcard.
        """
        if not moved:
            return moved
        known, key = self._hosts.shared.led, (self._rules, moved)
        if key not in known:
            hosts = set(moved)
            for rule in self._rules.rules:
                own = mesh_hosts(rule)
                to = [destination.host for destination in http_destinations(rule)]
                if not moved.isdisjoint(own) or not moved.isdisjoint(to):
                    hosts.update(own)
                hosts.update(filter(is_wildcard, own))
            known[key] = None if any(map(is_wildcard, hosts)) else frozenset(hosts)
        return known[key]

    def all_ports(self) -> tuple[VirtualHostInput, ...]:
        """Return the virtual hosts of every port for a listener that serves them all.

        Port 80 also has the domains without a port.
        """
        plans: list[tuple[_Plan, int]] = []
        for port in sorted({*self._hosts.by_port, DEFAULT_PORT}):
            ruled = list(self._ruled(port))
            plans += ((plan, port) for plan in (*ruled, *self._unruled(port, ruled)))
        return self._share_domains([plan for plan, _ in plans], ported=[port for _, port in plans])

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
            VirtualHostInput.of(
                name=with_port(service.host, port),
                text="*",
                content=RuleContent(rules=(chosen,))
                if chosen
                else self._hosts.content(service, port),
                sources=service.ref,
            ),
        )

    def catch_all(self) -> VirtualHostInput:
        """Return the virtual host of all destinations that the registry does not know."""
        policy = self._snapshot.mesh.outbound_traffic_policy
        if policy.mode == "REGISTRY_ONLY":
            return VirtualHostInput.of(name=BLOCK_ALL, text="*", content=RefuseContent())
        cluster = PASSTHROUGH_CLUSTER
        if policy.egress_proxy is not None and policy.egress_proxy.host:
            cluster = _egress_cluster(policy.egress_proxy)
        return VirtualHostInput.of(
            name=ALLOW_ANY, text="*", content=ForwardContent(cluster=cluster)
        )

    def _ruled(self, port: int) -> Iterator[_Plan]:
        """Yield what VirtualServices route on a port, the oldest first."""
        for rule in self._rules.rules:
            callable_, others = self._split(rule, port)
            content = self._select(rule, port) if callable_ or others else None
            if content is None:
                continue
            for host in others:
                yield _Plan(with_port(host, port), host, content)
            for service in callable_:
                yield _Plan(with_port(service.host, port), service.host, content, service)

    def _content(self, host: Host, port: int) -> RuleContent | None:
        """Return what VirtualServices make of a host on a port, None when none routes it."""
        service = self._hosts.by_port.get(port, _NOTHING).get(host)
        if service is not None and not carries_http(service.port(port)):
            return None
        for rule in self._rules.candidates(host):
            if service is not None or host in self._split(rule, port)[1]:
                content = self._select(rule, port)
                if content is not None:
                    return content
        return None

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
                content = self._hosts.content(service, port)
                yield _Plan(with_port(service.host, port), service.host, content, service)

    def _split(self, rule: RoutingRule, port: int) -> tuple[list[Service], list[Host]]:
        """Return the services that a rule routes on a port, and its hosts that are none there.

        Those are routed on the default port, and where the rule routes a service as well.
        Source: Istio's separateVSHostsAndServices.
        """
        here = self._hosts.by_port.get(port, _NOTHING)
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
        callable_ = [service for service in registered if carries_http(service.port(port))]
        return callable_, others if callable_ or port == DEFAULT_PORT else []

    def _share_domains(
        self, plans: list[_Plan], *, ported: list[int] | None
    ) -> tuple[VirtualHostInput, ...]:
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
            domains, own = self._names(plan)
            for domain in domains:
                if domain == "*" or (domain in real and domain not in own):
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
                    VirtualHostInput.of(
                        name=plan.name,
                        text=" ".join(kept),
                        content=plan.content,
                        sources=plan.service.ref if plan.service is not None else (),
                    )
                )
        return tuple(sorted(out, key=lambda value: value.name))

    def _names(self, plan: _Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return all names that a plan asks for, and its names in full.

        Any other of its domains yields to a service of that name.
        """
        if plan.service is None:
            return (bracketed(plan.host),), (plan.host,)
        return self._hosts.domains(plan.service), self._hosts.own_names(plan.service)


_NAME: Final = attrgetter("name")


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
            instead[plan.name] = structs.replace(usual, content=plan.content)
        else:
            domain = bracketed(plan.host)
            if domain.lower() in claimed:
                return None
            claimed.add(domain.lower())
            instead[plan.name] = VirtualHostInput.of(
                name=plan.name, text=domain, content=plan.content
            )
    chosen = {**defaults.by_name, **instead}
    if len(chosen) == len(defaults.by_name):
        return tuple(chosen.values())
    return tuple(sorted(chosen.values(), key=lambda value: value.name))


def _egress_cluster(proxy: EgressProxy) -> ClusterName:
    number = proxy.port.get("number", 0) if proxy.port is not None else 0
    return outbound_cluster(number if isinstance(number, int) else 0, proxy.subset, proxy.host)
