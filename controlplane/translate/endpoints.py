"""Load assignments: the endpoints of one cluster, by locality.

Owns which endpoints a cluster has and their bytes (Istio's xds/endpoints). Must not know how
clusters are configured otherwise. The rule that is easy to break: what the
endpoints of a workload share is serialised once and joined to the address of each, so everything
that it depends on is in the key of `_shared`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final

from controlplane.model.base import NO_LABELS, FrozenDict, Labels, Model, one
from controlplane.model.destination_rules import MergedRule, subset_policy, with_mesh_defaults
from controlplane.model.meta import ObjectRef
from controlplane.model.names import ClusterName, outbound_cluster, parse_cluster
from controlplane.model.services import (
    NO_ENDPOINTS,
    Endpoint,
    Health,
    Resolution,
    Service,
    ServiceEndpoints,
    Workload,
)
from controlplane.model.snapshot import Snapshot, selects, visible
from controlplane.translate import envoy
from controlplane.translate.localities import (
    Group,
    LocalitySettings,
    arrange,
    locality_settings,
    parse_place,
)
from controlplane.translate.resources import (
    Common,
    Origin,
    Resource,
    ResourceType,
    Translated,
    length_delimited,
    serialise,
    varint,
)
from controlplane.translate.scope import OutboundClass

# How many workloads keep the bytes of their endpoints; only what is being built needs them.
_WORKLOADS_KEPT: Final = 1024
_MAX_WEIGHT: Final = 0xFFFFFFFF
# Field numbers of ClusterLoadAssignment, LocalityLbEndpoints and UInt32Value.
_CLUSTER_NAME, _LOCALITIES = 1, 2
_LOCALITY, _LB_ENDPOINTS, _WEIGHT, _PRIORITY = 1, 2, 3, 5
_VALUE: Final = b"\x08"
# Those of LbEndpoint, Endpoint, Address, SocketAddress and Pipe.
_ENDPOINT, _ADDRESS, _SOCKET, _PIPE, _SOCKET_ADDRESS, _PORT_VALUE, _PATH = 1, 1, 1, 2, 2, 3, 1
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)


class EndpointFilter(Model):
    """Which endpoints of a service port a cluster has, and how they are presented."""

    subset: Labels = NO_LABELS
    node: str | None = None  # only endpoints of this node (internalTrafficPolicy: Local)
    unhealthy: bool = True  # endpoints that are not ready are sent too
    mutual_tls: bool = True  # endpoints say that they take Istio's mTLS
    names: bool = False  # DNS names are endpoints as well (DNS clusters)
    localities: LocalitySettings | None = None


class LoadAssignmentInput(Model, cache_hash=False):
    """Everything that a load assignment is made of. An unknown cluster has no endpoints."""

    cluster: ClusterName
    endpoints: ServiceEndpoints = NO_ENDPOINTS
    port_name: str = ""
    filter: EndpointFilter = EndpointFilter()
    service: ObjectRef | None = None
    subset: Origin | None = None

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the load assignment and its endpoints come from; spelt out when somebody asks."""
        chosen = choose(self.endpoints, self.port_name, self.filter)
        return _origins(self, [members for _, members, _ in _arranged(chosen, self.filter)])


def load_assignment_input(
    snapshot: Snapshot, cls: OutboundClass, cluster_name: str
) -> LoadAssignmentInput:
    """Return the input of a cluster's load assignment as a proxy class sees it.

    A cluster that does not exist, or whose service the class does not see, has no endpoints.
    """
    found = _found(snapshot, cls, cluster_name)
    return found if found is not None else LoadAssignmentInput(cluster=ClusterName(cluster_name))


def _found(snapshot: Snapshot, cls: OutboundClass, cluster_name: str) -> LoadAssignmentInput | None:
    parts = parse_cluster(cluster_name)
    if parts is None or parts.direction != "outbound":
        return None
    service = snapshot.service_by_host.get(parts.host)
    if service is None or not visible(
        service.export_to or snapshot.mesh.default_service_export_to,
        service.namespace,
        cls.namespace,
    ):
        return None
    port = service.port(parts.port)
    if port is None or service.resolution is Resolution.ALIAS:
        return None
    rule = snapshot.rules.lookup(
        service.host, client_namespace=cls.namespace, service_namespace=service.namespace
    )
    if parts.subset and (rule is None or rule.subset(parts.subset) is None):
        return None
    return LoadAssignmentInput(
        cluster=ClusterName(cluster_name),
        endpoints=snapshot.endpoints_of(service.host),
        port_name=port.name,
        filter=endpoint_filter(
            snapshot, cls, service, rule=rule, subset=parts.subset, port=parts.port
        ),
        service=service.ref,
        subset=subset_origin(rule, parts.subset),
    )


