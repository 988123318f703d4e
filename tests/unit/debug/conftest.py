"""A small mesh with two proxies, built by hand, for the debug views."""

from __future__ import annotations

import pytest

from controlplane.ads.status import ConnectionStatus, RejectionStatus, ServingStatus, WatchStatus
from controlplane.debug.views.request import ViewRequest
from controlplane.model.base import FrozenDict, Labels
from controlplane.model.core import KubernetesService, KubernetesServicePort, ServiceSpec
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectMeta, ObjectRef, Provenance
from controlplane.model.names import Host
from controlplane.model.proxy import make_proxy
from controlplane.model.services import (
    Endpoint,
    Protocol,
    Resolution,
    Service,
    ServiceEndpoints,
    ServicePort,
    Workload,
)
from controlplane.model.snapshot import Snapshot
from controlplane.model.targets import TargetIndex
from controlplane.translate import envoy
from controlplane.translate.resources import Common, Resource, ResourceType, serialise
from controlplane.translate.scope import Classifier, ProxyClass

REVIEWS = Host("reviews.default.svc.cluster.local")
CLUSTER = f"outbound|9080||{REVIEWS}"
CDS, EDS, LDS, RDS = (
    ResourceType.CLUSTER.url,
    ResourceType.ENDPOINT.url,
    ResourceType.LISTENER.url,
    ResourceType.ROUTE.url,
)
VIRTUAL_SERVICE = ObjectRef("VirtualService", "default", "reviews")


