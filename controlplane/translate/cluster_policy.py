"""The traffic policy of a cluster: limits, timeouts, load balancer, outlier detection.

Owns Istio's cluster_traffic_policy.go in our terms. Must not know services or names. The rule
that is easy to break: zero means "unset" for every limit, as in Istio's API.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from controlplane.model.base import Duration
from controlplane.model.destination_rule import (
    ConnectionPoolSettings,
    ConsistentHashLB,
    LoadBalancerSettings,
    OutlierDetection,
    RetryBudget,
    TcpKeepalive,
    TrafficPolicy,
)
from controlplane.translate import envoy

UNLIMITED: Final = 0xFFFFFFFF
# Envoy's and Istio's defaults where a DestinationRule names the feature only.
_RING_SIZE: Final = 1024
_BUDGET_PERCENT: Final = 20.0
_BUDGET_RETRIES: Final = 3
_WARMUP_AGGRESSION: Final = 1.0
_WARMUP_MINIMUM_PERCENT: Final = 10.0


def is_passthrough(policy: TrafficPolicy) -> bool:
    """Whether the policy sends requests to the address that the client asked for."""
    balancer = policy.load_balancer
    return balancer is not None and balancer.simple == "PASSTHROUGH"


def set_connections(
    cluster: Any,
    pool: ConnectionPoolSettings | None,
    *,
    connect_timeout: Duration,
    keepalive: TcpKeepalive | None,
    retry_budget: RetryBudget | None = None,
) -> None:
    """Set connect timeout, circuit breakers and TCP keepalive; the arguments are the mesh's."""
    tcp = pool.tcp if pool is not None else None
    http = pool.http if pool is not None else None
    timeout = tcp.connect_timeout if tcp is not None else None
    cluster.connect_timeout.CopyFrom(
        envoy.duration(timeout if timeout is not None else connect_timeout)
    )
    threshold = cluster.circuit_breakers.thresholds.add()
    threshold.max_connections.value = _limit(tcp.max_connections if tcp else None)
    threshold.max_pending_requests.value = _limit(http.http1_max_pending_requests if http else None)
    threshold.max_requests.value = _limit(http.http2_max_requests if http else None)
    threshold.max_retries.value = _limit(http.max_retries if http else None)
    if retry_budget is not None:
        percent, least = retry_budget.percent, retry_budget.min_retry_concurrency
        budget = threshold.retry_budget
        budget.budget_percent.value = _BUDGET_PERCENT if percent is None else percent
        budget.min_retry_concurrency.value = _BUDGET_RETRIES if least is None else least
    _set_keepalive(cluster, keepalive, tcp.tcp_keepalive if tcp is not None else None)


def _limit(value: int | None) -> int:
    return value if value is not None and value > 0 else UNLIMITED


def _set_keepalive(cluster: Any, mesh: TcpKeepalive | None, own: TcpKeepalive | None) -> None:
    if mesh is None and own is None:
        return
    target = cluster.upstream_connection_options.tcp_keepalive
    target.SetInParent()
    for settings in (mesh, own):
        if settings is None:
            continue
        if settings.probes:
            target.keepalive_probes.value = settings.probes
        if settings.time:
            target.keepalive_time.value = int(settings.time.seconds)
        if settings.interval:
            target.keepalive_interval.value = int(settings.interval.seconds)


def set_outlier_detection(cluster: Any, outlier: OutlierDetection | None) -> None:
    """Set outlier detection and the panic threshold.

    The threshold is 0 unless the user wants a minimum: endpoints that are not ready are sent
    too, and Envoy must not use them in panic.
    """
    cluster.common_lb_config.healthy_panic_threshold.SetInParent()
    if outlier is None:
        return
    if outlier.min_health_percent:
        cluster.common_lb_config.healthy_panic_threshold.value = outlier.min_health_percent
    found = cluster.outlier_detection
    found.enforcing_success_rate.value = 0
    errors = outlier.consecutive5xx_errors
    if errors is not None:
        found.consecutive_5xx.value = errors
        found.enforcing_consecutive_5xx.value = 100 if errors else 0
    gateway = outlier.consecutive_gateway_errors
    if gateway is not None:
        found.consecutive_gateway_failure.value = gateway
        found.enforcing_consecutive_gateway_failure.value = 100 if gateway else 0
    if outlier.interval:
        found.interval.CopyFrom(envoy.duration(outlier.interval))
    if outlier.base_ejection_time:
        found.base_ejection_time.CopyFrom(envoy.duration(outlier.base_ejection_time))
    if outlier.max_ejection_percent:
        found.max_ejection_percent.value = outlier.max_ejection_percent
    if outlier.split_external_local_origin_errors:
        found.split_external_local_origin_errors = True
        if outlier.consecutive_local_origin_failures:
            found.consecutive_local_origin_failure.value = outlier.consecutive_local_origin_failures
            found.enforcing_consecutive_local_origin_failure.value = 100
        found.enforcing_local_origin_success_rate.value = 0


def set_load_balancer(
    cluster: Any, balancer: LoadBalancerSettings | None, *, locality_weighted: bool
) -> None:
    """Set how an endpoint is chosen; the discovery type must be set already."""
    if locality_weighted:
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
    if cluster.type == envoy.Cluster.ORIGINAL_DST:
        cluster.lb_policy = envoy.Cluster.CLUSTER_PROVIDED
        return
    match balancer.simple if balancer is not None else None:
        case "ROUND_ROBIN":
            cluster.lb_policy = envoy.Cluster.ROUND_ROBIN
            _set_warmup(cluster.round_robin_lb_config, balancer)
        case "RANDOM":
            cluster.lb_policy = envoy.Cluster.RANDOM
        case "LEAST_REQUEST" | "LEAST_CONN" | "UNSPECIFIED" | "PASSTHROUGH" | None:
            cluster.lb_policy = envoy.Cluster.LEAST_REQUEST
            _set_warmup(cluster.least_request_lb_config, balancer)
        case other:
            assert_never(other)
    if balancer is not None and balancer.consistent_hash is not None:
        _set_consistent_hash(cluster, balancer.consistent_hash)


def _set_warmup(config: Any, balancer: LoadBalancerSettings | None) -> None:
    if balancer is None:
        return
    warmup = balancer.warmup
    if warmup is not None and warmup.duration is not None:
        slow_start = config.slow_start_config
        slow_start.slow_start_window.CopyFrom(envoy.duration(warmup.duration))
        aggression, least = warmup.aggression, warmup.minimum_percent
        slow_start.aggression.default_value = (
            _WARMUP_AGGRESSION if aggression is None else aggression
        )
        slow_start.min_weight_percent.value = _WARMUP_MINIMUM_PERCENT if least is None else least
    elif balancer.warmup_duration_secs is not None:
        config.slow_start_config.slow_start_window.CopyFrom(
            envoy.duration(balancer.warmup_duration_secs)
        )


def _set_consistent_hash(cluster: Any, hashing: ConsistentHashLB) -> None:
    cluster.ClearField("lb_config")
    if hashing.maglev is not None:
        cluster.lb_policy = envoy.Cluster.MAGLEV
        if hashing.maglev.table_size:
            cluster.maglev_lb_config.table_size.value = hashing.maglev.table_size
        return
    cluster.lb_policy = envoy.Cluster.RING_HASH
    own = hashing.ring_hash.minimum_ring_size if hashing.ring_hash is not None else None
    size = own or hashing.minimum_ring_size or _RING_SIZE
    cluster.ring_hash_lb_config.minimum_ring_size.value = size
