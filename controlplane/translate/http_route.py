"""One entry of a VirtualService's `http`, as the Envoy routes of one proxy class on one port.

Owns how match, action and modifiers make a Route. Must not know the snapshot: everything that
it reads is in HttpRouteInput. The rule that is easy to break: a match that cannot be expressed
drops its route; an action that cannot be expressed answers 500, because dropping it would hand
its requests to the routes below.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from controlplane.model.base import Model
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectRef
from controlplane.model.names import ClusterName, config_path, parse_cluster
from controlplane.model.virtual_service import HTTPRetry, HTTPRoute
from controlplane.translate import envoy
from controlplane.translate.route_action import (
    Target,
    set_direct_response,
    set_redirect,
    set_route_action,
)
from controlplane.translate.route_headers import (
    CORS_FILTER,
    FAULT_FILTER,
    add_header_operations,
    build_cors,
    build_fault,
    header_operations,
)
from controlplane.translate.route_match import (
    UnexpressibleError,
    build_match,
    is_catch_all,
    path_of,
)


class HttpRouteInput(Model):
    """One `http` entry after everything that depends on the caller has been decided.

    `matches` are positions in `route.match` that hold for this caller, in order; `(-1,)` when
    the entry has none and takes everything. `retries` is the entry's own policy or that of the
    mesh. `port` is the port that requests come to.
    """

    rule: ObjectRef
    index: int
    route: HTTPRoute
    matches: tuple[int, ...]
    targets: tuple[Target, ...]
    mirrors: tuple[ClusterName, ...]
    retries: HTTPRetry | None
    port: int
    tls: bool = False


class BuiltRoute(NamedTuple):
    """An Envoy Route, the clusters it names, whether it takes everything, and its origin."""

    message: Any
    clusters: tuple[str, ...]
    catch_all: bool
    ref: ObjectRef
    field: str


class BuiltRoutes(NamedTuple):
    """Routes in order, and what was noticed."""

    routes: list[BuiltRoute]
    diagnostics: list[Diagnostic]


def build_http_routes(inputs: Iterable[HttpRouteInput]) -> BuiltRoutes:
    """Return the routes of one VirtualService, up to the first that takes everything."""
    out = BuiltRoutes([], [])
    for value in inputs:
        for position in value.matches:
            route = _build(value, position, out.diagnostics)
            if route is None:
                continue
            out.routes.append(route)
            if route.catch_all:
                return out
    return out


def catch_alls_last(routes: list[BuiltRoute]) -> list[BuiltRoute]:
    """Return routes of several VirtualServices with those that take everything at the end.

    Source: Istio's route.SortVHostRoutes; the order is kept otherwise.
    """
    return sorted(routes, key=lambda route: route.catch_all)


def _build(
    value: HttpRouteInput, position: int, diagnostics: list[Diagnostic]
) -> BuiltRoute | None:
    route = value.route
    match = route.match[position] if position >= 0 else None
    field = f"spec.http[{value.index}]"
    try:
        message = envoy.Route(match=build_match(match))
    except UnexpressibleError as error:
        diagnostics.append(
            _problem(value.rule, f"{field}.match[{position}].{error.field}", error.reason)
        )
        return None
    message.name = route.name
    if match is not None and match.name:
        message.name = f"{route.name}.{match.name}"
    if match is not None and match.stat_prefix:
        message.stat_prefix = match.stat_prefix
    _set_action(message, value, field, diagnostics)
    message.decorator.operation = _operation(message, value)
    path = config_path("VirtualService", value.rule.namespace, value.rule.name)
    message.metadata.CopyFrom(envoy.istio_config_metadata(path))
    _set_filters(message, route)
    return BuiltRoute(message, clusters_of(message), is_catch_all(message.match), value.rule, field)


def _set_action(
    message: Any, value: HttpRouteInput, field: str, diagnostics: list[Diagnostic]
) -> None:
    route = value.route
    try:
        if route.redirect is not None:
            add_header_operations(message, header_operations(route.headers, "headers"))
            set_redirect(message, route.redirect, value.port, tls=value.tls)
        elif route.direct_response is not None:
            add_header_operations(message, header_operations(route.headers, "headers"))
            set_direct_response(message, route.direct_response)
        else:
            set_route_action(message, route, value.targets, value.mirrors, retries=value.retries)
    except UnexpressibleError as error:
        diagnostics.append(_problem(value.rule, f"{field}.{error.field}", error.reason))
        _answer_500(message)


def _answer_500(message: Any) -> None:
    for field in (
        "request_headers_to_add",
        "request_headers_to_remove",
        "response_headers_to_add",
        "response_headers_to_remove",
    ):
        message.ClearField(field)
    message.direct_response.status = 500


def _set_filters(message: Any, route: HTTPRoute) -> None:
    if route.fault is not None:
        fault = build_fault(route.fault)
        if fault is not None:
            message.typed_per_filter_config[FAULT_FILTER].CopyFrom(envoy.pack(fault))
    if route.cors_policy is not None:
        cors = build_cors(route.cors_policy)
        message.typed_per_filter_config[CORS_FILTER].CopyFrom(envoy.pack(cors))


def _operation(message: Any, value: HttpRouteInput) -> str:
    """Return the name of the trace operation: the destination when it is one, else the rule."""
    path = path_of(message.match)
    if message.route.cluster:
        parts = parse_cluster(message.route.cluster)
        if parts is not None:
            return f"{parts.host}:{parts.port}{path}"
    return f"{value.rule.name}:{value.port}{path}"


def clusters_of(message: Any) -> tuple[str, ...]:
    """Return every cluster that a Route names, mirrors included."""
    if message.WhichOneof("action") != "route":
        return ()
    action = message.route
    named = [action.cluster] if action.cluster else []
    named += [entry.name for entry in action.weighted_clusters.clusters]
    named += [policy.cluster for policy in action.request_mirror_policies]
    return tuple(named)


def _problem(ref: ObjectRef, field: str, reason: str) -> Diagnostic:
    return Diagnostic(level=Level.ERROR, code="InvalidRoute", message=reason, ref=ref, field=field)
