"""One virtual host: what it is made of, its domains, and its bytes.

Owns VirtualHostInput, the key by which virtual hosts are remembered, and the bytes of one. Must
not know the snapshot. The rule that is easy to break: bytes are framed as they stand inside a
RouteConfiguration, because route configurations are joined and never serialised again.
"""

from __future__ import annotations

import functools
import ipaddress
import sys
from typing import Any, Final, Self, assert_never

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
from controlplane.translate.resources import Nest, Origin, digest, length_delimited, serialise
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


_HOST: Final = "\0"  # which no domain has

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
    kept: str
    """`text`, with `_HOST` for the host that the name begins with: it stands there twice."""
    content: Content
    sources: Sources = ()
    require_tls: bool = False
    count_attempts: bool = True

    def __hash__(self) -> int:
        # Texts keep their hashes; few virtual hosts of one name have the same domains as well.
        return hash((self.name, self.kept))

    @classmethod
    def of(
        cls,
        name: str,
        text: str,
        content: Content,
        *,
        sources: Sources = (),
        require_tls: bool = False,
        count_attempts: bool = True,
    ) -> Self:
        """Return the input of a virtual host whose domains are those of a text."""
        host = name.rpartition(":")[0]
        return cls(
            name=name,
            kept=text.replace(host, _HOST) if host else text,
            content=content,
            sources=sources,
            require_tls=require_tls,
            count_attempts=count_attempts,
        )

    @property
    def text(self) -> str:
        """The domains in wire order, with a space between two: one text instead of several."""
        name = self.name
        return self.kept.replace(_HOST, name[: name.rfind(":")])

    @property
    def domains(self) -> list[str]:
        """The domains in wire order."""
        return self.text.split(" ")

    def claims(self) -> list[str]:
        """Return the domains in lower case: no other virtual host may have one of them."""
        return self.text.lower().split(" ")


class VirtualHostBytes(msgspec.Struct, frozen=True, gc=False):
    """A virtual host, serialised and framed as field 2 of a RouteConfiguration.

    `tail` is the end of the bytes where many virtual hosts have it alike, `digest` a hash of all
    of them, `routes` the objects that asked for its routes, in their order.
    """

    name: str
    beginning: bytes
    tail: bytes
    digest: bytes
    named: str | tuple[str, ...]  # the cluster, or the clusters, that its routes refer to
    sources: Sources
    routes: Sources
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        """The names of the clusters that its routes refer to."""
        named = self.named
        return (named,) if isinstance(named, str) else named

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
    if isinstance(value.content, ServiceContent):
        return _service_host(value, value.content)
    diagnostics: list[Diagnostic] = []
    routes = _routes(value.content, diagnostics)
    message = _virtual_host(require_tls=value.require_tls, count_attempts=value.count_attempts)
    message.name = value.name
    message.domains.extend(value.domains)
    message.routes.extend([route.message for route in routes])
    framed = length_delimited(VIRTUAL_HOSTS_FIELD, serialise(message))
    return VirtualHostBytes(
        name=value.name,
        beginning=framed,
        tail=b"",
        digest=digest(framed),
        named=tuple({sys.intern(name): None for route in routes for name in route.clusters}),
        sources=value.sources,
        routes=tuple((route.ref, route.field) if route.ref.name else None for route in routes),
        diagnostics=tuple(diagnostics),
    )


def _spelt(sources: Sources) -> tuple[Source | None, ...]:
    return ((sources, ""),) if isinstance(sources, ObjectRef) else sources


def default_route() -> Any:
    """Return the Route that takes everything, without what makes it that of one service."""
    return envoy.Route(name=DEFAULT_ROUTE, match=envoy.RouteMatch(prefix="/"))


def service_decorator(host: str, port: int) -> Any:
    """Return the Decorator by which traces name a service's route."""
    return envoy.Decorator(operation=f"{host}:{port}/*")


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


def _routes(
    content: RuleContent | ForwardContent | RefuseContent, diagnostics: list[Diagnostic]
) -> list[BuiltRoute]:
    match content:
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
            assert_never(content)


_NOBODY: Final = ObjectRef("", "", "")


def _service_host(value: VirtualHostInput, content: ServiceContent) -> VirtualHostBytes:
    """Return the virtual host of a service that no VirtualService routes."""
    cluster = outbound_cluster(content.port, "", content.host)
    nest = _services_alike(
        content.affinity, content.retries, value.require_tls, value.count_attempts
    )
    beginning = nest.begin(
        serialise(envoy.RouteAction(cluster=cluster)),
        serialise(envoy.Route(decorator=service_decorator(content.host, content.port))),
        serialise(envoy.VirtualHost(name=value.name, domains=value.domains)),
    )
    return VirtualHostBytes(
        name=value.name,
        beginning=beginning,
        tail=nest.tail,
        digest=digest(beginning, nest.tail),
        named=sys.intern(cluster),
        sources=value.sources,
        routes=value.sources,  # the only route is the service's, like the whole
    )


@functools.lru_cache(maxsize=1024)
def _services_alike(
    affinity: ConsistentHashLB | None,
    retries: HTTPRetry | None,
    require_tls: bool,
    count_attempts: bool,
) -> Nest:
    """Return what the virtual hosts of services have alike, without any name."""
    action = envoy.RouteAction()
    set_timeout(action, None)
    policy = build_retry_policy(retries, affine=affinity is not None)
    if policy is not None:
        action.retry_policy.CopyFrom(policy)
    add_hash_policy(action, affinity)
    host = _virtual_host(require_tls=require_tls, count_attempts=count_attempts)
    return Nest.of(
        (envoy.Route.ROUTE_FIELD_NUMBER, serialise(action)),
        (envoy.VirtualHost.ROUTES_FIELD_NUMBER, serialise(default_route())),
        (VIRTUAL_HOSTS_FIELD, serialise(host)),
    )


def _virtual_host(*, require_tls: bool, count_attempts: bool) -> Any:
    """Return a VirtualHost without names and routes."""
    return envoy.VirtualHost(
        require_tls=envoy.VirtualHost.ALL if require_tls else envoy.VirtualHost.NONE,
        include_request_attempt_count=count_attempts,
    )


def _forward_route(cluster: ClusterName) -> BuiltRoute:
    message = envoy.Route(name=ALLOW_ANY, match=envoy.RouteMatch(prefix="/"))
    message.route.cluster = cluster
    set_timeout(message.route, None)
    return BuiltRoute(message, (cluster,), True, _NOBODY, "")
