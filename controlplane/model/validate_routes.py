"""Values of a VirtualService that its types allow and that cannot be meant.

Source: Istio's pkg/config/validation/virtualservice.go and the rules of its CRD.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from controlplane.model.matching import PortSelector
from controlplane.model.names import MESH_GATEWAY
from controlplane.model.schema import Finding, Path
from controlplane.model.values import (
    DEPRECATED,
    at_most_one,
    duration,
    error,
    export_to,
    header_name,
    host,
    is_address_range,
    is_dns_label,
    is_host,
    labels,
    regex,
    string_match,
    unique,
    warning,
)
from controlplane.model.virtual_service import (
    CorsPolicy,
    Destination,
    HeaderManipulation,
    HTTPFaultInjection,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    RouteDestination,
    VirtualServiceSpec,
)

_REDIRECT_CODES: Final = frozenset({0, 301, 302, 303, 307, 308})
_METHODS: Final = frozenset("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH *".split())
# Envoy's retry_on and retriable gRPC status words, and numeric status codes beside them.
_RETRY_ON: Final = frozenset(
    "5xx gateway-error reset reset-before-request connect-failure envoy-ratelimited retriable-4xx "
    "refused-stream retriable-status-codes retriable-headers http3-post-connect-failure cancelled "
    "deadline-exceeded internal resource-exhausted unavailable".split()
)
_GRPC_STATUSES: Final = frozenset(
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
    "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
    "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED".split()
)
_MAX_BODY: Final = 1024 * 1024


def virtual_service(spec: VirtualServiceSpec) -> Iterator[Finding]:
    """Yield what is wrong with a VirtualService. One without hosts is a delegate."""
    delegate = not spec.hosts
    if delegate and spec.gateways:
        yield error(("spec", "hosts"), "is required (only a delegate has none, and no gateways)")
    if delegate and (spec.tls or spec.tcp):
        yield error(("spec", "hosts"), "is required: a delegate has http routes only")
    on_mesh = not spec.gateways or MESH_GATEWAY in spec.gateways
    for index, name in enumerate(spec.hosts):
        yield from host(("spec", "hosts", index), name)
        if name == "*" and on_mesh:
            yield error(("spec", "hosts", index), "`*` is not allowed on the mesh gateway")
    yield from unique(("spec", "hosts"), spec.hosts, "host")
    yield from _gateways(("spec", "gateways"), spec.gateways)
    yield from export_to(("spec", "exportTo"), spec.export_to)
    if not (spec.http or spec.tls or spec.tcp):
        yield error(("spec",), "one of http, tls and tcp is required")
    for index, route in enumerate(spec.http):
        yield from _http_route(("spec", "http", index), route, delegate=delegate)
    for index, tls in enumerate(spec.tls):
        path: Path = ("spec", "tls", index)
        if not tls.match:
            yield error((*path, "match"), "is required")
        for at, match in enumerate(tls.match):
            below = (*path, "match", at)
            if not match.sni_hosts:
                yield error((*below, "sniHosts"), "is required")
            for number, name in enumerate(match.sni_hosts):
                yield from host((*below, "sniHosts", number), name)
            yield from _subnets(below, match.destination_subnets)
            yield from _gateways((*below, "gateways"), match.gateways)
        yield from _l4_destinations((*path, "route"), tls.route)
    for index, tcp in enumerate(spec.tcp):
        for at, l4 in enumerate(tcp.match):
            below = ("spec", "tcp", index, "match", at)
            yield from _subnets(below, l4.destination_subnets)
            yield from _gateways((*below, "gateways"), l4.gateways)
        yield from _l4_destinations(("spec", "tcp", index, "route"), tcp.route)


def _gateways(path: Path, names: tuple[str, ...]) -> Iterator[Finding]:
    for index, name in enumerate(names):
        owner, slash, own = name.rpartition("/")
        good = is_host(own) and (not slash or owner == "." or is_dns_label(owner))
        if not good:
            yield error((*path, index), f"{name!r} is not of the form NAME or NAMESPACE/NAME")


def _subnets(path: Path, subnets: tuple[str, ...]) -> Iterator[Finding]:
    for index, subnet in enumerate(subnets):
        if not is_address_range(subnet):
            yield error((*path, "destinationSubnets", index), f"{subnet!r} is not a CIDR")


def _http_route(path: Path, route: HTTPRoute, *, delegate: bool) -> Iterator[Finding]:
    yield from _action(path, route, delegate=delegate)
    for index, match in enumerate(route.match):
        yield from _match((*path, "match", index), match)
    yield from _headers((*path, "headers"), route.headers)
    yield from _weighted(path, route.route)
    if route.redirect is not None:
        yield from _redirect((*path, "redirect"), route.redirect)
    if route.direct_response is not None:
        status = route.direct_response.status
        if not 200 <= status <= 599:
            yield error((*path, "directResponse", "status"), f"{status} is not from 200 to 599")
        body = route.direct_response.body
        if body is not None:
            below = (*path, "directResponse", "body")
            if body.string is not None and body.bytes is not None:
                yield error(below, "only one of string and bytes may be set")
            if max(len(body.string or ""), len(body.bytes or "") * 3 // 4) > _MAX_BODY:
                yield error(below, "is larger than 1 MiB")
    if route.rewrite is not None:
        yield from _rewrite((*path, "rewrite"), route.rewrite)
    yield from duration((*path, "timeout"), route.timeout, zero=True)
    if route.retries is not None:
        yield from retry((*path, "retries"), route.retries)
    if route.fault is not None:
        yield from _fault((*path, "fault"), route.fault)
    yield from _mirrors(path, route)
    if route.cors_policy is not None:
        yield from _cors((*path, "corsPolicy"), route.cors_policy)


def _action(path: Path, route: HTTPRoute, *, delegate: bool) -> Iterator[Finding]:
    actions = {
        "route": bool(route.route),
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "delegate": route.delegate is not None,
    }
    given = [name for name, there in actions.items() if there]
    if not given:
        yield error(path, "one of route, redirect, directResponse and delegate is required")
    elif len(given) > 1:
        yield error(path, f"only one of {', '.join(given)} may be set")
    if delegate and route.delegate is not None:
        yield error((*path, "delegate"), "a delegate cannot delegate further")
    if route.redirect is not None or route.direct_response is not None:
        action = "redirect" if route.redirect is not None else "directResponse"
        if route.fault is not None:
            yield error((*path, "fault"), f"cannot be combined with {action}")
        if route.rewrite is not None:
            yield error((*path, "rewrite"), f"cannot be combined with {action}")


def _match(path: Path, match: HTTPMatchRequest) -> Iterator[Finding]:
    yield from string_match((*path, "uri"), match.uri)
    yield from string_match((*path, "scheme"), match.scheme)
    yield from string_match((*path, "method"), match.method)
    yield from string_match((*path, "authority"), match.authority)
    for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name, value in (headers or {}).items():
            if not name.startswith("@"):  # claims of a token, which are no headers
                yield from header_name((*path, field, name), name)
            yield from string_match((*path, field, name), value, presence=True)
    for name, value in (match.query_params or {}).items():
        yield from string_match((*path, "queryParams", name), value, presence=True)
    if match.port is not None and not 1 <= match.port <= 65535:
        yield error((*path, "port"), f"{match.port} is not from 1 to 65535")
    yield from _gateways((*path, "gateways"), match.gateways)
    if match.source_labels:
        yield from labels((*path, "sourceLabels"), match.source_labels.items())
    if match.source_namespace and not is_dns_label(match.source_namespace):
        yield error((*path, "sourceNamespace"), f"{match.source_namespace!r} is not a namespace")


def _headers(path: Path, value: HeaderManipulation | None) -> Iterator[Finding]:
    if value is None:
        return
    for direction, operations in (("request", value.request), ("response", value.response)):
        if operations is None:
            continue
        for field, headers in (("set", operations.set), ("add", operations.add)):
            for name in headers or ():
                yield from header_name((*path, direction, field, name), name, operation=True)
        for index, name in enumerate(operations.remove):
            below = (*path, direction, "remove", index)
            yield from header_name(below, name, operation=True)
            if name.lower() in ("host", ":authority"):
                yield error(below, f"{name!r} cannot be removed")


def _weighted(path: Path, routes: tuple[HTTPRouteDestination, ...]) -> Iterator[Finding]:
    for index, entry in enumerate(routes):
        below = (*path, "route", index)
        yield from _destination((*below, "destination"), entry.destination)
        yield from _headers((*below, "headers"), entry.headers)
    if len(routes) > 1 and not any(entry.weight for entry in routes):
        yield error((*path, "route"), "the weights of several destinations must not all be 0")


def _l4_destinations(path: Path, routes: tuple[RouteDestination, ...]) -> Iterator[Finding]:
    if not routes:
        yield error(path, "is required")
    for index, entry in enumerate(routes):
        yield from _destination((*path, index, "destination"), entry.destination)
    if len(routes) > 1 and not any(entry.weight for entry in routes):
        yield error(path, "the weights of several destinations must not all be 0")


def _destination(path: Path, value: Destination) -> Iterator[Finding]:
    if value.host == "*":
        yield error((*path, "host"), "`*` is no destination")
    else:
        yield from host((*path, "host"), value.host)
    if value.subset and not is_host(value.subset):
        yield error((*path, "subset"), f"{value.subset!r} is not a subset name")
    yield from port_selector((*path, "port"), value.port)


def port_selector(path: Path, value: PortSelector | None) -> Iterator[Finding]:
    """A port selector that is there names a number."""
    if value is not None and value.number is None:
        yield error((*path, "number"), "is required")


def _redirect(path: Path, value: HTTPRedirect) -> Iterator[Finding]:
    if value.redirect_code not in _REDIRECT_CODES:
        yield error(
            (*path, "redirectCode"),
            f"{value.redirect_code} is not one of 301, 302, 303, 307 and 308",
        )
    yield from at_most_one(path, [("uri", value.uri), ("prefixRewrite", value.prefix_rewrite)])
    if value.port is not None and value.derive_port is not None:
        yield error(path, "only one of port and derivePort may be set")
    if value.port is not None and not 1 <= value.port <= 65535:
        yield error((*path, "port"), f"{value.port} is not from 1 to 65535")
    if value.scheme not in ("", "http", "https"):
        yield error((*path, "scheme"), f"{value.scheme!r} is neither http nor https")
    says = (value.uri, value.authority, value.scheme, value.prefix_rewrite, value.derive_port)
    if value.port is None and not any(says):
        yield error(path, "one of uri, authority, port, derivePort, scheme is required")


def _rewrite(path: Path, value: HTTPRewrite) -> Iterator[Finding]:
    by_regex = value.uri_regex_rewrite
    if not (value.uri or value.authority or by_regex):
        yield error(path, "one of uri, authority and uriRegexRewrite is required")
    if value.uri and by_regex is not None:
        yield error(path, "only one of uri and uriRegexRewrite may be set")
    if by_regex is not None:
        if not by_regex.match or not by_regex.rewrite:
            yield error((*path, "uriRegexRewrite"), "match and rewrite are both required")
        else:
            yield from regex((*path, "uriRegexRewrite", "match"), by_regex.match)


def retry(path: Path, value: HTTPRetry) -> Iterator[Finding]:
    """Yield what is wrong with a retry policy, of a route or of the mesh."""
    if value.attempts < 0:
        yield error((*path, "attempts"), f"{value.attempts} is negative")
    if value.attempts == 0 and (value.per_try_timeout is not None or value.retry_on):
        yield warning(path, "attempts is 0, so that the other fields have no effect")
    yield from duration((*path, "perTryTimeout"), value.per_try_timeout, zero=True)
    yield from duration((*path, "backoff"), value.backoff)
    for token in filter(None, (part.strip() for part in value.retry_on.split(","))):
        code = token.isascii() and token.isdigit() and 100 <= int(token) <= 599
        if not code and token not in _RETRY_ON:
            yield error((*path, "retryOn"), f"{token!r} is no condition that Envoy retries on")


def _fault(path: Path, value: HTTPFaultInjection) -> Iterator[Finding]:
    delay, abort = value.delay, value.abort
    if delay is None and abort is None:
        yield error(path, "one of delay and abort is required")
    if delay is not None:
        below = (*path, "delay")
        yield from _percent(below, delay.percent)
        if delay.fixed_delay is None and delay.exponential_delay is None:
            yield error((*below, "fixedDelay"), "is required")
        yield from duration((*below, "fixedDelay"), delay.fixed_delay)
    if abort is not None:
        below = (*path, "abort")
        yield from _percent(below, abort.percent)
        given = [
            name
            for name, text in (
                ("httpStatus", abort.http_status),
                ("grpcStatus", abort.grpc_status),
                ("http2Error", abort.http2_error),
            )
            if text is not None
        ]
        if not given:
            yield error(below, "one of httpStatus and grpcStatus is required")
        elif len(given) > 1:
            yield error(below, f"only one of {', '.join(given)} may be set")
        status = abort.http_status
        if status is not None and not 200 <= status <= 599:
            yield error((*below, "httpStatus"), f"{status} is not from 200 to 599")
        word = abort.grpc_status
        if word is not None and word not in _GRPC_STATUSES and not _grpc_number(word):
            yield error((*below, "grpcStatus"), f"{word!r} is no gRPC status such as UNAVAILABLE")


def _grpc_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= 16


def _percent(path: Path, value: int) -> Iterator[Finding]:
    if not 0 <= value <= 100:
        yield error((*path, "percent"), f"{value} is not from 0 to 100")
    elif value:
        yield warning((*path, "percent"), "is deprecated, use percentage", DEPRECATED)


def _mirrors(path: Path, route: HTTPRoute) -> Iterator[Finding]:
    if route.mirror is not None and route.mirrors:
        yield error(path, "only one of mirror and mirrors may be set")
    if route.mirror is not None:
        yield from _destination((*path, "mirror"), route.mirror)
    for index, entry in enumerate(route.mirrors):
        yield from _destination((*path, "mirrors", index, "destination"), entry.destination)
    if route.mirror_percent is not None:
        below = (*path, "mirrorPercent")
        if route.mirror_percent > 100:
            yield error(below, f"{route.mirror_percent} is more than 100")
        else:
            yield warning(below, "is deprecated, use mirrorPercentage", DEPRECATED)


def _cors(path: Path, value: CorsPolicy) -> Iterator[Finding]:
    if value.allow_origin:
        yield warning((*path, "allowOrigin"), "is deprecated, use allowOrigins", DEPRECATED)
    for index, origin in enumerate(value.allow_origins):
        yield from string_match((*path, "allowOrigins", index), origin)
    for index, method in enumerate(value.allow_methods):
        if method not in _METHODS:
            yield error((*path, "allowMethods", index), f"{method!r} is not an HTTP method")
    for field, names in (
        ("allowHeaders", value.allow_headers),
        ("exposeHeaders", value.expose_headers),
    ):
        for index, name in enumerate(names):
            if name != "*":
                yield from header_name((*path, field, index), name)
    if value.max_age is not None:
        if value.max_age < 0:
            yield error((*path, "maxAge"), f"{value.max_age} is negative")
        elif value.max_age % 1_000_000_000:
            yield error((*path, "maxAge"), f"{value.max_age} is finer than a second")
