"""networking.istio.io DestinationRule, with every field of the API."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from controlplane.model.base import Duration, FrozenDict, Labels, Model
from controlplane.model.matching import (
    Int32,
    JsonObject,
    Percentage,
    PortSelector,
    Uint32,
    WorkloadSelector,
)
from controlplane.model.meta import Object


class TcpKeepalive(Model):
    """SO_KEEPALIVE settings."""

    probes: Uint32 | None = None
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Model, cache_hash=False):
    """Connection settings that HTTP and TCP share."""

    max_connections: Int32 | None = None
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


class Http2KeepAlive(Model):
    """HTTP/2 PING settings of upstream connections."""

    interval: Duration | None = None
    timeout: Duration | None = None


class HTTPSettings(Model):
    """Connection settings of HTTP."""

    http1_max_pending_requests: Int32 | None = None
    http2_max_requests: Int32 | None = None
    max_requests_per_connection: Int32 | None = None
    max_retries: Int32 | None = None
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    use_client_protocol: bool = False
    max_concurrent_streams: Int32 | None = None
    http2_keep_alive: Http2KeepAlive | None = None


class ConnectionPoolSettings(Model, cache_hash=False):
    """Limits and timeouts of connections to a destination."""

    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class HTTPCookieAttribute(Model):
    """An extra attribute of the affinity cookie."""

    name: str
    value: str = ""


class HTTPCookie(Model):
    """Affinity by cookie."""

    name: str
    path: str = ""
    ttl: Duration | None = None
    attributes: tuple[HTTPCookieAttribute, ...] = ()


class RingHash(Model):
    """Ring hash settings."""

    minimum_ring_size: int | None = None


class MagLev(Model):
    """Maglev settings."""

    table_size: int | None = None


class ConsistentHashLB(Model):
    """Affinity: one key, one algorithm."""

    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: int | None = None


class Distribute(Model):
    """Weighted spread of a locality's traffic."""

    from_: str = field(default="", name="from")
    to: FrozenDict[str, Uint32] | None = None


class Failover(Model):
    """Region to fail over to."""

    from_: str = field(default="", name="from")
    to: str = ""


class LocalityLoadBalancerSetting(Model):
    """Locality aware balancing."""

    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None


class ZoneAwareLoadBalancerSetting(Model):
    """Zone aware routing."""

    enabled: bool | None = None
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: int | None = None


class WarmupConfiguration(Model):
    """Slow start of new endpoints."""

    duration: Duration | None = None
    minimum_percent: float | None = None
    aggression: float | None = None


class LoadBalancerSettings(Model):
    """How an endpoint is chosen."""

    simple: (
        Literal[
            "UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"
        ]
        | None
    ) = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancerSetting | None = None
    warmup_duration_secs: Duration | None = None
    warmup: WarmupConfiguration | None = None


class OutlierDetection(Model):
    """When an endpoint is put aside."""

    consecutive_errors: Int32 | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Uint32 | None = None
    consecutive_gateway_errors: Uint32 | None = None
    consecutive5xx_errors: Uint32 | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    min_health_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    outlier_detection_http_error_codes: tuple[str, ...] = ()


class ClientTLSSettings(Model):
    """TLS towards the destination."""

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool | None = None


class PortTrafficPolicy(Model):
    """The policy of one port; it replaces, it does not merge."""

    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TunnelSettings(Model):
    """Tunnelling of TCP or TLS through an HTTP proxy."""

    protocol: str = ""
    target_host: str = ""
    target_port: Uint32 = 0


class UpstreamProxyProtocol(Model):
    """PROXY protocol towards the destination."""

    version: Literal["V1", "V2"] = "V1"


class RetryBudget(Model):
    """Share of the active requests that may be retries."""

    percent: Percentage | None = None
    min_retry_concurrency: Uint32 | None = None
    budget_interval: Duration | None = None


class TrafficPolicy(Model):
    """The policy of a host or a subset."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: UpstreamProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Model, cache_hash=False):
    """A named part of a host's endpoints."""

    name: str
    labels: Labels | None = None
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Model):
    """What a DestinationRule asks for."""

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: WorkloadSelector | None = None


class DestinationRule(Object, kw_only=True):
    """Policy for traffic to a host, after routing."""

    KIND: ClassVar[str] = "DestinationRule"
    spec: DestinationRuleSpec
    status: JsonObject | None = None
