"""Load assignments: what is in them, and that their joined bytes are Envoy's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.base import FrozenDict, Labels
from controlplane.model.meta import ObjectRef
from controlplane.model.names import ClusterName, Host
from controlplane.model.proxy import ProxyType
from controlplane.model.services import (
    Endpoint,
    Health,
    Protocol,
    Service,
    ServiceEndpoints,
    ServicePort,
    Workload,
)
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.endpoints import (
    EndpointFilter,
    LoadAssignmentInput,
    build_load_assignment,
    load_assignment_input,
)
from controlplane.translate.resources import Origin, Resource, serialise
from controlplane.translate.scope import OutboundClass

HOST = Host("reviews.default.svc.cluster.local")
CLS = OutboundClass(
    type=ProxyType.SIDECAR, namespace="default", dns_domain="default.svc.cluster.local"
)


def endpoint(address: str, **workload: str) -> Endpoint:
    return Endpoint(
        address=address,
        port=9080,
        workload=Workload(**workload),  # type: ignore[arg-type]
        source=ObjectRef("Pod", "default", address),
    )


def snapshot(*endpoints: Endpoint, export_to: tuple[str, ...] = ()) -> Snapshot:
    service = Service(
        host=HOST,
        name="reviews",
        namespace="default",
        ports=(ServicePort(name="http", number=9080, protocol=Protocol.HTTP),),
        export_to=export_to,
        ref=ObjectRef("Service", "default", "reviews"),
    )
    by_port: FrozenDict[str, Sequence[Endpoint]] = FrozenDict(
        {"http": endpoints, "other": (endpoint("10.9.9.9"),)}
    )
    return Snapshot(
        services=(service,),
        service_by_host=FrozenDict({HOST: service}),
        endpoints=FrozenDict({HOST: ServiceEndpoints.of(by_port)}),
    )


def assignment(world: Snapshot, cluster: str = f"outbound|9080||{HOST}") -> Resource:
    made = build_load_assignment(load_assignment_input(world, CLS, cluster)).resource
    assert made is not None
    return made


def decode(resource: Resource) -> envoy.ClusterLoadAssignment:
    return envoy.ClusterLoadAssignment.FromString(resource.body)


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "BlackHoleCluster",
        "inbound|9080||",
        f"outbound|9081||{HOST}",
        f"outbound|9080|v9|{HOST}",
        "outbound|9080||gone.default.svc.cluster.local",
    ],
)
def test_an_unknown_cluster_has_an_empty_assignment(name: str) -> None:
    made = assignment(snapshot(endpoint("10.0.0.1")), name)
    assert made.name == name
    assert decode(made) == envoy.ClusterLoadAssignment(cluster_name=name)


def test_a_service_that_is_not_exported_has_an_empty_assignment() -> None:
    made = assignment(snapshot(endpoint("10.0.0.1"), export_to=("shop",)))
    assert not decode(made).endpoints


def test_only_addresses_of_the_ports_name_and_no_dns_names_are_endpoints() -> None:
    made = decode(assignment(snapshot(endpoint("10.0.0.1"), endpoint("db.example.com"))))
    found = [
        item.endpoint.address.socket_address.address for item in made.endpoints[0].lb_endpoints
    ]
    assert found == ["10.0.0.1"]


def test_every_endpoint_knows_its_object() -> None:
    world = snapshot(endpoint("10.0.0.1", locality="eu/b"), endpoint("10.0.0.2", locality="eu/a"))
    assert assignment(world).origins == (
        Origin("", ObjectRef("Service", "default", "reviews")),
        Origin("endpoints[0].lb_endpoints[0]", ObjectRef("Pod", "default", "10.0.0.2")),
        Origin("endpoints[1].lb_endpoints[0]", ObjectRef("Pod", "default", "10.0.0.1")),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Endpoint,
            address=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
            port=st.sampled_from([0, 80, 65535]),
            health=st.sampled_from(Health),
            weight=st.integers(1, 4294967295),
            workload=st.builds(
                Workload,
                name=st.text(max_size=3),
                locality=st.sampled_from(["", "eu", "eu/a", "us/b/2"]),
                tls_mode=st.sampled_from(["istio", "disabled"]),
                labels=st.sampled_from([Labels(), Labels({"app": "x", "version": "latest"})]),
            ),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_joined_bytes_are_what_protobuf_itself_would_write(
    endpoints: list[Endpoint], mutual_tls: bool
) -> None:
    made = build_load_assignment(
        LoadAssignmentInput(
            cluster=ClusterName("c"),
            endpoints=ServiceEndpoints.of({"http": tuple(endpoints)}),
            port_name="http",
            filter=EndpointFilter(mutual_tls=mutual_tls),
        )
    ).resource
    assert made is not None
    message = decode(made)
    assert serialise(message) == made.body
    assert sum(len(group.lb_endpoints) for group in message.endpoints) == len(endpoints)
    for group in message.endpoints:
        weights = [item.load_balancing_weight.value for item in group.lb_endpoints]
        assert group.load_balancing_weight.value == min(sum(weights), 4294967295)
