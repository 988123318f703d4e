"""The bootstrap of an Envoy: a pure function from a few facts to Envoy's JSON.

Owns: how an Envoy says who it is, where it finds the control plane, what it listens on by itself,
and how it reads tags from Istio's stat names.
Must not know: files, processes, environment variables.
Easy to break: `initial_fetch_timeout` is 0s for LDS and CDS, so that an Envoy is not ready before
the control plane has answered; with a positive value it would start to serve nothing as ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, assert_never

import msgspec

from controlplane.errors import UsageError
from controlplane.model.base import FrozenDict, Model
from controlplane.model.proxy import ProxyType

XDS_CLUSTER: Final = "xds-grpc"
PROMETHEUS_CLUSTER: Final = "prometheus_stats"
AGENT_CLUSTER: Final = "agent"
BETWEEN_ATTEMPTS: Final = FrozenDict({"base_interval": "0.2s", "max_interval": "2s"})
"""How long an Envoy waits before it asks a control plane again that is away. Envoy's own default
doubles up to 30 s, so that one which was away for ten seconds would be missed for thirty."""

# Istio ends the alt_stat_name and stat_prefix of what it configures with a semicolon, because the
# names between hold dots; these expressions cut the names out. Group 1 is removed from the name of
# a stat, group 2 is the tag's value.
STATS_TAGS: Final = (
    ("cluster_name", r"^cluster(\.(.+);)"),
    ("tcp_prefix", r"^tcp\.((.+?)\.)\w+$"),
    ("http_conn_manager_prefix", r"^http(\.(.+);)"),
    ("http_conn_manager_listener_prefix", r"^listener\..*\.http(\.(.+);)"),
    ("listener_address", r"^listener\.(((?:[_.\d]*|[_\[\]a-fA-F\d]*))\.)"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    ("mongo_prefix", r"^mongo\.((.+?)\.)(?:collection|cmd|cx_|op_|delays_|decoding_)"),
)
RUNTIME: Final = FrozenDict(
    {
        # Istio accepts long regular expressions in routes; Envoy's default limit is 100.
        "re2.max_program_size.error_level": 32768,
        "envoy.reloadable_features.http_reject_path_with_fragment": False,
    }
)


class SocketAddress(Model):
    """A TCP address; the host is an IP address, or a name when Envoy shall resolve it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class PipeAddress(Model):
    """A unix socket in the file system, which network namespaces do not separate."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


EnvoyAddress = SocketAddress | PipeAddress


class Bootstrap(Model):
    """What the bootstrap of one Envoy says.

    `xds` is where the control plane serves plaintext gRPC. `delta` chooses the incremental
    protocol. `prometheus_port` and `status_port` are the static listeners of Istio's proxies
    (15090 and 15021); 0 leaves them out. `status_port` forwards to the agent at `agent_port`.
    """

    proxy_type: ProxyType
    ip: str
    name: str  # POD.NAMESPACE
    xds: EnvoyAddress
    admin: EnvoyAddress
    dns_domain: str = "default.svc.cluster.local"
    cluster: str = "istio-proxy"
    metadata: FrozenDict[str, Any] = FrozenDict()
    delta: bool = True
    prometheus_port: int = 0
    status_port: int = 0
    agent_port: int = 15020

    @property
    def node_id(self) -> str:
        """`TYPE~IP~ID~DNSDOMAIN`; raises UsageError when a part holds the separator."""
        parts = (str(self.proxy_type), self.ip, self.name, self.dns_domain)
        for part in parts:
            if not part or "~" in part:
                raise UsageError(f"{part!r} cannot be part of a node id: it is empty or has a `~`")
        return "~".join(parts)


def bootstrap_json(bootstrap: Bootstrap) -> bytes:
    """Return the bootstrap as the JSON text that `envoy -c FILE.json` reads."""
    return msgspec.json.format(msgspec.json.encode(build_bootstrap(bootstrap)), indent=2)


def build_bootstrap(bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the bootstrap as plain data: proto3 JSON of envoy.config.bootstrap.v3.Bootstrap.

    The parts and names are those of Istio's bootstrap template. Raises UsageError when the node id
    cannot be made.
    """
    clusters = [xds_cluster(bootstrap.xds)]
    listeners = []
    if bootstrap.prometheus_port:
        clusters.append(
            static_cluster(PROMETHEUS_CLUSTER, bootstrap.admin, connect_timeout="0.250s")
        )
        listeners.append(
            forwarding_listener(
                port=bootstrap.prometheus_port,
                prefix="/stats/prometheus",
                cluster=PROMETHEUS_CLUSTER,
                stat_prefix="stats",
            )
        )
    if bootstrap.status_port:
        agent = SocketAddress(host="127.0.0.1", port=bootstrap.agent_port)
        clusters.append(static_cluster(AGENT_CLUSTER, agent, connect_timeout="0.250s"))
        listeners.append(
            forwarding_listener(
                port=bootstrap.status_port,
                prefix="/healthz/ready",
                cluster=AGENT_CLUSTER,
                stat_prefix="agent",
            )
        )
    return {
        "node": {
            "id": bootstrap.node_id,
            "cluster": bootstrap.cluster,
            "metadata": thawed(bootstrap.metadata),
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if bootstrap.delta else "GRPC",
                "transport_api_version": "V3",
                # The node lists some 500 extensions: 61 kB that every ACK would repeat.
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": XDS_CLUSTER,
                            "retry_policy": {"retry_back_off": dict(BETWEEN_ATTEMPTS)},
                        }
                    }
                ],
            },
            "lds_config": over_ads(),
            "cds_config": over_ads(),
        },
        "static_resources": {"clusters": clusters, "listeners": listeners},
        "admin": {"address": address_json(bootstrap.admin)},
        "stats_config": {
            "use_all_default_tags": False,
            "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in STATS_TAGS],
        },
        "layered_runtime": {
            "layers": [
                {"name": "global config", "static_layer": dict(RUNTIME)},
                {"name": "admin", "admin_layer": {}},
            ]
        },
    }


