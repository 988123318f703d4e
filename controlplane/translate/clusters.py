"""Outbound clusters: inputs become Envoy's Cluster messages.

Owns names, metadata, discovery and TLS of a cluster; the traffic policy is `cluster_policy`.
The rule that is easy to break: the end of a cluster's bytes is shared by all of its shape, so
everything that it depends on is in the shape.
"""

from __future__ import annotations

import functools
from typing import Any, Final, assert_never

from controlplane.model.base import Model
from controlplane.model.destination_rule import TrafficPolicy
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.names import config_path, default_sni, outbound_cluster, service_host
from controlplane.translate import envoy
from controlplane.translate.cluster_inputs import (
    ClusterInput,
    ClusterSettings,
    Discovery,
    FixedClusterInput,
    ServiceClusterInput,
    outbound_cluster_inputs,
)
from controlplane.translate.cluster_metadata import set_metadata, stat_name
from controlplane.translate.cluster_policy import (
    set_connections,
    set_load_balancer,
    set_outlier_detection,
)
from controlplane.translate.cluster_protocol import (
    Upstream,
    http_options,
    set_http_options,
    upstream_protocol,
)
from controlplane.translate.cluster_tls import (
    automatic_start,
    credential_note,
    is_automatic,
    note,
    origination_settings,
    refusal_of,
    set_sockets,
)
from controlplane.translate.endpoints import assignment_body, choose
from controlplane.translate.fixed_clusters import fixed_cluster, metadata_exchange_filter
from controlplane.translate.resources import (
    Common,
    Resource,
    ResourceType,
    Translated,
    noted,
    serialise,
)
from controlplane.translate.tls import auto_mutual_start, auto_mutual_tail, spiffe_id

__all__ = ["ClusterInput", "build_cluster", "outbound_cluster_inputs"]

WITHOUT_ENDPOINTS: Final = "ClusterWithoutEndpoints"
"""The code of the finding about a cluster that is left out."""
_DNS_MAX_QUERIES: Final = 100
_DNS_JITTER_NS: Final = 100_000_000


def build_cluster(value: ClusterInput) -> Translated:
    """Return the cluster of an input; None, with the reason, when it cannot be sent."""
    match value:
        case ServiceClusterInput():
            return _service_cluster(value)
        case FixedClusterInput():
            return Resource.of(ResourceType.CLUSTER, value.name, serialise(fixed_cluster(value)))
        case _:
            assert_never(value)


def _service_cluster(value: ServiceClusterInput) -> Translated:
    refusal = refusal_of(value)
    if refusal is not None:
        return noted(None, (refusal,))
    client_tls = origination_settings(value)
    upstream = upstream_protocol(
        value.port.protocol,
        pool=value.policy.connection_pool,
        sidecar=value.settings.sidecar,
        mesh_upgrades=value.settings.upgrades_to_http2,
    )
    automatic = is_automatic(value)
    cluster = envoy.Cluster(name=value.name, alt_stat_name=_stat_name(value))
    notes = _set_endpoints(cluster, value)
    if value.discovery.is_dns and not cluster.load_assignment.endpoints:
        left_out = note(
            value,
            Level.WARNING,
            WITHOUT_ENDPOINTS,
            f"DNS cluster {value.name} is left out: it has no endpoints",
        )
        return noted(None, (left_out,))
    _set_metadata(cluster, value)
    http2 = upstream is Upstream.HTTP2
    if not automatic:
        set_sockets(cluster, value, client_tls, http2=http2)
    own = serialise(cluster)
    common = _common(
        _Shape(
            settings=value.settings,
            policy=value.policy,
            discovery=value.discovery,
            upstream=upstream,
            locality_weighted=value.locality_weighted,
            originates_tls=client_tls is not None,
            automatic=automatic,
        )
    )
    return noted(
        Resource.of(
            common,
            value.name,
            own + automatic_start(value, http2=http2) if automatic else own,
            made_of=value,
        ),
        (*notes, *credential_note(value)),
    )


class _Shape(Model):
    """Everything of a cluster that does not name it: the key of its tail."""

    settings: ClusterSettings
    policy: TrafficPolicy
    discovery: Discovery
    upstream: Upstream
    locality_weighted: bool
    originates_tls: bool
    automatic: bool  # whether the sockets of auto mTLS have begun


@functools.lru_cache(maxsize=1024)
def _common(shape: _Shape) -> Common:
    """Return what clusters of a shape have alike.

    Protobuf merges the fields of a message that stand apart, so that the bytes of a cluster's
    own fields and these are one cluster.
    """
    tail = serialise(_template(shape))
    if shape.automatic:
        tail = auto_mutual_tail(http2=shape.upstream is Upstream.HTTP2) + tail
    return Common(
        ResourceType.CLUSTER,
        tail=tail,
        dictionary=_dictionary(),
        by_eds=shape.discovery is Discovery.EDS,
    )


