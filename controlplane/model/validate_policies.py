"""Values of DestinationRules and of the mesh that their types allow and that cannot be meant.

Source: Istio's pkg/config/validation (validation.go, agent/validation.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controlplane.model.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    DestinationRuleSpec,
    LoadBalancerSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    PortTrafficPolicy,
    TrafficPolicy,
)
from controlplane.model.mesh import MeshConfig
from controlplane.model.schema import Finding, Path
from controlplane.model.validate_routes import port_selector, retry
from controlplane.model.values import (
    DEPRECATED,
    duration,
    error,
    export_to,
    header_name,
    host,
    is_dns_label,
    is_host,
    labels,
    unique,
    warning,
)


def destination_rule(spec: DestinationRuleSpec) -> Iterator[Finding]:
    """Yield what is wrong with a DestinationRule."""
    yield from host(("spec", "host"), spec.host)
    yield from export_to(("spec", "exportTo"), spec.export_to)
    if spec.traffic_policy is not None:
        yield from _traffic_policy(("spec", "trafficPolicy"), spec.traffic_policy)
    yield from unique(("spec", "subsets"), (subset.name for subset in spec.subsets), "subset")
    for index, subset in enumerate(spec.subsets):
        path: Path = ("spec", "subsets", index)
        if not subset.name or not is_host(subset.name):
            yield error((*path, "name"), f"{subset.name!r} is not a subset name")
        if subset.labels:
            yield from labels((*path, "labels"), subset.labels.items())
        if subset.traffic_policy is not None:
            yield from _traffic_policy((*path, "trafficPolicy"), subset.traffic_policy)


def _traffic_policy(path: Path, policy: TrafficPolicy) -> Iterator[Finding]:
    parts = (
        policy.load_balancer, policy.connection_pool, policy.outlier_detection, policy.tls,
        policy.port_level_settings, policy.tunnel, policy.proxy_protocol, policy.retry_budget,
    )  # fmt: skip
    if not any(part is not None and part != () for part in parts):
        yield error(path, "must not be empty")
    yield from _settings(path, policy)
    seen: dict[int, int] = {}
    for index, entry in enumerate(policy.port_level_settings):
        below = (*path, "portLevelSettings", index)
        if entry.port is None or entry.port.number is None:
            yield error((*below, "port"), "is required")
        elif entry.port.number in seen:
            yield error(
                (*below, "port"),
                f"port {entry.port.number} is already set by entry {seen[entry.port.number]}",
            )
        else:
            seen[entry.port.number] = index
        yield from port_selector((*below, "port"), entry.port)
        yield from _settings(below, entry)
    tunnel = policy.tunnel
    if tunnel is not None:
        below = (*path, "tunnel")
        if tunnel.protocol not in ("", "CONNECT", "POST"):
            yield error((*below, "protocol"), f"{tunnel.protocol!r} is neither CONNECT nor POST")
        yield from host((*below, "targetHost"), tunnel.target_host, wildcard=False)
        if not 1 <= tunnel.target_port <= 65535:
            yield error((*below, "targetPort"), f"{tunnel.target_port} is not from 1 to 65535")


def _settings(path: Path, policy: TrafficPolicy | PortTrafficPolicy) -> Iterator[Finding]:
    if policy.load_balancer is not None:
        yield from _load_balancer((*path, "loadBalancer"), policy.load_balancer)
    if policy.connection_pool is not None:
        yield from _connection_pool((*path, "connectionPool"), policy.connection_pool)
    if policy.outlier_detection is not None:
        yield from _outlier_detection((*path, "outlierDetection"), policy.outlier_detection)
    if policy.tls is not None:
        yield from _tls((*path, "tls"), policy.tls)


def _load_balancer(path: Path, value: LoadBalancerSettings) -> Iterator[Finding]:
    if value.simple is not None and value.consistent_hash is not None:
        yield error(path, "only one of simple and consistentHash may be set")
    if value.simple == "LEAST_CONN":
        yield warning((*path, "simple"), "LEAST_CONN is deprecated, use LEAST_REQUEST", DEPRECATED)
    if value.consistent_hash is not None:
        yield from _consistent_hash((*path, "consistentHash"), value.consistent_hash)
    if value.locality_lb_setting is not None:
        yield from _locality((*path, "localityLbSetting"), value.locality_lb_setting)
    if value.warmup_duration_secs is not None and value.warmup is not None:
        yield error(path, "only one of warmup and warmupDurationSecs may be set")
    yield from duration((*path, "warmupDurationSecs"), value.warmup_duration_secs)
    warmup = value.warmup
    if warmup is not None:
        below = (*path, "warmup")
        if warmup.duration is None:
            yield error((*below, "duration"), "is required")
        yield from duration((*below, "duration"), warmup.duration)
        if warmup.minimum_percent is not None and not 0 <= warmup.minimum_percent <= 100:
            yield error(
                (*below, "minimumPercent"), f"{warmup.minimum_percent:g} is not from 0 to 100"
            )
        if warmup.aggression is not None and warmup.aggression < 1:
            yield error((*below, "aggression"), f"{warmup.aggression:g} is less than 1")


def _consistent_hash(path: Path, value: ConsistentHashLB) -> Iterator[Finding]:
    keys = {
        "httpHeaderName": value.http_header_name is not None,
        "httpCookie": value.http_cookie is not None,
        "useSourceIp": bool(value.use_source_ip),
        "httpQueryParameterName": value.http_query_parameter_name is not None,
    }
    given = [name for name, there in keys.items() if there]
    if len(given) != 1:
        yield error(path, f"exactly one of {', '.join(given or keys)} must be set")
    if value.http_header_name is not None:
        yield from header_name((*path, "httpHeaderName"), value.http_header_name)
    if value.http_query_parameter_name == "":
        yield error((*path, "httpQueryParameterName"), "must not be empty")
    cookie = value.http_cookie
    if cookie is not None:
        if not cookie.name:
            yield error((*path, "httpCookie", "name"), "must not be empty")
        if cookie.ttl is not None and cookie.ttl < 0:
            yield error((*path, "httpCookie", "ttl"), f"{cookie.ttl} is negative")
    if value.ring_hash is not None and value.maglev is not None:
        yield error(path, "only one of ringHash and maglev may be set")
    ring = value.ring_hash.minimum_ring_size if value.ring_hash is not None else None
    for below, size in (
        ((*path, "minimumRingSize"), value.minimum_ring_size),
        ((*path, "ringHash", "minimumRingSize"), ring),
    ):
        if size is not None and not 0 <= size <= 8 * 1024 * 1024:
            yield error(below, f"{size} is not from 0 to 8388608")  # Envoy's upper bound
    if value.minimum_ring_size:
        yield warning(
            (*path, "minimumRingSize"), "is deprecated, use ringHash.minimumRingSize", DEPRECATED
        )
    table = value.maglev.table_size if value.maglev is not None else None
    if table is not None and not _is_maglev_size(table):
        yield error((*path, "maglev", "tableSize"), f"{table} is not a prime up to 5000011")


def _is_maglev_size(size: int) -> bool:
    if not 2 <= size <= 5_000_011:
        return False
    return all(size % factor for factor in range(2, int(size**0.5) + 1))


def _locality(path: Path, value: LocalityLoadBalancerSetting) -> Iterator[Finding]:
    if value.distribute and value.failover:
        yield error(path, "only one of distribute and failover may be set")
    if value.distribute and value.failover_priority:
        yield error(path, "only one of distribute and failoverPriority may be set")
    for index, entry in enumerate(value.distribute):
        below = (*path, "distribute", index)
        weights: Mapping[str, int] = entry.to or {}
        for locality, weight in weights.items():
            if weight == 0:
                yield error((*below, "to", locality), "a weight must be at least 1")
        if sum(weights.values()) != 100:
            yield error((*below, "to"), f"the weights sum to {sum(weights.values())}, not to 100")
    for index, failover in enumerate(value.failover):
        below = (*path, "failover", index)
        if failover.from_ == failover.to:
            yield error(below, "from and to are the same region")
        for field, region in (("from", failover.from_), ("to", failover.to)):
            if "/" in region or "*" in region:
                yield error((*below, field), f"{region!r} is not a region alone")


def _connection_pool(path: Path, value: ConnectionPoolSettings) -> Iterator[Finding]:
    tcp, http = value.tcp, value.http
    if tcp is None and http is None:
        yield error(path, "one of tcp and http is required")
    if tcp is not None:
        below = (*path, "tcp")
        yield from _not_negative(below, maxConnections=tcp.max_connections)
        yield from duration((*below, "connectTimeout"), tcp.connect_timeout)
        yield from duration((*below, "maxConnectionDuration"), tcp.max_connection_duration)
        yield from duration((*below, "idleTimeout"), tcp.idle_timeout, zero=True)
        if tcp.tcp_keepalive is not None:
            alive = (*below, "tcpKeepalive")
            yield from duration((*alive, "time"), tcp.tcp_keepalive.time, least=1_000_000_000)
            yield from duration((*alive, "interval"), tcp.tcp_keepalive.interval, least=10**9)
    if http is not None:
        below = (*path, "http")
        yield from _not_negative(
            below,
            http1MaxPendingRequests=http.http1_max_pending_requests,
            http2MaxRequests=http.http2_max_requests,
            maxRequestsPerConnection=http.max_requests_per_connection,
            maxRetries=http.max_retries,
            maxConcurrentStreams=http.max_concurrent_streams,
        )
        yield from duration((*below, "idleTimeout"), http.idle_timeout, zero=True)
        if http.use_client_protocol and http.h2_upgrade_policy == "UPGRADE":
            yield error(
                (*below, "useClientProtocol"), "cannot be combined with h2UpgradePolicy UPGRADE"
            )
        if http.http2_keep_alive is not None:
            alive = (*below, "http2KeepAlive")
            yield from duration((*alive, "interval"), http.http2_keep_alive.interval)
            yield from duration((*alive, "timeout"), http.http2_keep_alive.timeout)


def _not_negative(path: Path, **numbers: int | None) -> Iterator[Finding]:
    for field, number in numbers.items():
        if number is not None and number < 0:
            yield error((*path, field), f"{number} is negative")


def _outlier_detection(path: Path, value: OutlierDetection) -> Iterator[Finding]:
    yield from duration((*path, "interval"), value.interval)
    yield from duration((*path, "baseEjectionTime"), value.base_ejection_time)
    if value.consecutive_errors is not None:
        below = (*path, "consecutiveErrors")
        if value.consecutive_errors < 0:
            yield error(below, f"{value.consecutive_errors} is negative")
        yield warning(below, "is deprecated, use consecutive5xxErrors", DEPRECATED)
    if value.consecutive_local_origin_failures and not value.split_external_local_origin_errors:
        yield error(
            (*path, "consecutiveLocalOriginFailures"), "needs splitExternalLocalOriginErrors"
        )


def _tls(path: Path, value: ClientTLSSettings) -> Iterator[Finding]:
    certificate = {"clientCertificate": value.client_certificate, "privateKey": value.private_key}
    match value.mode:
        case "MUTUAL":
            if value.credential_name:
                for field, text in (
                    *certificate.items(),
                    ("caCertificates", value.ca_certificates),
                ):
                    if text:
                        yield error((*path, field), "cannot be combined with credentialName")
            else:
                for field, text in certificate.items():
                    if not text:
                        yield error((*path, field), "is required with mode MUTUAL")
        case "ISTIO_MUTUAL":
            mine = {
                **certificate,
                "caCertificates": value.ca_certificates,
                "credentialName": value.credential_name,
            }
            for field, text in mine.items():
                if text:
                    yield error((*path, field), "must not be set with mode ISTIO_MUTUAL")
        case "SIMPLE" | "DISABLE":
            pass
    if value.insecure_skip_verify and value.mode in ("DISABLE", "ISTIO_MUTUAL"):
        yield error((*path, "insecureSkipVerify"), f"cannot be combined with mode {value.mode}")


def mesh_config(mesh: MeshConfig) -> Iterator[Finding]:
    """Yield what is wrong with the settings of the mesh."""
    yield from duration(("connectTimeout",), mesh.connect_timeout)
    yield from duration(("dnsRefreshRate",), mesh.dns_refresh_rate, least=1_000_000_000)
    yield from duration(("protocolDetectionTimeout",), mesh.protocol_detection_timeout, zero=True)
    if not 0 <= mesh.proxy_http_port <= 65535:
        yield error(("proxyHttpPort",), f"{mesh.proxy_http_port} is not from 0 to 65535")
    ports = {
        "proxyListenPort": mesh.proxy_listen_port,
        "proxyInboundListenPort": mesh.proxy_inbound_listen_port,
    }
    if len(set(ports.values())) < len(ports):
        yield error(("proxyInboundListenPort",), "is the same port as proxyListenPort")
    if not is_dns_label(mesh.root_namespace):
        yield error(("rootNamespace",), f"{mesh.root_namespace!r} is not a namespace")
    if not mesh.trust_domain:
        yield error(("trustDomain",), "must not be empty")
    for field, entries in (
        ("defaultServiceExportTo", mesh.default_service_export_to),
        ("defaultVirtualServiceExportTo", mesh.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", mesh.default_destination_rule_export_to),
    ):
        yield from export_to((field,), entries)
    config = mesh.default_config
    for field, number in (
        ("proxyAdminPort", config.proxy_admin_port),
        ("statusPort", config.status_port),
    ):
        if not 0 <= number <= 65535:
            yield error(("defaultConfig", field), f"{number} is not from 0 to 65535")
    yield from duration(("defaultConfig", "drainDuration"), config.drain_duration)
    yield from _locality(("localityLbSetting",), mesh.locality_lb_setting)
    if mesh.default_http_retry_policy is not None:
        yield from retry(("defaultHttpRetryPolicy",), mesh.default_http_retry_policy)
    policy = mesh.default_traffic_policy
    if policy is not None:
        path: Path = ("defaultTrafficPolicy",)
        if policy.connection_pool is not None:
            yield from _connection_pool((*path, "connectionPool"), policy.connection_pool)
        if policy.outlier_detection is not None:
            yield from _outlier_detection((*path, "outlierDetection"), policy.outlier_detection)
