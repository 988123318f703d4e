"""MeshConfig: the settings of the whole mesh, with Istio's names and defaults.

Fields typed `JsonObject` are accepted and kept; a diagnostic says that they have no effect yet.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import field

from controlplane.model.base import Duration, Labels, Model
from controlplane.model.destination_rule import (
    ConnectionPoolSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    TcpKeepalive,
)
from controlplane.model.matching import JsonObject, Port, Uint32
from controlplane.model.virtual_service import HTTPRetry

SECOND: Final = 1_000_000_000


class EgressProxy(Model):
    """Where traffic to unknown destinations goes instead."""

    host: str = ""
    subset: str = ""
    port: JsonObject | None = None


class OutboundTrafficPolicy(Model):
    """What becomes of traffic to destinations that the registry does not know."""

    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS"] = "ALLOW_ANY"
    egress_proxy: EgressProxy | None = None
    tls: JsonObject | None = None


class InboundTrafficPolicy(Model):
    """Whether an application is reached on its pod address or on the loopback address."""

    mode: Literal["PASSTHROUGH", "LOCALHOST"] = "PASSTHROUGH"


class PathNormalization(Model):
    """How paths are brought to one form before they are matched."""

    normalization: Literal[
        "DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"
    ] = "DEFAULT"


class DefaultTrafficPolicy(Model):
    """Policy for destinations whose DestinationRule says nothing."""

    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None


class LabelSelectorRequirement(Model):
    """One expression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Model):
    """A Kubernetes label selector."""

    match_labels: Labels | None = None
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class ProxyConfig(Model):
    """Defaults of every proxy (`defaultConfig`)."""

    config_path: str = "./etc/istio/proxy"
    binary_path: str = "/usr/local/bin/envoy"
    service_cluster: str = "istio-proxy"
    tracing_service_name: str | None = None
    drain_duration: Duration = Duration(45 * SECOND)
    parent_shutdown_duration: Duration | None = None
    termination_drain_duration: Duration = Duration(5 * SECOND)
    discovery_address: str = "istiod.istio-system.svc:15012"
    statsd_udp_address: str = ""
    proxy_admin_port: int = 15000
    control_plane_auth_policy: str = "MUTUAL_TLS"
    custom_config_file: str = ""
    stat_name_length: int = 189
    concurrency: Uint32 | None = None
    proxy_bootstrap_template_path: str = ""
    interception_mode: Literal["REDIRECT", "TPROXY", "NONE"] = "REDIRECT"
    tracing: JsonObject | None = None
    envoy_access_log_service: JsonObject | None = None
    envoy_metrics_service: JsonObject | None = None
    proxy_metadata: Labels | None = None
    runtime_values: Labels | None = None
    status_port: int = 15020
    extra_stat_tags: tuple[str, ...] = ()
    gateway_topology: JsonObject | None = None
    mesh_id: str = ""
    readiness_probe: JsonObject | None = None
    proxy_stats_matcher: JsonObject | None = None
    hold_application_until_proxy_starts: bool = False
    ca_certificates_pem: tuple[str, ...] = ()
    image: JsonObject | None = None
    private_key_provider: JsonObject | None = None
    proxy_headers: JsonObject | None = None
    file_flush_interval: Duration | None = None
    file_flush_min_size_kb: Uint32 | None = None
    stats_compression: bool = True
    connection_settings: JsonObject | None = None


class MeshConfig(Model):
    """The mesh's settings; an absent field has Istio's default (pkg/config/mesh)."""

    proxy_listen_port: Port = 15001
    proxy_inbound_listen_port: Port = 15006
    proxy_http_port: int = 0
    connect_timeout: Duration = Duration(10 * SECOND)
    hbone_idle_timeout: Duration | None = None
    protocol_detection_timeout: Duration = Duration(0)
    tcp_keepalive: TcpKeepalive | None = None
    ingress_class: str = "istio"
    ingress_service: str = "istio-ingressgateway"
    ingress_controller_mode: Literal["UNSPECIFIED", "OFF", "DEFAULT", "STRICT"] = "STRICT"
    ingress_selector: str = ""
    enable_tracing: bool = True
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: Literal["TEXT", "JSON"] = "TEXT"
    enable_envoy_access_log_service: bool = False
    disable_envoy_listener_log: bool = False
    default_config: ProxyConfig = ProxyConfig()
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    inbound_traffic_policy: InboundTrafficPolicy = InboundTrafficPolicy()
    config_sources: tuple[JsonObject, ...] = ()
    enable_auto_mtls: bool = True
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    ca_certificates: tuple[JsonObject, ...] = ()
    default_service_export_to: tuple[str, ...] = ("*",)
    default_virtual_service_export_to: tuple[str, ...] = ("*",)
    default_destination_rule_export_to: tuple[str, ...] = ("*",)
    root_namespace: str = "istio-system"
    locality_lb_setting: LocalityLoadBalancerSetting = LocalityLoadBalancerSetting(enabled=True)
    zone_aware_lb_setting: JsonObject | None = None
    dns_refresh_rate: Duration = Duration(60 * SECOND)
    h2_upgrade_policy: Literal["DO_NOT_UPGRADE", "UPGRADE"] = "DO_NOT_UPGRADE"
    inbound_cluster_stat_name: str = ""
    outbound_cluster_stat_name: str = ""
    certificates: tuple[JsonObject, ...] = ()
    service_settings: tuple[JsonObject, ...] = ()
    service_scope_configs: tuple[JsonObject, ...] = ()
    enable_prometheus_merge: bool = True
    verify_certificate_at_client: bool | None = None
    ca: JsonObject | None = None
    extension_providers: tuple[JsonObject, ...] = ()
    default_providers: JsonObject | None = None
    discovery_selectors: tuple[LabelSelector, ...] = ()
    path_normalization: PathNormalization = PathNormalization()
    default_http_retry_policy: HTTPRetry | None = None
    default_inbound_http_retry_policy: HTTPRetry | None = None
    mesh_mtls: JsonObject | None = field(default=None, name="meshMTLS")
    tls_defaults: JsonObject | None = None
    default_traffic_policy: DefaultTrafficPolicy | None = None
    service_entry_visibility: JsonObject | None = None