@functools.cache
def _dictionary() -> bytes:
    """Return what the own fields of clusters are like: their names stand there many times."""
    name, namespace = "app", "default"
    host = service_host(name, namespace, "cluster.local")
    names = outbound_cluster(8080, "v1", host)
    cluster = envoy.Cluster(name=names, alt_stat_name=f"{names};")
    cluster.eds_cluster_config.service_name = names
    fields = set_metadata(cluster, host=host, name=name, namespace=namespace)
    fields["config"].string_value = config_path("DestinationRule", namespace, name)
    fields["subset"].string_value = "v1"
    return serialise(cluster) + auto_mutual_start(
        sni=default_sni(8080, "v1", host),
        subject_alt_names=(spiffe_id("cluster.local", namespace, name),),
        http2=False,
    )


def _template(shape: _Shape) -> Any:
    """Return a cluster without name, endpoints and sockets."""
    settings, policy = shape.settings, shape.policy
    cluster = envoy.Cluster(type=shape.discovery.value)
    cluster.common_lb_config.SetInParent()
    if shape.discovery is Discovery.EDS:
        cluster.eds_cluster_config.eds_config.CopyFrom(envoy.ads_source())
    elif shape.discovery.is_dns:
        _set_dns(cluster, settings)
    set_connections(
        cluster,
        policy.connection_pool,
        connect_timeout=settings.connect_timeout,
        keepalive=settings.tcp_keepalive,
        retry_budget=policy.retry_budget,
    )
    set_outlier_detection(cluster, policy.outlier_detection)
    set_load_balancer(cluster, policy.load_balancer, locality_weighted=shape.locality_weighted)
    origination = policy.tls if shape.originates_tls else None
    automatic = origination is not None and not origination.sni
    set_http_options(
        cluster,
        http_options(
            shape.upstream,
            policy.connection_pool,
            auto_sni=automatic,
            auto_san_validation=automatic
            and origination is not None
            and not origination.subject_alt_names
            and not origination.insecure_skip_verify,
        ),
    )
    if settings.metadata_exchange:
        cluster.filters.append(metadata_exchange_filter())
    return cluster


def _set_dns(cluster: Any, settings: ClusterSettings) -> None:
    # Istio's choice for both families without its dual-stack feature: IPv4.
    only_ipv6 = settings.ipv6 and not settings.ipv4
    cluster.dns_lookup_family = envoy.Cluster.V6_ONLY if only_ipv6 else envoy.Cluster.V4_ONLY
    resolver = envoy.CaresDnsResolverConfig(
        udp_max_queries=envoy.UInt32Value(value=_DNS_MAX_QUERIES)
    )
    cluster.typed_dns_resolver_config.name = "envoy.network.dns_resolver.cares"
    cluster.typed_dns_resolver_config.typed_config.CopyFrom(envoy.pack(resolver))
    cluster.dns_jitter.CopyFrom(envoy.duration(_DNS_JITTER_NS))
    cluster.dns_refresh_rate.CopyFrom(envoy.duration(settings.dns_refresh_rate))
    cluster.respect_dns_ttl = True


def _set_endpoints(cluster: Any, value: ServiceClusterInput) -> tuple[Diagnostic, ...]:
    match value.discovery:
        case Discovery.EDS:
            cluster.eds_cluster_config.service_name = value.name
        case Discovery.ORIGINAL_DST:
            target = value.port.target_port
            service = value.service
            # Only a ServiceEntry says that the port differs where the address is the client's.
            if (
                service.provider == "External"
                and isinstance(target, int)
                and target not in (0, value.port.number)
            ):
                cluster.original_dst_lb_config.upstream_port_override.value = target
        case Discovery.STRICT_DNS | Discovery.LOGICAL_DNS:
            chosen = choose(value.endpoints, value.port.name, value.filter)
            logical = value.discovery is Discovery.LOGICAL_DNS
            body = assignment_body(value.name, chosen[:1] if logical else chosen, value.filter)
            cluster.load_assignment.MergeFromString(body)
            if logical and len(chosen) > 1:
                return (
                    note(
                        value,
                        Level.WARNING,
                        "ExtraEndpoints",
                        f"cluster {value.name} uses the first of {len(chosen)} endpoints: "
                        "DNS_ROUND_ROBIN takes one",
                    ),
                )
        case Discovery.STATIC | Discovery.DYNAMIC_DNS:
            raise AssertionError(f"{value.name} is no outbound cluster: {value.discovery}")
        case _:
            assert_never(value.discovery)
    return ()


def _set_metadata(cluster: Any, value: ServiceClusterInput) -> None:
    fields = set_metadata(
        cluster,
        host=value.service.host,
        name=value.service.name,
        namespace=value.service.namespace,
    )
    if value.config:
        fields["config"].string_value = value.config
    if value.subset:
        fields["subset"].string_value = value.subset
    elif value.service.external:
        fields["external"].bool_value = True
    if value.policy.tls is not None and value.policy.tls.mode in ("SIMPLE", "MUTUAL"):
        fields["alpn_override"].string_value = "false"


def _stat_name(value: ServiceClusterInput) -> str:
    pattern = value.settings.stat_name
    if not pattern:
        return f"{value.name};"
    return stat_name(
        pattern,
        host=value.service.host,
        name=value.service.name,
        namespace=value.service.namespace,
        subset=value.subset,
        port=value.port.number,
        port_name=value.port.name,
        kubernetes=value.service.provider == "Kubernetes",
    )
