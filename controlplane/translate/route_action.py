"""What a VirtualService route does with a request, as Envoy's route actions.

Owns destinations with their weights, retries, timeouts, mirrors, affinity, redirects and direct
responses. Must not know how a destination got its cluster name. The rule that is easy to break:
an action that Envoy would refuse costs the whole route configuration, so it becomes an error
response of this one route instead.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from controlplane.model.base import Duration, Model
from controlplane.model.destination_rule import ConsistentHashLB
from controlplane.model.names import ClusterName
from controlplane.model.virtual_service import (
    HTTPDirectResponse,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
)
from controlplane.translate import envoy
from controlplane.translate.route_headers import (
    add_header_operations,
    fractional_percent,
    header_operations,
)
from controlplane.translate.route_match import UnexpressibleError, one_line, regex_matcher

DEFAULT_RETRY_ON: Final = (
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
)
DEFAULT_RETRIES: Final = 2
HOST_SELECTION_ATTEMPTS: Final = 5
MAX_BODY: Final = 1024 * 1024
_STATUS_TOKEN: Final = "retriable-status-codes"
_MAX_WEIGHT: Final = 4_294_967_295
_REDIRECT_CODES: Final = {
    0: envoy.RedirectAction.MOVED_PERMANENTLY,
    301: envoy.RedirectAction.MOVED_PERMANENTLY,
    302: envoy.RedirectAction.FOUND,
    303: envoy.RedirectAction.SEE_OTHER,
    307: envoy.RedirectAction.TEMPORARY_REDIRECT,
    308: envoy.RedirectAction.PERMANENT_REDIRECT,
}


class Target(Model, cache_hash=False):
    """Where one destination of a route leads: its cluster and its affinity."""

    cluster: ClusterName
    affinity: ConsistentHashLB | None = None


def set_route_action(
    out: Any,
    route: HTTPRoute,
    targets: tuple[Target, ...],
    mirrors: tuple[ClusterName, ...],
    *,
    retries: HTTPRetry | None,
) -> None:
    """Make `out`, an Envoy Route, forward requests to the targets of a VirtualService route.

    `targets` follow `route.route`; `mirrors` follow `route.mirror` and `route.mirrors`. Raises
    UnexpressibleError when nothing is left to forward to.
    """
    action = out.route
    set_timeout(action, route.timeout)
    operations = header_operations(route.headers, "headers")
    add_header_operations(out, operations)
    authority = operations.authority
    if route.rewrite is not None:
        _set_rewrite(action, route.rewrite)
        authority = one_line(route.rewrite.authority, "rewrite.authority") or authority
    if authority:
        action.host_rewrite_literal = authority
    _set_mirrors(action, route, mirrors)
    if len(targets) == 1:
        _set_single(out, route, targets[0])
        affine = targets[0].affinity is not None
    else:
        _set_weighted(action, route, targets)
        affine = False
    policy = build_retry_policy(retries, affine=affine)
    if policy is not None:
        action.retry_policy.CopyFrom(policy)


def set_timeout(action: Any, timeout: Duration | None) -> None:
    """Set the timeout of requests and of gRPC calls; zero, the default, means none."""
    value = envoy.duration(max(0, timeout or 0))
    action.timeout.CopyFrom(value)
    action.max_grpc_timeout.CopyFrom(value)


def build_retry_policy(retries: HTTPRetry | None, *, affine: bool) -> Any | None:
    """Return the RetryPolicy of a route, None when retries are switched off.

    With affinity a retry may meet the same host again. Source: Istio's retry.ConvertPolicy.
    """
    out = envoy.RetryPolicy(
        retry_on=DEFAULT_RETRY_ON,
        num_retries=envoy.UInt32Value(value=DEFAULT_RETRIES),
        host_selection_retry_max_attempts=HOST_SELECTION_ATTEMPTS,
    )
    avoid = not affine
    if retries is not None:
        if retries.attempts <= 0:
            return None
        out.num_retries.value = retries.attempts
        if retries.retry_on:
            out.retry_on, codes = _parse_retry_on(retries.retry_on)
            out.retriable_status_codes.extend(codes)
        if retries.per_try_timeout is not None and retries.per_try_timeout >= 0:
            out.per_try_timeout.CopyFrom(envoy.duration(retries.per_try_timeout))
        if retries.retry_ignore_previous_hosts is not None:
            avoid = retries.retry_ignore_previous_hosts
        if retries.retry_remote_localities:
            out.retry_priority.name = "envoy.retry_priorities.previous_priorities"
            out.retry_priority.typed_config.CopyFrom(
                envoy.pack(envoy.PreviousPrioritiesConfig(update_frequency=2))
            )
        # Envoy refuses an interval of zero.
        if retries.backoff is not None and retries.backoff > 0:
            out.retry_back_off.base_interval.CopyFrom(envoy.duration(retries.backoff))
    if avoid:
        out.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=envoy.pack(envoy.PreviousHostsPredicate()),
        )
    return out


def add_hash_policy(action: Any, affinity: ConsistentHashLB | None) -> None:
    """Add the hash policy that a DestinationRule's consistentHash asks for, if any."""
    if affinity is None:
        return
    if affinity.http_header_name:
        action.hash_policy.add().header.header_name = affinity.http_header_name
    elif affinity.http_cookie is not None and affinity.http_cookie.name:
        source = affinity.http_cookie
        cookie = action.hash_policy.add().cookie
        cookie.name = source.name
        cookie.path = source.path
        if source.ttl is not None and source.ttl >= 0:
            cookie.ttl.CopyFrom(envoy.duration(source.ttl))
        for attribute in source.attributes:
            cookie.attributes.add(name=attribute.name, value=attribute.value)
    elif affinity.use_source_ip:
        action.hash_policy.add().connection_properties.source_ip = True
    elif affinity.http_query_parameter_name:
        action.hash_policy.add().query_parameter.name = affinity.http_query_parameter_name