def endpoint_filter(
    snapshot: Snapshot,
    cls: OutboundClass,
    service: Service,
    *,
    rule: MergedRule | None,
    subset: str,
    port: int,
    names: bool = False,
) -> EndpointFilter:
    """Return which endpoints of a service port belong to one of its clusters."""
    policy = with_mesh_defaults(subset_policy(rule, subset, port), snapshot.mesh)
    outlier, tls = policy.outlier_detection, policy.tls
    found = rule.subset(subset) if rule is not None and subset else None
    wanted = EndpointFilter(
        subset=(found.labels or NO_LABELS) if found is not None else NO_LABELS,
        node=cls.node_name if service.node_local else None,
        # Envoy's panic mode would send requests to endpoints that are not ready.
        unhealthy=outlier is None or not outlier.min_health_percent,
        mutual_tls=tls is None or tls.mode == "ISTIO_MUTUAL",
        names=names,
        localities=locality_settings(policy, snapshot.mesh, cls.locality),
    )
    return one(wanted)  # most clusters have the same


def subset_origin(rule: MergedRule | None, subset: str) -> Origin | None:
    """Return the object and field that declare a subset."""
    if rule is None or not subset:
        return None
    for declared, origin in zip(rule.subsets, rule.subset_origins, strict=True):
        if declared.name == subset:
            return Origin("", origin.ref, origin.field)
    return None


def build_load_assignment(value: LoadAssignmentInput) -> Translated:
    """Return the ClusterLoadAssignment of an input, without endpoints when it has none."""
    chosen = choose(value.endpoints, value.port_name, value.filter)
    body = assignment_body(value.cluster, chosen, value.filter)
    common = _SHORT if len(body) < _LONG else _deflated()
    return Resource.of(common, value.cluster, body, made_of=value)


_LONG: Final = 256  # bytes of a load assignment that is worth deflating
_SHORT: Final = Common(ResourceType.ENDPOINT)


@functools.cache
def _deflated() -> Common:
    """Return how long load assignments are kept: their endpoints have nearly all in common."""
    workload = Workload(name="app-v1-0", namespace="default", labels=FrozenDict({"app": "app"}))
    endpoint = Endpoint(address="10.0.0.1", port=8080, workload=workload)
    cluster = outbound_cluster(8080, "", "app.default.svc.cluster.local")
    return Common(
        ResourceType.ENDPOINT, dictionary=assignment_body(cluster, [endpoint], EndpointFilter())
    )


def choose(
    endpoints: ServiceEndpoints, port_name: str, wanted: EndpointFilter
) -> tuple[Endpoint, ...]:
    """Return the endpoints of a service port that a cluster has, in their own order."""
    found = endpoints.at(port_name)
    return tuple([endpoint for endpoint in found if _belongs(endpoint, wanted)])


def _belongs(endpoint: Endpoint, wanted: EndpointFilter) -> bool:
    if endpoint.health is Health.UNHEALTHY and not wanted.unhealthy:
        return False
    if wanted.subset and not selects(wanted.subset, endpoint.workload.labels):
        return False
    if wanted.node is not None and endpoint.workload.node != wanted.node:
        return False
    return wanted.names or not endpoint.port or _is_ip(endpoint.address)


def _is_ip(address: str) -> bool:
    if _IPV4.fullmatch(address):
        return True
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def assignment_body(cluster: str, endpoints: Iterable[Endpoint], wanted: EndpointFilter) -> bytes:
    """Return a ClusterLoadAssignment's bytes."""
    parts = [length_delimited(_CLUSTER_NAME, cluster.encode())]
    parts += (
        length_delimited(_LOCALITIES, _locality_body(label, members, group, wanted.mutual_tls))
        for label, members, group in _arranged(endpoints, wanted)
    )
    return b"".join(parts)


