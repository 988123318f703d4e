"""Route configurations: what a name asks for, and the join of virtual hosts into bytes.

Owns RouteInput, the envelope of a route configuration and the choice between a sidecar's and a
gateway's routes. Must not know how a virtual host is built. The rule that is easy to break: the
join concatenates cached bytes, and must parse to what a serialised message would parse to.
"""

from __future__ import annotations

from typing import Final

from controlplane.model.base import Model
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.names import RouteName
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.gateway_routes import gateway_virtual_hosts
from controlplane.translate.resources import (
    Joined,
    Resource,
    ResourceType,
    Translated,
    noted,
    serialise,
)
from controlplane.translate.route_action import MAX_BODY
from controlplane.translate.scope import OutboundClass
from controlplane.translate.sidecar_routes import HTTP_PROXY, SidecarRoutes
from controlplane.translate.virtual_hosts import VirtualHostBytes, VirtualHostInput


class RouteInput(Model):
    """A route configuration: its virtual hosts in final order, and its envelope.

    `known` is false for a name that nobody should ask for: it gets an empty configuration.
    """

    name: RouteName
    virtual_hosts: tuple[VirtualHostInput, ...] = ()
    known: bool = True
    ignore_port: bool = True
    diagnostics: tuple[Diagnostic, ...] = ()


def route_input(
    snapshot: Snapshot, cls: OutboundClass, name: str, routes: SidecarRoutes | None = None
) -> RouteInput:
    """Return what the route configuration of a name is made of, for one proxy class.

    `routes` are those of the class in this snapshot, for a caller that asks for many names.
    """
    if cls.is_router:
        hosts = gateway_virtual_hosts(snapshot, cls, name)
        if hosts is None:
            return RouteInput(name=RouteName(name), known=False)
        return RouteInput(name=RouteName(name), virtual_hosts=hosts)
    routes = routes or SidecarRoutes(snapshot, cls)
    if name == HTTP_PROXY:
        # The domains carry ports here, one listener serving all of them; Envoy must not drop
        # the port of a request before it looks for one.
        return RouteInput(
            name=RouteName(name),
            virtual_hosts=(*routes.all_ports(), routes.catch_all()),
            ignore_port=False,
            diagnostics=routes.diagnostics,
        )
    host, separator, text = name.rpartition(":")
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < port <= _MAX_PORT:
        return RouteInput(name=RouteName(name), known=False)
    if separator:
        return RouteInput(name=RouteName(name), virtual_hosts=routes.sniffed(host, port))
    return RouteInput(
        name=RouteName(name),
        virtual_hosts=(*routes.port(port), routes.catch_all()),
        diagnostics=routes.diagnostics,
    )


def join_route(value: RouteInput, virtual_hosts: tuple[VirtualHostBytes, ...]) -> Translated:
    """Return the route configuration of these virtual hosts, which follow `value.virtual_hosts`.

    Fields of a protobuf message may stand in any order and repeated fields concatenate, so
    joining serialised parts gives the message that serialising the whole would give.
    """
    head, tail = serialise(envoy.RouteConfiguration(name=value.name)), _tail(value)
    resource = Resource.of(ResourceType.ROUTE, value.name, Joined(head, virtual_hosts, tail))
    return noted(
        resource,
        (
            *value.diagnostics,
            *(found for host in virtual_hosts if host.diagnostics for found in host.diagnostics),
        ),
    )


def _tail(value: RouteInput) -> bytes:
    message = envoy.RouteConfiguration(validate_clusters=envoy.BoolValue(value=False))
    if value.known:
        message.max_direct_response_body_size_bytes.value = MAX_BODY
        message.ignore_port_in_host_matching = value.ignore_port
    return serialise(message)


_MAX_PORT: Final = 65535