def set_redirect(out: Any, redirect: HTTPRedirect, port: int, *, tls: bool) -> None:
    """Make a Route answer with a redirect; raises UnexpressibleError for an unknown code.

    `port` is the port that the request came to: Envoy cannot derive it, but a route
    configuration belongs to one port.
    """
    code = _REDIRECT_CODES.get(redirect.redirect_code)
    if code is None:
        raise UnexpressibleError(
            "redirect.redirectCode", f"{redirect.redirect_code} is not 301, 302, 303, 307 or 308"
        )
    action = out.redirect
    action.response_code = code
    action.host_redirect = one_line(redirect.authority, "redirect.authority")
    if redirect.prefix_rewrite:
        action.prefix_rewrite = one_line(redirect.prefix_rewrite, "redirect.prefixRewrite")
    elif redirect.uri:
        action.path_redirect = one_line(redirect.uri, "redirect.uri")
    if redirect.scheme:
        action.scheme_redirect = one_line(redirect.scheme, "redirect.scheme")
    if redirect.port is not None:
        action.port_redirect = redirect.port
    elif redirect.derive_port == "FROM_REQUEST_PORT":
        action.port_redirect = port
    scheme = redirect.scheme or ("https" if tls else "http")
    if (action.port_redirect, scheme) in ((80, "http"), (443, "https")):
        action.port_redirect = 0


def set_direct_response(out: Any, response: HTTPDirectResponse) -> None:
    """Make a Route answer by itself; raises UnexpressibleError when Envoy would refuse it."""
    if not 200 <= response.status <= 599:
        raise UnexpressibleError("directResponse.status", f"{response.status} is not 200 to 599")
    body = response.body
    content = b""
    if body is not None and body.string is not None:
        content = body.string.encode()
    elif body is not None and body.bytes is not None:
        try:
            content = base64.b64decode(body.bytes, validate=True)
        except binascii.Error as error:
            raise UnexpressibleError("directResponse.body.bytes", str(error)) from error
    if len(content) > MAX_BODY:
        raise UnexpressibleError("directResponse.body", f"{len(content)} bytes exceed {MAX_BODY}")
    out.direct_response.status = response.status
    if body is not None and body.string is not None:
        out.direct_response.body.inline_string = body.string
    elif body is not None and body.bytes is not None:
        out.direct_response.body.inline_bytes = content


def _set_single(out: Any, route: HTTPRoute, target: Target) -> None:
    action = out.route
    action.cluster = target.cluster
    operations = header_operations(route.route[0].headers, "route[0].headers")
    add_header_operations(out, operations)
    # The host that the route sets stands above that of its destination.
    if operations.authority and not action.host_rewrite_literal:
        action.host_rewrite_literal = operations.authority
    add_hash_policy(action, target.affinity)


def _set_weighted(action: Any, route: HTTPRoute, targets: tuple[Target, ...]) -> None:
    total = sum(destination.weight for destination in route.route)
    if not targets:
        raise UnexpressibleError("route", "there is no destination")
    if not 0 < total <= _MAX_WEIGHT:
        raise UnexpressibleError("route", f"the weights add up to {total}")
    for index, (destination, target) in enumerate(zip(route.route, targets, strict=True)):
        if destination.weight == 0:
            continue
        entry = action.weighted_clusters.clusters.add()
        entry.name = target.cluster
        entry.weight.value = destination.weight
        operations = header_operations(destination.headers, f"route[{index}].headers")
        add_header_operations(entry, operations)
        if operations.authority:
            entry.host_rewrite_literal = operations.authority
        add_hash_policy(action, target.affinity)


def _set_rewrite(action: Any, rewrite: HTTPRewrite) -> None:
    regex = rewrite.uri_regex_rewrite
    if regex is not None and regex.match:
        action.regex_rewrite.pattern.CopyFrom(
            regex_matcher(regex.match, "rewrite.uriRegexRewrite.match")
        )
        action.regex_rewrite.substitution = one_line(
            regex.rewrite, "rewrite.uriRegexRewrite.rewrite"
        )
    elif rewrite.uri:
        action.prefix_rewrite = one_line(rewrite.uri, "rewrite.uri")


def _set_mirrors(action: Any, route: HTTPRoute, mirrors: tuple[ClusterName, ...]) -> None:
    shares: list[Any] = []
    if route.mirror is not None:
        given = route.mirror_percentage is not None or route.mirror_percent is not None
        shares.append(
            fractional_percent(route.mirror_percentage, route.mirror_percent if given else 100)
        )
    shares += [
        fractional_percent(mirror.percentage, None if mirror.percentage is not None else 100)
        for mirror in route.mirrors
    ]
    for cluster, share in zip(mirrors, shares, strict=True):
        if share.numerator == 0:
            continue
        action.request_mirror_policies.add(
            cluster=cluster,
            runtime_fraction=envoy.RuntimeFractionalPercent(default_value=share),
            trace_sampled=envoy.BoolValue(value=False),
            disable_shadow_host_suffix_append=True,
        )


def _parse_retry_on(text: str) -> tuple[str, list[int]]:
    """Return retry conditions and status codes; codes need the token that switches them on."""
    tokens: list[str] = []
    codes: list[int] = []
    for part in (piece.strip() for piece in text.split(",")):
        if part.isdigit() and 100 <= int(part) <= 599:
            codes.append(int(part))
        elif part:
            tokens.append(part)
    if codes and _STATUS_TOKEN not in tokens:
        tokens.append(_STATUS_TOKEN)
    return ",".join(tokens), codes
