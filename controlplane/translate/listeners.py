"""All listeners of a proxy class: the front of the modules that know how to make one.

Must not know how. The rule that is easy to break: the order on the wire is by port, then
address, then virtualOutbound and virtualInbound, whatever the order of the services.
"""

from __future__ import annotations

from typing import assert_never

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.proxy import ProxyType
from controlplane.model.snapshot import Snapshot
from controlplane.translate.access_log import access_log_problems
from controlplane.translate.gateway_listeners import (
    GatewayListenerInput,
    build_gateway_listener,
    gateway_listener_inputs,
)
from controlplane.translate.gateways import merged_gateways
from controlplane.translate.inbound_listeners import (
    VirtualInboundInput,
    build_virtual_inbound,
    virtual_inbound_input,
)
from controlplane.translate.outbound_listeners import (
    OutboundListenerInput,
    build_outbound_listener,
)
from controlplane.translate.outbound_plan import (
    http_proxy_listener,
    listen_alike,
    outbound_plan,
    unlistened_ports,
)
from controlplane.translate.resources import Translated
from controlplane.translate.scope import InboundClass, OutboundClass
from controlplane.translate.virtual_listeners import (
    VirtualOutboundInput,
    build_virtual_outbound,
    virtual_outbound_input,
)

__all__ = [
    "ListenerInput",
    "build_listener",
    "inbound_listener_inputs",
    "listen_alike",
    "outbound_conflicts",
    "outbound_listener_inputs",
]

ListenerInput = (
    OutboundListenerInput | VirtualOutboundInput | VirtualInboundInput | GatewayListenerInput
)


def outbound_listener_inputs(snapshot: Snapshot, cls: OutboundClass) -> tuple[ListenerInput, ...]:
    """Return the listeners of outbound connections in wire order, or those of a gateway."""
    match cls.type:
        case ProxyType.ROUTER:
            return gateway_listener_inputs(snapshot, cls)
        case ProxyType.SIDECAR:
            last = (http_proxy_listener(snapshot, cls), virtual_outbound_input(snapshot, cls))
            return (
                *outbound_plan(snapshot, cls),
                *(value for value in last if value is not None),
            )
        case _:
            return ()


def inbound_listener_inputs(snapshot: Snapshot, cls: InboundClass) -> tuple[ListenerInput, ...]:
    """Return the listeners of inbound connections: virtualInbound, none without capture."""
    found = virtual_inbound_input(snapshot, cls)
    return (found,) if found is not None else ()


def build_listener(value: ListenerInput) -> Translated:
    """Return the listener of an input, with what services lost on its address."""
    match value:
        case OutboundListenerInput():
            return build_outbound_listener(value)
        case VirtualOutboundInput():
            return build_virtual_outbound(value)
        case VirtualInboundInput():
            return build_virtual_inbound(value)
        case GatewayListenerInput():
            return build_gateway_listener(value)
        case unknown:
            assert_never(unknown)


def outbound_conflicts(snapshot: Snapshot, cls: OutboundClass) -> tuple[Diagnostic, ...]:
    """Return what is wrong with objects that got no listener of their own.

    What a service lost on a listener that it shares comes with that listener.
    """
    problems = access_log_problems(snapshot.mesh)
    match cls.type:
        case ProxyType.ROUTER:
            return (*problems, *merged_gateways(snapshot, cls).diagnostics)
        case ProxyType.SIDECAR:
            return (*problems, *unlistened_ports(snapshot, cls))
        case _:
            return problems
