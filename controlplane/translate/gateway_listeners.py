"""Listeners of a gateway: one for each address and port that its Gateways open.

Owns the HTTP family; a port of another family has no listener yet. Must not know hosts or
VirtualServices, which are matters of the routes. The rule that is easy to break: the port is
the pod's, which may differ from the one that the Gateway says.
"""

from __future__ import annotations

from controlplane.model.base import Model
from controlplane.model.meta import ObjectRef
from controlplane.model.names import RouteName, listener_name
from controlplane.model.services import Protocol
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.access_log import listener_access_logs
from controlplane.translate.filters import Direction
from controlplane.translate.gateways import merged_gateways
from controlplane.translate.http_connection_manager import http_connection_manager
from controlplane.translate.listener_settings import ListenerSettings, listener_settings
from controlplane.translate.outbound_listeners import CONNECT_TIMEOUT
from controlplane.translate.resources import (
    Common,
    Origin,
    Resource,
    ResourceType,
    Translated,
    serialise,
)
from controlplane.translate.scope import OutboundClass


class GatewayServer(Model):
    """A server that takes part on a port: its Gateway and its path inside it."""

    ref: ObjectRef
    field: str


class GatewayListenerInput(Model):
    """One HTTP listener of a gateway; the protocol is that of the oldest server."""

    bind: str
    port: int
    route: RouteName
    protocol: Protocol
    servers: tuple[GatewayServer, ...]
    settings: ListenerSettings


def gateway_listener_inputs(
    snapshot: Snapshot, cls: OutboundClass
) -> tuple[GatewayListenerInput, ...]:
    """Return the HTTP listeners of a gateway class by port, then address."""
    settings = listener_settings(snapshot.mesh, cls)
    return tuple(
        GatewayListenerInput(
            bind=port.bind or cls.wildcard_address,
            port=port.port,
            route=port.route_name,
            protocol=port.servers[0].protocol,
            servers=tuple(
                GatewayServer(ref=server.gateway, field=server.field) for server in port.servers
            ),
            settings=settings,
        )
        for port in sorted(
            merged_gateways(snapshot, cls).ports, key=lambda port: (port.port, port.bind)
        )
        if port.route_name is not None
    )


def build_gateway_listener(value: GatewayListenerInput) -> Translated:
    """Return one HTTP listener of a gateway (source: Istio's buildGatewayListener)."""
    name = listener_name(value.bind, value.port)
    manager = http_connection_manager(
        value.settings,
        Direction.GATEWAY,
        stat_prefix=f"outbound_{name};",
        protocol=value.protocol,
        route=value.route,
    )
    listener = envoy.Listener(
        name=name,
        address=envoy.socket_address(value.bind, value.port),
        traffic_direction="OUTBOUND",
        max_connections_to_accept_per_socket_event=envoy.UInt32Value(value=1),
        access_log=listener_access_logs(value.settings.access_log),
        filter_chains=[
            envoy.FilterChain(
                filters=[manager],
                transport_socket_connect_timeout=envoy.duration(CONNECT_TIMEOUT),
            )
        ],
    )
    if value.settings.exact_balance:
        listener.connection_balance_config.exact_balance.SetInParent()
    return Resource.of(
        Common(ResourceType.LISTENER, routes=frozenset({value.route})),
        name,
        serialise(listener),
        made_of=tuple(
            Origin("filter_chains[0]", server.ref, server.field) for server in value.servers
        ),
    )
