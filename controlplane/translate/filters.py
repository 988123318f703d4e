"""The filters that listeners are made of: listener filters, network filters, HTTP filters.

Owns names, configurations and order. Must not know services, gateways or routes. The rule that
is easy to break: a stock Envoy rejects a listener that names an extension it does not have, so
Istio's own filters are there only when the client listed them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

from controlplane.model.base import Duration
from controlplane.model.services import Protocol
from controlplane.translate import envoy
from controlplane.translate.access_log import AccessLogSettings, access_logs

HTTP_CONNECTION_MANAGER: Final = "envoy.filters.network.http_connection_manager"
TCP_PROXY: Final = "envoy.filters.network.tcp_proxy"
ORIGINAL_DST: Final = "envoy.filters.listener.original_dst"
ORIGINAL_SRC: Final = "envoy.filters.listener.original_src"
TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"
HTTP_INSPECTOR: Final = "envoy.filters.listener.http_inspector"
METADATA_EXCHANGE: Final = "istio.metadata_exchange"
ALPN: Final = "istio.alpn"
PROXY_MARK: Final = 1337  # packets with this mark are the proxy's own (Istio's TPROXY mode)

_ALPN_OVERRIDES: Final = (
    ("HTTP10", ("istio-http/1.0", "istio", "http/1.0")),
    ("HTTP11", ("istio-http/1.1", "istio", "http/1.1")),
    ("HTTP2", ("istio-h2", "istio", "h2")),
)


class Direction(enum.Enum):
    """Which side of a proxy a connection manager serves."""

    SIDECAR_OUTBOUND = "sidecar outbound"
    SIDECAR_INBOUND = "sidecar inbound"
    GATEWAY = "gateway"


def http_filters(direction: Direction, protocol: Protocol, extensions: frozenset[str]) -> list[Any]:
    """Return the HTTP filters of a connection manager, in Istio's order, the router last.

    Source: Istio's buildHTTPConnectionManager. istio.stats needs a metrics provider, which is
    Telemetry's to name.
    """
    found = []
    if METADATA_EXCHANGE in extensions:
        found.append(_http_filter(METADATA_EXCHANGE, _peer_metadata(direction)))
    if protocol is Protocol.GRPC_WEB:
        found.append(_http_filter("envoy.filters.http.grpc_web", envoy.GrpcWeb()))
    statistics = envoy.GrpcStats(
        emit_filter_state=True, stats_for_all_methods=envoy.BoolValue(value=False)
    )
    found.append(_http_filter("envoy.filters.http.grpc_stats", statistics))
    if ALPN in extensions and direction is not Direction.SIDECAR_INBOUND:
        found.append(_http_filter(ALPN, _alpn()))
    found.append(_http_filter("envoy.filters.http.fault", envoy.HTTPFault()))
    found.append(_http_filter("envoy.filters.http.cors", envoy.Cors()))
    found.append(_http_filter("envoy.filters.http.router", envoy.Router()))
    return found


def network_filter(name: str, message: Any) -> Any:
    """Return a network filter with its configuration."""
    return envoy.Filter(name=name, typed_config=envoy.pack(message))


def metadata_exchange(extensions: frozenset[str]) -> list[Any]:
    """Return the network filter that exchanges peer metadata, none without the extension."""
    if METADATA_EXCHANGE not in extensions:
        return []
    config = _typed_struct(
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        {"protocol": "istio-peer-exchange", "enable_discovery": True},
    )
    return [network_filter(METADATA_EXCHANGE, config)]


def tcp_proxy(
    cluster: str,
    *,
    stat_prefix: str = "",
    access_log: AccessLogSettings | None = None,
    idle_timeout: Duration | None = None,
    max_duration: Duration | None = None,
    hash_source_ip: bool = False,
) -> Any:
    """Return the network filter that passes a connection on to one cluster."""
    message = envoy.TcpProxy(stat_prefix=stat_prefix or cluster, cluster=cluster)
    if access_log is not None:
        message.access_log.extend(access_logs(access_log))
    if idle_timeout is not None:
        message.idle_timeout.CopyFrom(envoy.duration(idle_timeout))
    if max_duration is not None:
        message.max_downstream_connection_duration.CopyFrom(envoy.duration(max_duration))
    if hash_source_ip:
        message.hash_policy.add().source_ip.SetInParent()
    return network_filter(TCP_PROXY, message)


def original_dst() -> Any:
    """Return the listener filter that finds where a redirected connection was going."""
    return envoy.ListenerFilter(name=ORIGINAL_DST, typed_config=envoy.pack(envoy.OriginalDst()))


def original_src() -> Any:
    """Return the listener filter that keeps the client's address upstream (TPROXY)."""
    config = envoy.OriginalSrc(mark=PROXY_MARK)
    return envoy.ListenerFilter(name=ORIGINAL_SRC, typed_config=envoy.pack(config))


def tls_inspector(disabled: Any = None) -> Any:
    """Return the listener filter that reads SNI and ALPN; 512 bytes first instead of 64 KiB."""
    config = envoy.TlsInspector(initial_read_buffer_size=envoy.UInt32Value(value=512))
    return envoy.ListenerFilter(
        name=TLS_INSPECTOR, typed_config=envoy.pack(config), filter_disabled=disabled
    )


def http_inspector(disabled: Any = None) -> Any:
    """Return the listener filter that tells HTTP/1 and HTTP/2 from anything else."""
    return envoy.ListenerFilter(
        name=HTTP_INSPECTOR,
        typed_config=envoy.pack(envoy.HttpInspector()),
        filter_disabled=disabled,
    )


def on_ports(ports: Iterable[int]) -> Any:
    """Return the predicate that is true for connections to one of these ports.

    A set of one is the rule itself, because Envoy wants at least two rules in an `or_match`.
    """
    rules = [
        envoy.ListenerFilterChainMatchPredicate(
            destination_port_range=envoy.Int32Range(start=port, end=port + 1)
        )
        for port in sorted(ports)
    ]
    if len(rules) == 1:
        return rules[0]
    predicate = envoy.ListenerFilterChainMatchPredicate()
    predicate.or_match.rules.extend(rules)
    return predicate


def not_on_ports(ports: Iterable[int]) -> Any:
    """Return the predicate that is true for connections to any other port."""
    return envoy.ListenerFilterChainMatchPredicate(not_match=on_ports(ports))


def _http_filter(name: str, message: Any) -> Any:
    return envoy.HttpFilter(name=name, typed_config=envoy.pack(message))


def _peer_metadata(direction: Direction) -> Any:
    headers: dict[str, Any] = {"istio_headers": {}}
    side = "downstream" if direction is Direction.SIDECAR_INBOUND else "upstream"
    return _typed_struct(
        "io.istio.http.peer_metadata.Config",
        {
            f"{side}_discovery": [headers, {"workload_discovery": {}}],
            f"{side}_propagation": [headers],
        },
    )


def _alpn() -> Any:
    return _typed_struct(
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        {
            "alpn_override": [
                {"upstream_protocol": protocol, "alpn_override": list(names)}
                for protocol, names in _ALPN_OVERRIDES
            ]
        },
    )


def _typed_struct(type_name: str, fields: Mapping[str, Any]) -> Any:
    """Return a message of a type that no package here knows; Envoy converts it by its name."""
    message = envoy.TypedStruct(type_url=envoy.TYPE_URL_PREFIX + type_name)
    message.value.update(fields)
    return message