def over_ads() -> dict[str, Any]:
    """A configuration source that waits for the control plane as long as it takes."""
    return {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}


def xds_cluster(address: EnvoyAddress) -> dict[str, Any]:
    """The cluster of the control plane: HTTP/2 that notices within seconds when nobody answers."""
    cluster = static_cluster(XDS_CLUSTER, address, connect_timeout="1s")
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster["typed_extension_protocol_options"] = {
        options: {
            "@type": f"type.googleapis.com/{options}",
            "explicit_http_config": {
                "http2_protocol_options": {
                    "connection_keepalive": {"interval": "30s", "timeout": "5s"}
                }
            },
        }
    }
    cluster["upstream_connection_options"] = {"tcp_keepalive": {"keepalive_time": 300}}
    limits = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    cluster["circuit_breakers"] = {
        "thresholds": [{"priority": priority, **limits} for priority in ("DEFAULT", "HIGH")]
    }
    return cluster


def static_cluster(name: str, address: EnvoyAddress, *, connect_timeout: str) -> dict[str, Any]:
    """A cluster of one endpoint; a host name is resolved by Envoy, an IP address needs nothing."""
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC" if is_fixed(address) else "STRICT_DNS",
        "connect_timeout": connect_timeout,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address_json(address)}}]}],
        },
    }


def is_fixed(address: EnvoyAddress) -> bool:
    """Whether the address needs no name look-up."""
    match address:
        case PipeAddress():
            return True
        case SocketAddress(host=host):
            return ":" in host or host.replace(".", "").isdigit()
        case _:
            assert_never(address)


def address_json(address: EnvoyAddress) -> dict[str, Any]:
    """An envoy.config.core.v3.Address."""
    match address:
        case PipeAddress(path=path):
            return {"pipe": {"path": path}}
        case SocketAddress(host=host, port=port):
            return {"socket_address": {"address": host, "port_value": port}}
        case _:
            assert_never(address)


def forwarding_listener(
    *, port: int, prefix: str, cluster: str, stat_prefix: str
) -> dict[str, Any]:
    """A static listener that forwards one path prefix, and stays open when Envoy is overloaded."""
    manager = "envoy.filters.network.http_connection_manager"
    router = "envoy.filters.http.router"
    extensions = "type.googleapis.com/envoy.extensions.filters"
    return {
        "name": f"0.0.0.0_{port}",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": manager,
                        "typed_config": {
                            "@type": f"{extensions}.network.http_connection_manager.v3"
                            ".HttpConnectionManager",
                            "stat_prefix": stat_prefix,
                            "route_config": {
                                "virtual_hosts": [
                                    {
                                        "name": "backend",
                                        "domains": ["*"],
                                        "routes": [
                                            {
                                                "match": {"prefix": prefix},
                                                "route": {"cluster": cluster},
                                            }
                                        ],
                                    }
                                ]
                            },
                            "http_filters": [
                                {
                                    "name": router,
                                    "typed_config": {
                                        "@type": f"{extensions}.http.router.v3.Router"
                                    },
                                }
                            ],
                        },
                    }
                ]
            }
        ],
    }


def thawed(value: Any) -> Any:
    """Frozen JSON-like data as plain dictionaries and lists."""
    match value:
        case Mapping():
            return {key: thawed(entry) for key, entry in value.items()}
        case tuple() | list():
            return [thawed(entry) for entry in value]
        case _:
            return value
