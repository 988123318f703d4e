"""Inbound clusters: from the sidecar to its own application.

Owns `inbound|PORT||` and InboundPassthroughCluster. The rule that is easy to break: requests
leave from 127.0.0.6, which the capture rules let pass; from any other address they would be
captured again and come back.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from controlplane.model.base import Model
from controlplane.model.destination_rule import ConnectionPoolSettings
from controlplane.model.destination_rules import port_policy
from controlplane.model.names import INBOUND_PASSTHROUGH_CLUSTER, config_path, inbound_cluster
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.cluster_inputs import (
    ClusterSettings,
    FixedClusterInput,
    cluster_settings,
)
from controlplane.translate.cluster_metadata import set_metadata, stat_name
from controlplane.translate.cluster_policy import set_connections
from controlplane.translate.cluster_protocol import (
    http_options,
    set_http_options,
    upstream_protocol,
)
from controlplane.translate.clusters import build_cluster
from controlplane.translate.fixed_clusters import set_inbound_bind
from controlplane.translate.resources import (
    Origin,
    Resource,
    ResourceType,
    Translated,
    serialise,
)
from controlplane.translate.scope import InboundClass, InboundTarget

# The longest time that Istio's Go durations hold: an idle original destination is never dropped.
_NEVER_SECONDS: Final = 9_223_372_035


class TargetClusterInput(Model):
    """The cluster of one target port of the workload."""

    settings: ClusterSettings
    target: InboundTarget
    localhost: bool = False  # the application is reached on the loopback address
    pool: ConnectionPoolSettings | None = None
    config: str = ""  # the `istio.config` metadata
    origins: tuple[Origin, ...] = ()


InboundClusterInput = TargetClusterInput | FixedClusterInput


def inbound_cluster_inputs(
    snapshot: Snapshot, cls: InboundClass
) -> tuple[InboundClusterInput, ...]:
    """Return the inbound clusters of a class, ordered by target port, the passthrough one last."""
    mesh = snapshot.mesh
    settings = cluster_settings(mesh, cls, stat_name=mesh.inbound_cluster_stat_name)
    localhost = mesh.inbound_traffic_policy.mode == "LOCALHOST"
    inputs: list[InboundClusterInput] = [
        _target_input(snapshot, cls, target, settings=settings, localhost=localhost)
        for target in cls.targets
    ]
    inputs.append(FixedClusterInput(name=INBOUND_PASSTHROUGH_CLUSTER, settings=settings))
    return tuple(inputs)


def _target_input(
    snapshot: Snapshot,
    cls: InboundClass,
    target: InboundTarget,
    *,
    settings: ClusterSettings,
    localhost: bool,
) -> TargetClusterInput:
    service = snapshot.service_by_host.get(target.host)
    origins = [Origin("", service.ref)] if service is not None else []
    rule = snapshot.rules.lookup(
        target.host, client_namespace=cls.namespace, service_namespace=target.service_namespace
    )
    pool, config = None, ""
    if rule is not None and rule.traffic_policy is not None:
        pool = port_policy(rule.traffic_policy, target.service_port).connection_pool
        config = config_path("DestinationRule", rule.ref.namespace, rule.ref.name)
        if rule.policy_ref is not None:
            origins.append(Origin("", rule.policy_ref, "spec.trafficPolicy.connectionPool"))
    return TargetClusterInput(
        settings=settings,
        target=target,
        localhost=localhost,
        pool=pool,
        config=config,
        origins=tuple(origins),
    )


def build_inbound_cluster(value: InboundClusterInput) -> Translated:
    """Return the cluster of an inbound input."""
    match value:
        case FixedClusterInput():
            return build_cluster(value)
        case TargetClusterInput():
            cluster = _target_cluster(value)
            return Resource.of(
                ResourceType.CLUSTER, cluster.name, serialise(cluster), made_of=value
            )
        case _:
            assert_never(value)


def _target_cluster(value: TargetClusterInput) -> Any:
    settings, target = value.settings, value.target
    name = inbound_cluster(target.target_port)
    cluster = envoy.Cluster(name=name, alt_stat_name=_stat_name(value))
    cluster.common_lb_config.SetInParent()
    if value.localhost:
        cluster.type = envoy.Cluster.STATIC
        cluster.load_assignment.cluster_name = name
        loopback = "127.0.0.1" if settings.ipv4 else "::1"
        cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(
            envoy.socket_address(loopback, target.target_port)
        )
    else:
        cluster.type = envoy.Cluster.ORIGINAL_DST
        cluster.lb_policy = envoy.Cluster.CLUSTER_PROVIDED
        cluster.cleanup_interval.seconds = _NEVER_SECONDS
        set_inbound_bind(cluster, settings)
    set_connections(
        cluster,
        value.pool,
        connect_timeout=settings.connect_timeout,
        keepalive=settings.tcp_keepalive,
    )
    upstream = upstream_protocol(
        target.protocol, pool=value.pool, sidecar=True, mesh_upgrades=False, outbound=False
    )
    set_http_options(cluster, http_options(upstream, value.pool))
    fields = set_metadata(
        cluster,
        host=target.host,
        name=target.service_name,
        namespace=target.service_namespace,
    )
    if value.config:
        fields["config"].string_value = value.config
    return cluster


def _stat_name(value: TargetClusterInput) -> str:
    target, pattern = value.target, value.settings.stat_name
    if not pattern:
        return f"{inbound_cluster(target.target_port)};"
    return stat_name(
        pattern,
        host=target.host,
        name=target.service_name,
        namespace=target.service_namespace,
        port=target.service_port,
        port_name=target.service_port_name,
        target_port=target.target_port,
    )
