"""The route configuration that stands inside an inbound HTTP connection manager.

Owns one virtual host with one route to the workload's own port. Must not know listeners. The
rule that is easy to break: it has no timeout of any kind, because the caller's sidecar has
applied the one that counts.
"""

from __future__ import annotations

from typing import Any, Final

from controlplane.model.names import ClusterName, inbound_cluster
from controlplane.model.services import Protocol
from controlplane.model.virtual_service import HTTPRetry
from controlplane.translate import envoy
from controlplane.translate.scope import InboundTarget
from controlplane.translate.virtual_hosts import default_route, service_decorator

INBOUND_RETRY_ON: Final = "reset-before-request"
INBOUND_RETRIES: Final = 2


def inbound_route(
    target: InboundTarget,
    *,
    retries: HTTPRetry | None = None,
    cluster: ClusterName | None = None,
) -> Any:
    """Return the RouteConfiguration message of one target port.

    `cluster` is where the requests go, and the configuration's name; that of the port without it.
    `retries` is the mesh's defaultInboundHttpRetryPolicy. gRPC is never retried on the way in.
    Source: Istio's buildSidecarInboundHTTPRouteConfig.
    """
    cluster = cluster or inbound_cluster(target.target_port)
    route = default_route()
    route.decorator.CopyFrom(service_decorator(target.host, target.service_port))
    route.route.cluster = cluster
    none = envoy.DurationMessage()
    route.route.timeout.CopyFrom(none)
    route.route.max_stream_duration.max_stream_duration.CopyFrom(none)
    route.route.max_stream_duration.grpc_timeout_header_max.CopyFrom(none)
    policy = _retry_policy(target.protocol, retries)
    if policy is not None:
        route.route.retry_policy.CopyFrom(policy)
    return envoy.RouteConfiguration(
        name=cluster,
        virtual_hosts=[
            envoy.VirtualHost(
                name=f"inbound|http|{target.service_port}", domains=["*"], routes=[route]
            )
        ],
        validate_clusters=envoy.BoolValue(value=False),
    )


def _retry_policy(protocol: Protocol, retries: HTTPRetry | None) -> Any | None:
    if protocol in (Protocol.GRPC, Protocol.GRPC_WEB):
        return None
    if retries is None:
        return envoy.RetryPolicy(
            retry_on=INBOUND_RETRY_ON, num_retries=envoy.UInt32Value(value=INBOUND_RETRIES)
        )
    if retries.attempts <= 0:
        return None
    policy = envoy.RetryPolicy(
        retry_on=retries.retry_on or INBOUND_RETRY_ON,
        num_retries=envoy.UInt32Value(value=retries.attempts),
    )
    if retries.per_try_timeout is not None and retries.per_try_timeout > 0:
        policy.per_try_timeout.CopyFrom(envoy.duration(retries.per_try_timeout))
    if retries.backoff is not None and retries.backoff > 0:
        policy.retry_back_off.base_interval.CopyFrom(envoy.duration(retries.backoff))
    return policy
