"""Which clusters a proxy class has, and everything that each is made of.

Owns the choice: visible services, ports, subsets, discovery types, wire order. Must not know
Envoy's messages. The rule that is easy to break: an input holds endpoints only where the
cluster's own bytes do (DNS clusters), or every endpoint change would rebuild clusters.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Final

from controlplane.model.base import Duration, Model
from controlplane.model.destination_rule import TcpKeepalive, TrafficPolicy
from controlplane.model.destination_rules import (
    NO_POLICY,
    MergedRule,
    port_policy,
    subset_policy,
    with_mesh_defaults,
)
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectRef
from controlplane.model.names import (
    BLACK_HOLE_CLUSTER,
    PASSTHROUGH_CLUSTER,
    ClusterName,
    config_path,
    outbound_cluster,
)
from controlplane.model.port_endpoints import workloads
from controlplane.model.services import (
    NO_ENDPOINTS,
    Protocol,
    Resolution,
    Service,
    ServiceEndpoints,
    ServicePort,
)
from controlplane.model.snapshot import Snapshot, visible
from controlplane.translate.cluster_policy import is_passthrough
from controlplane.translate.endpoints import EndpointFilter, endpoint_filter, subset_origin
from controlplane.translate.filters import METADATA_EXCHANGE
from controlplane.translate.localities import is_weighted
from controlplane.translate.resources import Origin
from controlplane.translate.scope import InboundClass, OutboundClass
from controlplane.translate.tls import spiffe_id

NO_FILTER: Final = EndpointFilter()


class Discovery(enum.Enum):
    """How the endpoints of a cluster come to it; the value is Envoy's name."""

    STATIC = "STATIC"
    STRICT_DNS = "STRICT_DNS"
    LOGICAL_DNS = "LOGICAL_DNS"
    EDS = "EDS"
    ORIGINAL_DST = "ORIGINAL_DST"
    DYNAMIC_DNS = "DYNAMIC_DNS"

    @property
    def is_dns(self) -> bool:
        """Whether the endpoints are part of the cluster."""
        return self in (Discovery.STRICT_DNS, Discovery.LOGICAL_DNS)


class MutualTls(enum.Enum):
    """Whether a cluster speaks Istio's mutual TLS."""

    NEVER = enum.auto()
    AUTO = enum.auto()  # to those endpoints that take it
    ALWAYS = enum.auto()


class ClusterSettings(Model):
    """What all clusters of a proxy class share: facts of the class and of the mesh."""

    connect_timeout: Duration
    dns_refresh_rate: Duration
    sidecar: bool = True
    ipv4: bool = True
    ipv6: bool = False
    serves_secrets: bool = False
    metadata_exchange: bool = False
    tcp_keepalive: TcpKeepalive | None = None
    upgrades_to_http2: bool = False
    stat_name: str = ""


class FixedClusterInput(Model):
    """BlackHoleCluster, PassthroughCluster or InboundPassthroughCluster."""

    name: ClusterName
    settings: ClusterSettings


