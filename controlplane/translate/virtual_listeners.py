"""virtualOutbound: where iptables sends outbound connections that no other listener takes.

Must not know services. The rule that is easy to break: `use_original_dst` on this listener is
what hands a connection to the listener of its original address; the listener filter of that
name would send everything to the passthrough cluster.
"""

from __future__ import annotations

from controlplane.model.base import Model
from controlplane.model.names import BLACK_HOLE_CLUSTER, VIRTUAL_OUTBOUND, ClusterName
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.access_log import listener_access_logs
from controlplane.translate.filters import tcp_proxy
from controlplane.translate.listener_settings import (
    ListenerSettings,
    fallthrough_cluster,
    listener_settings,
)
from controlplane.translate.resources import Common, Resource, ResourceType, Translated, serialise
from controlplane.translate.scope import OutboundClass


class VirtualOutboundInput(Model):
    """The listener behind iptables; `fallthrough` takes what no other listener does."""

    address: str
    port: int
    transparent: bool
    fallthrough: ClusterName
    settings: ListenerSettings


def virtual_outbound_input(snapshot: Snapshot, cls: OutboundClass) -> VirtualOutboundInput | None:
    """Return the input of virtualOutbound, None when nothing captures connections."""
    if cls.interception_mode == "NONE":
        return None
    return VirtualOutboundInput(
        address=cls.wildcard_address,
        port=snapshot.mesh.proxy_listen_port,
        transparent=cls.interception_mode == "TPROXY",
        fallthrough=fallthrough_cluster(snapshot.mesh),
        settings=listener_settings(snapshot.mesh, cls),
    )


def build_virtual_outbound(value: VirtualOutboundInput) -> Translated:
    """Return virtualOutbound (source: Istio's buildVirtualOutboundListener).

    Connections to the listener's own port end in the black hole: they would come back for ever.
    """
    listener = envoy.Listener(
        name=VIRTUAL_OUTBOUND,
        address=envoy.socket_address(value.address, value.port),
        traffic_direction="OUTBOUND",
        use_original_dst=envoy.BoolValue(value=True),
        max_connections_to_accept_per_socket_event=envoy.UInt32Value(value=1),
        access_log=listener_access_logs(value.settings.access_log),
        filter_chains=[
            envoy.FilterChain(
                name="virtualOutbound-blackhole",
                filter_chain_match=envoy.FilterChainMatch(
                    destination_port=envoy.UInt32Value(value=value.port)
                ),
                filters=[tcp_proxy(BLACK_HOLE_CLUSTER)],
            ),
            envoy.FilterChain(
                name="virtualOutbound-catchall-tcp",
                filters=[
                    tcp_proxy(
                        value.fallthrough,
                        access_log=value.settings.access_log,
                        idle_timeout=value.settings.idle_timeout,
                    )
                ],
            ),
        ],
    )
    if value.transparent:
        listener.transparent.value = True
    if value.settings.exact_balance:
        listener.connection_balance_config.exact_balance.SetInParent()
    return Resource.of(
        Common(ResourceType.LISTENER, clusters=frozenset({BLACK_HOLE_CLUSTER, value.fallthrough})),
        VIRTUAL_OUTBOUND,
        serialise(listener),
    )
