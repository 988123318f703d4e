"""One virtual host: what it is made of, its domains, and its bytes.

Owns VirtualHostInput, the key by which virtual hosts are remembered, and the bytes of one. Must
not know the snapshot. The rule that is easy to break: bytes are framed as they stand inside a
RouteConfiguration, because route configurations are joined and never serialised again.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import Any, Final, assert_never

import msgspec

from controlplane.model.base import Model
from controlplane.model.destination_rule import ConsistentHashLB
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef
from controlplane.model.names import ClusterName, Host, outbound_cluster
from controlplane.model.virtual_service import HTTPRetry
from controlplane.translate import envoy
from controlplane.translate.http_route import (
    BuiltRoute,
    HttpRouteInput,
    build_http_routes,
    catch_alls_last,
)
from controlplane.translate.resources import Origin, digest, length_delimited, serialise
from controlplane.translate.route_action import add_hash_policy, build_retry_policy, set_timeout

VIRTUAL_HOSTS_FIELD: Final = envoy.RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER
DEFAULT_ROUTE: Final = "default"
ALLOW_ANY: Final = "allow_any"
BLOCK_ALL: Final = "block_all"


class ServiceContent(Model, cache_hash=False):
    """A service that no VirtualService routes: everything goes to its cluster."""

    host: Host
    port: int
    affinity: ConsistentHashLB | None = None
    retries: HTTPRetry | None = None


class RuleContent(Model):
    """The `http` entries of one or more VirtualServices, each a tuple of its own.

    Empty for a virtual host that only redirects to https or answers 404.
    """

    rules: tuple[tuple[HttpRouteInput, ...], ...] = ()


class ForwardContent(Model):
    """Unknown destinations of a mesh that lets them pass: everything goes to one cluster."""

    cluster: ClusterName


class RefuseContent(Model):
    """Unknown destinations of a mesh that does not let them pass: everything gets a 502."""


Content = ServiceContent | RuleContent | ForwardContent | RefuseContent
Source = tuple[ObjectRef, str]
"""An object and a field of it."""
Sources = ObjectRef | tuple[Source | None, ...]
"""One object as a whole, as of most virtual hosts, or what there is for each part."""


class VirtualHostInput(Model, cache_hash=False):
    """Everything that a virtual host is made of.

    `sources` are the objects (with a field) that opened the virtual host: a service, or a
    server of a Gateway. Those of its routes are known from the routes.
    """

    name: str
    text: str
    """The domains in wire order, with a space between two: one text instead of several."""
    content: Content
    sources: Sources = ()
    require_tls: bool = False
    count_attempts: bool = True

    def __hash__(self) -> int:
        # Texts keep their hashes; few virtual hosts of one name have the same domains as well.
        return hash((self.name, self.text))

    @property
    def domains(self) -> list[str]:
        """The domains in wire order."""
        return self.text.split(" ")


class VirtualHostBytes(msgspec.Struct, frozen=True, gc=False):
    """A virtual host, serialised and framed as field 2 of a RouteConfiguration.

    `digest` is a hash of `framed`, `routes` the objects that asked for its routes, in their order.
    """

    name: str
    framed: bytes
    digest: bytes
    clusters: tuple[str, ...]
    sources: Sources
    routes: Sources
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the virtual host and its routes come from; spelt out when somebody asks."""
        part = f"virtual_hosts[{self.name}]"
        return (
            *(Origin(part, *source) for source in _spelt(self.sources) if source is not None),
            *(
                Origin(f"{part}.routes[{index}]", *source)
                for index, source in enumerate(_spelt(self.routes))
                if source is not None
            ),
        )


def build_virtual_host(value: VirtualHostInput) -> VirtualHostBytes:
    """Return the bytes of a virtual host, the clusters it names, and where its parts come from."""
    diagnostics: list[Diagnostic] = []
    routes = _routes(value, diagnostics)
    message = envoy.VirtualHost(
        name=value.name,
        domains=value.domains,
        routes=[route.message for route in routes],
        include_request_attempt_count=value.count_attempts,
    )
    if value.require_tls:
        message.require_tls = envoy.VirtualHost.ALL
    framed = length_delimited(VIRTUAL_HOSTS_FIELD, serialise(message))
    asked = tuple((route.ref, route.field) if route.ref.name else None for route in routes)
    return VirtualHostBytes(
        name=value.name,
        framed=framed,
        digest=digest(framed),
        clusters=tuple({sys.intern(name): None for route in routes for name in route.clusters}),
        sources=value.sources,
        # A service's only route is the service's, like the whole.
        routes=value.sources if asked == _spelt(value.sources) else asked,
        diagnostics=tuple(diagnostics),
    )


