"""networking.istio.io VirtualService, with every field of the API."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from controlplane.model.base import Duration, FrozenDict, Labels, Model
from controlplane.model.matching import (
    Int32,
    JsonObject,
    Percent,
    PortSelector,
    StringMatch,
    Uint32,
)
from controlplane.model.meta import Object

Headers = FrozenDict[str, str]
StringMatches = FrozenDict[str, StringMatch]
Weight = Annotated[int, Meta(ge=0, le=2147483647)]


class HeaderOperations(Model):
    """What to do with headers in one direction."""

    set: Headers | None = None
    add: Headers | None = None
    remove: tuple[str, ...] = ()


class HeaderManipulation(Model):
    """Header operations of both directions (the API's `Headers`)."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class Destination(Model, cache_hash=False):
    """Where traffic goes: a host of the registry, a subset, a port."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


class HTTPRouteDestination(Model, cache_hash=False):
    """One weighted destination of an HTTP route."""

    destination: Destination
    weight: Weight = 0
    headers: HeaderManipulation | None = None


class HTTPMatchRequest(Model):
    """All conditions of one match block; they must all hold."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: StringMatches | None = None
    port: Uint32 | None = None
    source_labels: Labels | None = None
    gateways: tuple[str, ...] = ()
    query_params: StringMatches | None = None
    ignore_uri_case: bool = False
    without_headers: StringMatches | None = None
    source_namespace: str = ""
    stat_prefix: str = ""


class HTTPRedirect(Model):
    """Answer with a redirect."""

    uri: str = ""
    authority: str = ""
    port: Uint32 | None = None
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    scheme: str = ""
    redirect_code: Uint32 = 0
    prefix_rewrite: str = ""


class HTTPBody(Model):
    """The body of a direct response: exactly one is set. `bytes` is base64."""

    string: str | None = None
    bytes: str | None = None


class HTTPDirectResponse(Model):
    """Answer without asking anybody."""

    status: Uint32
    body: HTTPBody | None = None


class Delegate(Model):
    """The VirtualService that continues this route."""

    name: str = ""
    namespace: str = ""


class RegexRewrite(Model):
    """Rewrite the path by a regular expression (RE2)."""

    match: str = ""
    rewrite: str = ""


class HTTPRewrite(Model):
    """Rewrite the path or the authority before forwarding."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Model):
    """Retries of a route."""

    attempts: Int32 = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class FaultDelay(Model):
    """Delay a share of the requests."""

    percent: Int32 = 0
    fixed_delay: Duration | None = None
    exponential_delay: Duration | None = None
    percentage: Percent | None = None


class FaultAbort(Model):
    """Abort a share of the requests."""

    percent: Int32 = 0
    http_status: Int32 | None = None
    grpc_status: str | None = None
    http2_error: str | None = None
    percentage: Percent | None = None


class HTTPFaultInjection(Model):
    """Faults of a route."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class HTTPMirrorPolicy(Model):
    """A shadow destination."""

    destination: Destination
    percentage: Percent | None = None


class CorsPolicy(Model):
    """Cross-origin rules of a route."""

    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"


class HTTPRoute(Model):
    """One entry of `http`: matches, then one action and its modifiers."""

    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    mirror_percent: Uint32 | None = None
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: HeaderManipulation | None = None


class RouteDestination(Model):
    """One weighted destination of a TLS or TCP route."""

    destination: Destination
    weight: Weight = 0


class TLSMatchAttributes(Model):
    """Conditions of a TLS route."""

    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: Uint32 | None = None
    source_labels: Labels | None = None
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class TLSRoute(Model):
    """One entry of `tls`."""

    match: tuple[TLSMatchAttributes, ...]
    route: tuple[RouteDestination, ...] = ()


class L4MatchAttributes(Model):
    """Conditions of a TCP route."""

    destination_subnets: tuple[str, ...] = ()
    port: Uint32 | None = None
    source_subnet: str = ""
    source_labels: Labels | None = None
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class TCPRoute(Model):
    """One entry of `tcp`."""

    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Model):
    """What a VirtualService asks for."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()


class VirtualService(Object):
    """Routing rules for hosts, in the mesh or at gateways."""

    KIND: ClassVar[str] = "VirtualService"
    spec: VirtualServiceSpec = VirtualServiceSpec()
    status: JsonObject | None = None
