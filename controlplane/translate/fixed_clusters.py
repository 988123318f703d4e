"""The clusters that every proxy has, whatever the mesh holds.

Owns BlackHoleCluster and the two passthrough clusters, exactly as Istio sends them. Must not
know services. The rule that is easy to break: the inbound passthrough cluster keeps the stat
name of the outbound one, because dashboards know it so.
"""

from __future__ import annotations

from typing import Any, Final

from controlplane.model.names import (
    BLACK_HOLE_CLUSTER,
    INBOUND_PASSTHROUGH_CLUSTER,
    PASSTHROUGH_CLUSTER,
)
from controlplane.translate import envoy
from controlplane.translate.cluster_inputs import ClusterSettings, FixedClusterInput
from controlplane.translate.cluster_policy import set_connections
from controlplane.translate.cluster_protocol import Upstream, http_options, set_http_options
from controlplane.translate.filters import METADATA_EXCHANGE

INBOUND_BIND_IPV4: Final = "127.0.0.6"
INBOUND_BIND_IPV6: Final = "::6"
_PASSTHROUGH_IDLE_NS: Final = 300_000_000_000
_MX_TYPE: Final = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange"


def fixed_cluster(value: FixedClusterInput) -> Any:
    """Return the cluster of that name."""
    settings = value.settings
    match value.name:
        case str(name) if name == BLACK_HOLE_CLUSTER:
            cluster = envoy.Cluster(
                name=name, alt_stat_name=f"{name};", type="STATIC", lb_policy="ROUND_ROBIN"
            )
            cluster.connect_timeout.CopyFrom(envoy.duration(settings.connect_timeout))
            return cluster
        case str(name) if name == PASSTHROUGH_CLUSTER:
            cluster = _passthrough(settings)
            if settings.metadata_exchange:
                cluster.filters.append(metadata_exchange_filter())
            return cluster
        case str(name) if name == INBOUND_PASSTHROUGH_CLUSTER:
            cluster = _passthrough(settings)
            # Istio copies the outbound cluster, so the stat name stays that of the outbound one.
            cluster.name = name
            set_inbound_bind(cluster, settings)
            return cluster
        case name:
            raise AssertionError(f"{name} is no cluster that every proxy has")


def _passthrough(settings: ClusterSettings) -> Any:
    cluster = envoy.Cluster(
        name=PASSTHROUGH_CLUSTER,
        alt_stat_name=f"{PASSTHROUGH_CLUSTER};",
        type="ORIGINAL_DST",
        lb_policy="CLUSTER_PROVIDED",
    )
    set_connections(
        cluster, None, connect_timeout=settings.connect_timeout, keepalive=settings.tcp_keepalive
    )
    options = http_options(Upstream.DOWNSTREAM, None)
    if options is not None:
        options.common_http_protocol_options.idle_timeout.CopyFrom(
            envoy.duration(_PASSTHROUGH_IDLE_NS)
        )
    set_http_options(cluster, options)
    return cluster


def set_inbound_bind(cluster: Any, settings: ClusterSettings) -> None:
    """Bind to the address that capture rules let pass, so that requests do not come back."""
    addresses = [INBOUND_BIND_IPV4] if settings.ipv4 else []
    if settings.ipv6 or not settings.ipv4:
        addresses.append(INBOUND_BIND_IPV6)
    bind = cluster.upstream_bind_config
    bind.source_address.address = addresses[0]
    bind.source_address.port_value = 0
    for extra in addresses[1:]:
        source = bind.extra_source_addresses.add().address
        source.address = extra
        source.port_value = 0


def metadata_exchange_filter() -> Any:
    """Return Istio's upstream filter that exchanges workload metadata over TCP."""
    config = envoy.TypedStruct(type_url=_MX_TYPE)
    config.value.update({"protocol": "istio-peer-exchange"})
    return envoy.ClusterFilter(name=METADATA_EXCHANGE, typed_config=envoy.pack(config))