class OneServiceGenerator:
    """Makes one resource of each type, whatever the class."""

    def __init__(self) -> None:
        self.seen: list[ProxyClass] = []

    def clusters(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        """One EDS cluster."""
        self.seen.append(cls)
        message = envoy.Cluster(name=CLUSTER, type="EDS")
        return (resource(ResourceType.CLUSTER, CLUSTER, message, by_eds=True),)

    def listeners(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        """One listener that asks for route 9080."""
        manager = envoy.HttpConnectionManager(
            stat_prefix="out", rds=envoy.Rds(route_config_name="9080")
        )
        message = envoy.Listener(
            name="0.0.0.0_9080",
            address=envoy.socket_address("0.0.0.0", 9080),
            filter_chains=[
                envoy.FilterChain(
                    filters=[envoy.Filter(name="hcm", typed_config=envoy.pack(manager))]
                )
            ],
        )
        return (
            resource(ResourceType.LISTENER, "0.0.0.0_9080", message, routes=frozenset({"9080"})),
        )

    def route(self, snapshot: Snapshot, cls: ProxyClass, name: str) -> Resource:
        """A route configuration of that name."""
        return resource(ResourceType.ROUTE, name, envoy.RouteConfiguration(name=name))

    def load_assignment(self, snapshot: Snapshot, cls: ProxyClass, cluster_name: str) -> Resource:
        """A load assignment of that name."""
        message = envoy.ClusterLoadAssignment(cluster_name=cluster_name)
        return resource(ResourceType.ENDPOINT, cluster_name, message)

    def diagnostics(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Diagnostic, ...]:
        """One finding about the VirtualService."""
        return (
            Diagnostic(
                level=Level.WARNING,
                code="IST0101",
                message="no such host",
                ref=VIRTUAL_SERVICE,
                field="spec.http[0]",
            ),
        )


def resource(
    kind: ResourceType,
    name: str,
    message: object,
    *,
    by_eds: bool = False,
    routes: frozenset[str] = frozenset(),
) -> Resource:
    """A resource of a message."""
    return Resource.of(Common(kind, by_eds=by_eds, routes=routes), name, serialise(message))


def endpoint(address: str, account: str = "") -> Endpoint:
    """An endpoint on port 9080."""
    workload = Workload(
        namespace="default",
        labels=Labels({"app": "reviews"}),
        service_account=account,
        locality="eu/eu-1/a",
    )
    return Endpoint(address=address, port=9080, workload=workload)


def make_snapshot(*addresses: str, diagnostics: tuple[Diagnostic, ...] = ()) -> Snapshot:
    """The service reviews with these endpoints, read from a file."""
    service = Service(
        host=REVIEWS,
        name="reviews",
        namespace="default",
        ports=(ServicePort(name="http", number=9080, protocol=Protocol.HTTP, target_port=9080),),
        resolution=Resolution.CLIENT_SIDE_LB,
        addresses=("10.96.0.7",),
        selector=Labels({"app": "reviews"}),
        export_to=("*",),
        ref=ObjectRef("Service", "default", "reviews"),
    )
    declared = KubernetesService(
        metadata=ObjectMeta(name="reviews", namespace="default"),
        spec=ServiceSpec(ports=(KubernetesServicePort(port=9080, name="http"),)),
    )
    found = tuple(endpoint(address, "bookinfo") for address in addresses)
    endpoints = FrozenDict({REVIEWS: ServiceEndpoints.of({"http": found})})
    return Snapshot(
        services=(service,),
        service_by_host=FrozenDict({REVIEWS: service}),
        endpoints=endpoints,
        targets=TargetIndex.of(endpoints),
        objects=FrozenDict({declared.ref: declared}),
        provenance=FrozenDict(
            {declared.ref: Provenance("file", "mesh/reviews.yaml", 3, "77", 2, "u-1")}
        ),
        diagnostics=diagnostics,
    )


def connection(
    name: str, ip: str, snapshot: Snapshot, *watches: WatchStatus, number: int = 1
) -> ConnectionStatus:
    """A connected sidecar."""
    namespace = name.rpartition(".")[2]
    proxy = make_proxy(
        f"sidecar~{ip}~{name}~{namespace}.svc.cluster.local",
        {"NAMESPACE": namespace, "ISTIO_VERSION": "1.29.0", "CLUSTER_ID": "east"},
        locality="eu/eu-1/a",
    )
    return ConnectionStatus(
        connection_id=f"{name}-{number}",
        proxy=proxy,
        proxy_class=Classifier(snapshot).classify(proxy),
        peer=f"{ip}:4711",
        connected_at=1_700_000_000.0,
        delta=False,
        watches=FrozenDict({watch.type_url: watch for watch in watches}),
    )


def rejected_routes() -> WatchStatus:
    """RDS whose last response an Envoy refused."""
    return WatchStatus(
        type_url=RDS,
        names=("9080",),
        version_sent="v2",
        version_acked="v1",
        nonce_sent="n2",
        nonce_acked="n1",
        time_sent=1_700_000_001.0,
        last_error="bad regex",
        rejections=(
            RejectionStatus(
                type_url=RDS,
                resource="9080",
                version="v2",
                message="bad regex",
                objects=(VIRTUAL_SERVICE,),
            ),
        ),
    )


@pytest.fixture
def snapshot() -> Snapshot:
    """One service with two endpoints."""
    return make_snapshot("10.0.0.1", "10.0.0.2")


@pytest.fixture
def serving(snapshot: Snapshot) -> ServingStatus:
    """Two proxies: one in sync but for its routes, one that has only just connected."""
    return ServingStatus(
        connections=(
            connection(
                "reviews-1.default",
                "10.0.0.1",
                snapshot,
                WatchStatus(
                    type_url=CDS, wildcard=True, version_sent="c1", version_acked="c1",
                    nonce_sent="n1", nonce_acked="n1",
                ),
                WatchStatus(
                    type_url=EDS, names=(CLUSTER,), version_sent="e2", version_acked="e1",
                    nonce_sent="n9", nonce_acked="n8",
                ),
                rejected_routes(),
            ),
            connection("web-1.other", "10.0.0.9", snapshot, number=2),
        )
    )  # fmt: skip


def ask(snapshot: Snapshot, serving: ServingStatus, **params: str) -> ViewRequest:
    """A question to a view."""
    return ViewRequest(
        snapshot=snapshot, serving=serving, generator=OneServiceGenerator(), params=params
    )