class ServiceClusterInput(Model, cache_hash=False):
    """The cluster of one service port, or of a subset of it."""

    name: ClusterName
    settings: ClusterSettings
    service: Service
    port: ServicePort
    discovery: Discovery
    subset: str = ""
    policy: TrafficPolicy = NO_POLICY
    rule: MergedRule | None = None  # of whose policy it is, and that the metadata names
    locality_weighted: bool = False
    mutual_tls: MutualTls = MutualTls.NEVER
    identities: tuple[str, ...] = ()  # of the endpoints, when mutual TLS checks them
    endpoints: ServiceEndpoints = NO_ENDPOINTS
    filter: EndpointFilter = NO_FILTER

    @property
    def config(self) -> str:
        """The `istio.config` metadata: the oldest object of the rule."""
        rule = self.rule
        return "" if rule is None else _config(rule.ref)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the cluster comes from; spelt out when somebody asks."""
        own, rule = Origin("", self.service.ref), self.rule
        return (own,) if rule is None else (own, *_declared(rule, self.subset))


ClusterInput = ServiceClusterInput | FixedClusterInput


def cluster_settings(
    mesh: MeshConfig, cls: OutboundClass | InboundClass, *, stat_name: str
) -> ClusterSettings:
    """Return what the clusters of a class share."""
    return ClusterSettings(
        sidecar=not isinstance(cls, OutboundClass) or not cls.is_router,
        ipv4=cls.ipv4,
        ipv6=cls.ipv6,
        serves_secrets=cls.serves_secrets,
        metadata_exchange=METADATA_EXCHANGE in cls.extensions,
        connect_timeout=mesh.connect_timeout,
        dns_refresh_rate=mesh.dns_refresh_rate,
        tcp_keepalive=mesh.tcp_keepalive,
        upgrades_to_http2=mesh.h2_upgrade_policy == "UPGRADE",
        stat_name=stat_name,
    )


def outbound_cluster_inputs(snapshot: Snapshot, cls: OutboundClass) -> tuple[ClusterInput, ...]:
    """Return the outbound clusters of a class in wire order.

    For each visible service, in the order of the snapshot, each port's cluster and then its
    subsets; then BlackHoleCluster and, for sidecars, PassthroughCluster.
    """
    return (
        *service_cluster_inputs(snapshot, cls, snapshot.services),
        *fixed_cluster_inputs(snapshot, cls),
    )


def service_cluster_inputs(
    snapshot: Snapshot, cls: OutboundClass, services: Iterable[Service]
) -> Iterator[ServiceClusterInput]:
    """Yield the clusters of those of some services that a class sees."""
    mesh = snapshot.mesh
    settings = cluster_settings(mesh, cls, stat_name=mesh.outbound_cluster_stat_name)
    for service in services:
        export_to = service.export_to or mesh.default_service_export_to
        if service.resolution is Resolution.ALIAS or not visible(
            export_to, service.namespace, cls.namespace
        ):
            continue
        rule = snapshot.rules.lookup(
            service.host, client_namespace=cls.namespace, service_namespace=service.namespace
        )
        maker = _Maker(snapshot, cls, service=service, rule=rule, settings=settings)
        for port in service.ports:
            if port.protocol is not Protocol.UDP:
                yield from maker.clusters(port)


def fixed_cluster_inputs(snapshot: Snapshot, cls: OutboundClass) -> Iterator[FixedClusterInput]:
    """Yield the clusters of a class that belong to no service."""
    mesh = snapshot.mesh
    settings = cluster_settings(mesh, cls, stat_name=mesh.outbound_cluster_stat_name)
    yield FixedClusterInput(name=BLACK_HOLE_CLUSTER, settings=settings)
    if settings.sidecar:
        yield FixedClusterInput(name=PASSTHROUGH_CLUSTER, settings=settings)


class _Maker:
    """Makes the cluster inputs of one service for one class."""

    __slots__ = ("_cls", "_rule", "_service", "_settings", "_snapshot")

    def __init__(
        self,
        snapshot: Snapshot,
        cls: OutboundClass,
        *,
        service: Service,
        rule: MergedRule | None,
        settings: ClusterSettings,
    ) -> None:
        self._snapshot = snapshot
        self._cls = cls
        self._service = service
        self._rule = rule
        self._settings = settings

    def clusters(self, port: ServicePort) -> Iterator[ServiceClusterInput]:
        """Yield the cluster of a port, then those of its subsets."""
        rule, service = self._rule, self._service
        base = port_policy(rule.traffic_policy, port.number) if rule is not None else NO_POLICY
        discovery = _discovery(service, sidecar=self._settings.sidecar)
        if is_passthrough(base):
            discovery = Discovery.ORIGINAL_DST
        yield self._cluster(port, "", policy=base, discovery=discovery)
        if rule is None or discovery is Discovery.DYNAMIC_DNS:
            return
        for subset in rule.subsets:
            policy = subset_policy(rule, subset.name, port.number)
            yield self._cluster(
                port,
                subset.name,
                policy=policy,
                discovery=Discovery.ORIGINAL_DST if is_passthrough(policy) else discovery,
            )

    def _cluster(
        self, port: ServicePort, subset: str, *, policy: TrafficPolicy, discovery: Discovery
    ) -> ServiceClusterInput:
        service, mesh = self._service, self._snapshot.mesh
        policy = with_mesh_defaults(policy, mesh)
        mutual = self._mutual_tls(port, policy)
        endpoints, wanted = NO_ENDPOINTS, NO_FILTER
        if discovery.is_dns:
            endpoints = self._snapshot.endpoints_of(service.host)
            wanted = endpoint_filter(
                self._snapshot,
                self._cls,
                service,
                rule=self._rule,
                subset=subset,
                port=port.number,
                names=True,
            )
        return ServiceClusterInput(
            name=outbound_cluster(port.number, subset, service.host),
            settings=self._settings,
            service=service,
            port=port,
            discovery=discovery,
            subset=subset,
            policy=policy,
            rule=self._rule,
            locality_weighted=is_weighted(policy, mesh),
            mutual_tls=mutual,
            identities=self._identities() if mutual is not MutualTls.NEVER else (),
            endpoints=endpoints,
            filter=wanted,
        )

    def _mutual_tls(self, port: ServicePort, policy: TrafficPolicy) -> MutualTls:
        if not self._settings.serves_secrets:
            return MutualTls.NEVER
        if policy.tls is not None:
            return MutualTls.ALWAYS if policy.tls.mode == "ISTIO_MUTUAL" else MutualTls.NEVER
        service = self._service
        if service.external or not self._snapshot.mesh.enable_auto_mtls:
            return MutualTls.NEVER
        if service.resolution is Resolution.PASSTHROUGH or is_passthrough(policy):
            # There is no endpoint to match a socket by: all must take mTLS, or none is asked to.
            found = self._snapshot.endpoints_of(service.host).at(port.name)
            if not found or any(item.tls_mode != "istio" for item in workloads(found)):
                return MutualTls.NEVER
        return MutualTls.AUTO

    def _identities(self) -> tuple[str, ...]:
        mesh, service = self._snapshot.mesh, self._service
        domains = (mesh.trust_domain, *mesh.trust_domain_aliases)
        accounts = {
            (workload.namespace, workload.service_account)
            for found in self._snapshot.endpoints_of(service.host).groups
            for workload in workloads(found)
            if workload.service_account
        }
        return tuple(
            sorted(
                {spiffe_id(domain, *account) for account in accounts for domain in domains}
                | set(service.subject_alt_names)
            )
        )


def _config(ref: ObjectRef) -> str:
    return config_path("DestinationRule", ref.namespace, ref.name)


def _declared(rule: MergedRule, subset: str) -> tuple[Origin, ...]:
    """Return what of a DestinationRule a cluster is made of."""
    origins = []
    if rule.policy_ref is not None:
        origins.append(Origin("", rule.policy_ref, "spec.trafficPolicy"))
    declared = subset_origin(rule, subset)
    if declared is not None:
        origins.append(declared)
    if not origins:
        # Its name is in the metadata even where it only declares subsets.
        origins.append(Origin("metadata", rule.ref))
    return tuple(origins)


def _discovery(service: Service, *, sidecar: bool) -> Discovery:
    match service.resolution:
        case Resolution.DNS_LB:
            return Discovery.STRICT_DNS
        case Resolution.DNS_ROUND_ROBIN_LB:
            return Discovery.LOGICAL_DNS
        case Resolution.DYNAMIC_DNS:
            return Discovery.DYNAMIC_DNS
        case Resolution.PASSTHROUGH if sidecar:
            return Discovery.ORIGINAL_DST
        case _:
            return Discovery.EDS
