"""Which protocol a cluster speaks, and its HttpProtocolOptions.

Must not know services or names. The rule that is easy to break: Envoy wants an upstream protocol
whenever there are options at all, so options without one get explicit HTTP/1.1.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from controlplane.model.destination_rule import ConnectionPoolSettings
from controlplane.model.services import Protocol
from controlplane.translate import envoy

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Upstream(enum.Enum):
    """How a cluster chooses the HTTP version."""

    DEFAULT = enum.auto()  # HTTP/1.1, or no HTTP at all
    HTTP2 = enum.auto()
    DOWNSTREAM = enum.auto()  # as the client spoke


def upstream_protocol(
    protocol: Protocol,
    *,
    pool: ConnectionPoolSettings | None,
    sidecar: bool,
    mesh_upgrades: bool,
    outbound: bool = True,
) -> Upstream:
    """Return how the cluster of a service port chooses the HTTP version.

    A gateway does not detect protocols, so only a sidecar follows the client on a port whose
    protocol nobody named. Source: Istio's setUpstreamProtocol and shouldH2Upgrade.
    """
    http = pool.http if pool is not None else None
    if http is not None and http.use_client_protocol:
        return Upstream.DOWNSTREAM
    if protocol.is_http2:
        return Upstream.HTTP2
    if outbound:
        policy = http.h2_upgrade_policy if http is not None else "DEFAULT"
        if policy == "UPGRADE" or (policy == "DEFAULT" and mesh_upgrades and protocol.is_http):
            return Upstream.HTTP2
    if sidecar and protocol is Protocol.UNSUPPORTED:
        return Upstream.DOWNSTREAM
    return Upstream.DEFAULT


def http_options(
    upstream: Upstream,
    pool: ConnectionPoolSettings | None,
    *,
    auto_sni: bool = False,
    auto_san_validation: bool = False,
) -> Any | None:
    """Return the HttpProtocolOptions of a cluster, None when it needs none."""
    options = envoy.UpstreamHttpOptions()
    needed = _common(options.common_http_protocol_options, pool)
    if needed:
        options.common_http_protocol_options.SetInParent()
    if auto_sni or auto_san_validation:
        needed = True
        options.upstream_http_protocol_options.auto_sni = auto_sni
        options.upstream_http_protocol_options.auto_san_validation = auto_san_validation
    match upstream:
        case Upstream.HTTP2:
            http2 = options.explicit_http_config.http2_protocol_options
            http2.SetInParent()
            _http2(http2, pool)
        case Upstream.DOWNSTREAM:
            options.use_downstream_protocol_config.http_protocol_options.SetInParent()
            options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
        case Upstream.DEFAULT:
            if not needed:
                return None
            options.explicit_http_config.http_protocol_options.SetInParent()
    return options


def set_http_options(cluster: Any, options: Any | None) -> None:
    """Put HttpProtocolOptions into a cluster."""
    if options is not None:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(envoy.pack(options))


def _common(common: Any, pool: ConnectionPoolSettings | None) -> bool:
    """Set the options that both HTTP versions share; whether any was set."""
    if pool is None:
        return False
    http, tcp = pool.http, pool.tcp
    idle = http.idle_timeout if http is not None else None
    if idle is None and tcp is not None:
        idle = tcp.idle_timeout
    requests = http.max_requests_per_connection if http is not None else None
    lifetime = tcp.max_connection_duration if tcp is not None else None
    if idle is not None:
        common.idle_timeout.CopyFrom(envoy.duration(idle))
    if requests and requests > 0:
        common.max_requests_per_connection.value = requests
    if lifetime is not None:
        common.max_connection_duration.CopyFrom(envoy.duration(lifetime))
    return idle is not None or bool(requests and requests > 0) or lifetime is not None


def _http2(http2: Any, pool: ConnectionPoolSettings | None) -> None:
    http = pool.http if pool is not None else None
    if http is None:
        return
    if http.max_concurrent_streams and http.max_concurrent_streams > 0:
        http2.max_concurrent_streams.value = http.max_concurrent_streams
    keep_alive = http.http2_keep_alive
    if keep_alive is not None:
        if keep_alive.interval is not None:
            http2.connection_keepalive.interval.CopyFrom(envoy.duration(keep_alive.interval))
        if keep_alive.timeout is not None:
            http2.connection_keepalive.timeout.CopyFrom(envoy.duration(keep_alive.timeout))