def _spelt(sources: Sources) -> tuple[Source | None, ...]:
    return ((sources, ""),) if isinstance(sources, ObjectRef) else sources


def default_route(host: str, port: int, cluster: str) -> Any:
    """Return the Route that sends everything to one cluster, without retries or timeouts."""
    return envoy.Route(
        name=DEFAULT_ROUTE,
        match=envoy.RouteMatch(prefix="/"),
        decorator=envoy.Decorator(operation=f"{host}:{port}/*"),
        route=envoy.RouteAction(cluster=cluster),
    )


def service_domains(
    host: Host,
    *,
    aliases: tuple[Host, ...],
    headless: bool,
    addresses: tuple[str, ...],
    dns_domain: str,
) -> tuple[str, ...]:
    """Return all names by which a proxy of `dns_domain` may call a service, in wire order.

    Source: Istio's generateVirtualHostDomains. `addresses` are the service's own IPs.
    """
    names: list[str] = []
    for name in (host, *aliases):
        names.append(name)
        names.extend(alternate_names(name, dns_domain))
    if headless:
        # A single endpoint is called by its host name in front of the service's.
        names += [f"*.{name}" for name in names if not name.startswith("*")]
    names += addresses
    return tuple(bracketed(name) for name in names)


def alternate_names(host: str, dns_domain: str) -> tuple[str, ...]:
    """Return the other spellings of a host: with a final dot, and its Kubernetes short names.

    The bare name only means the service of the proxy's own namespace. Source: Istio's
    GenerateAltVirtualHosts.
    """
    absolute = () if _is_address(host) else (f"{host}.",)
    namespace, found, domain = dns_domain.partition(".svc.")
    suffix = f".svc.{domain}"
    if not found or not host.endswith(suffix):
        return absolute
    short = host[: -len(suffix)]
    name, dot, owner = short.partition(".")
    if not dot or not name:
        return absolute
    if owner == namespace:
        return (*absolute, name, f"{short}.svc", short)
    return (*absolute, short, f"{short}.svc")


def bracketed(name: str) -> str:
    """Return a host as requests say it: an IPv6 address stands in brackets."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def with_port(domain: str, port: int) -> str:
    """`DOMAIN:PORT`, an IPv6 address in brackets."""
    return f"{bracketed(domain)}:{port}"


def _is_address(host: str) -> bool:
    if not host[:1].isdigit() and ":" not in host:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _routes(value: VirtualHostInput, diagnostics: list[Diagnostic]) -> list[BuiltRoute]:
    match value.content:
        case ServiceContent() as service:
            first = next(iter(_spelt(value.sources)), None)
            return [_service_route(service, _NOBODY if first is None else first[0])]
        case RuleContent(rules=rules):
            routes: list[BuiltRoute] = []
            for rule in rules:
                built = build_http_routes(rule)
                routes += built.routes
                diagnostics += built.diagnostics
            return catch_alls_last(routes) if len(rules) > 1 else routes
        case ForwardContent(cluster=cluster):
            return [_forward_route(cluster)]
        case RefuseContent():
            message = envoy.Route(name=BLOCK_ALL, match=envoy.RouteMatch(prefix="/"))
            message.direct_response.status = 502
            return [BuiltRoute(message, (), True, _NOBODY, "")]
        case _:
            assert_never(value.content)


_NOBODY: Final = ObjectRef("", "", "")


def _service_route(service: ServiceContent, ref: ObjectRef) -> BuiltRoute:
    cluster = outbound_cluster(service.port, "", service.host)
    message = default_route(service.host, service.port, cluster)
    set_timeout(message.route, None)
    policy = build_retry_policy(service.retries, affine=service.affinity is not None)
    if policy is not None:
        message.route.retry_policy.CopyFrom(policy)
    add_hash_policy(message.route, service.affinity)
    return BuiltRoute(message, (cluster,), True, ref, "")


def _forward_route(cluster: ClusterName) -> BuiltRoute:
    message = envoy.Route(name=ALLOW_ANY, match=envoy.RouteMatch(prefix="/"))
    message.route.cluster = cluster
    set_timeout(message.route, None)
    return BuiltRoute(message, (cluster,), True, _NOBODY, "")