def _arranged(
    endpoints: Iterable[Endpoint], wanted: EndpointFilter
) -> Iterator[tuple[str, list[Endpoint], Group]]:
    """Yield localities with their endpoints, in the order of their labels as Istio sends them."""
    by_locality: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_locality.setdefault(endpoint.workload.locality, []).append(endpoint)
    groups = _groups(by_locality, wanted.localities)
    for label in sorted(by_locality):
        group = groups[label]
        yield label, [] if group.empty else by_locality[label], group


def _groups(
    by_locality: dict[str, list[Endpoint]], settings: LocalitySettings | None
) -> dict[str, Group]:
    weights = {
        label: min(sum(endpoint.weight for endpoint in members), _MAX_WEIGHT)
        for label, members in by_locality.items()
    }
    if settings is None:
        return {label: Group(0, weight) for label, weight in weights.items()}
    return arrange(weights, settings)


def _locality_body(label: str, members: list[Endpoint], group: Group, mutual_tls: bool) -> bytes:
    parts = [_locality(label)]
    parts += [_lb_endpoint(endpoint, mutual_tls) for endpoint in members]
    parts.append(length_delimited(_WEIGHT, _VALUE + varint(group.weight)))
    if group.priority:
        parts.append(varint(_PRIORITY << 3) + varint(group.priority))
    return b"".join(parts)


@functools.lru_cache(maxsize=4096)
def _locality(label: str) -> bytes:
    """Return one `locality` field, key and length included."""
    place = parse_place(label)
    message = envoy.Locality(region=place.region, zone=place.zone, sub_zone=place.subzone)
    return length_delimited(_LOCALITY, serialise(message))


def _lb_endpoint(endpoint: Endpoint, mutual_tls: bool) -> bytes:
    """Return one `lb_endpoints` field, key and length included.

    What endpoints of a workload share is serialised once; the address goes before it.
    """
    port, address = endpoint.port, endpoint.address.encode()
    if port:
        text = length_delimited(_SOCKET_ADDRESS, address) + _port(port)
        place = length_delimited(_SOCKET, text)
    else:
        place = length_delimited(_PIPE, length_delimited(_PATH, address))
    own = length_delimited(_ENDPOINT, length_delimited(_ADDRESS, place))
    shared = _shared(endpoint.health, endpoint.weight, endpoint.workload, mutual_tls)
    return length_delimited(_LB_ENDPOINTS, own + shared)


@functools.lru_cache(maxsize=4096)
def _port(port: int) -> bytes:
    return varint(_PORT_VALUE << 3) + varint(port)


@functools.lru_cache(maxsize=_WORKLOADS_KEPT)
def _shared(health: Health, weight: int, workload: Workload, mutual_tls: bool) -> bytes:
    """Return the fields of an LbEndpoint that come after its address."""
    message = envoy.LbEndpoint(
        health_status=int(health),
        load_balancing_weight=envoy.UInt32Value(value=weight),
    )
    metadata = message.metadata.filter_metadata
    if mutual_tls and workload.tls_mode == "istio":
        metadata["envoy.transport_socket_match"].update({"tlsMode": "istio"})
    metadata["istio"].update({"workload": _workload(workload)})
    return serialise(message)


def _workload(workload: Workload) -> str:
    """Return Istio's five telemetry facts; the default revision `latest` is left out."""
    labels = workload.labels
    name = next((labels[key] for key in _CANONICAL_NAME if labels.get(key)), workload.name)
    revision = next((labels[key] for key in _CANONICAL_REVISION if labels.get(key)), "")
    return ";".join(
        (
            workload.name,
            workload.namespace,
            name,
            "" if revision == "latest" else revision,
            workload.cluster,
        )
    )


def _origins(value: LoadAssignmentInput, ordered: list[list[Endpoint]]) -> tuple[Origin, ...]:
    origins = [Origin("", value.service)] if value.service is not None else []
    if value.subset is not None:
        origins.append(value.subset)
    origins += [
        Origin(_part(place, index), endpoint.source)
        for place, members in enumerate(ordered)
        for index, endpoint in enumerate(members)
        if endpoint.source is not None
    ]
    return tuple(origins)


@functools.lru_cache(maxsize=4096)
def _part(place: int, index: int) -> str:
    return f"endpoints[{place}].lb_endpoints[{index}]"


_CANONICAL_NAME: Final = (
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
)
_CANONICAL_REVISION: Final = (
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
)
