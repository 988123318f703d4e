"""Objects become services, endpoints and indexes; what did not change stays the same object."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from controlplane.model.assemble import Assembler, make_snapshot
from controlplane.model.base import FrozenDict, Labels
from controlplane.model.core import (
    Container,
    ContainerPort,
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    KubernetesService,
    KubernetesServicePort,
    Namespace,
    Node,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    ServiceSpec,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.diff import diff
from controlplane.model.matching import WorkloadSelector
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectMeta, ObjectRef, Provenance, Record
from controlplane.model.names import Host
from controlplane.model.service_entry import (
    ServiceEntry,
    ServiceEntryPort,
    ServiceEntrySpec,
    WorkloadEntry,
    WorkloadEntrySpec,
)
from controlplane.model.services import Endpoint, Health, Protocol, Resolution
from controlplane.model.snapshot import ServiceTarget, Snapshot

REVIEWS = Host("reviews.default.svc.cluster.local")


def meta(name: str, created: str | None = None, **labels: str) -> ObjectMeta:
    return ObjectMeta(
        name=name, namespace="default", labels=Labels(labels), creation_timestamp=created
    )


def service(
    name: str = "reviews", *, meta_: ObjectMeta | None = None, **spec: object
) -> KubernetesService:
    settings: dict[str, object] = {
        "cluster_ip": "10.1.0.1",
        "ports": (KubernetesServicePort(port=9080, name="http", target_port=8080),),
        "selector": Labels({"app": name}),
        **spec,
    }
    return KubernetesService(metadata=meta_ or meta(name), spec=ServiceSpec(**settings))  # type: ignore[arg-type]  # keywords of a test


def slice_of(*endpoints: SliceEndpoint, name: str = "reviews", suffix: str = "x") -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            name=f"{name}-{suffix}",
            namespace="default",
            labels=Labels({"kubernetes.io/service-name": name}),
        ),
        ports=(EndpointPort(name="http", port=8080),),
        endpoints=endpoints,
    )


def at(
    address: str, *, pod: str = "", node: str = "", zone: str = "", **state: bool
) -> SliceEndpoint:
    return SliceEndpoint(
        addresses=(address,),
        conditions=EndpointConditions(**state),
        target_ref=TargetRef(kind="Pod", name=pod, namespace="default") if pod else None,
        node_name=node or None,
        zone=zone or None,
    )


def pod(
    name: str,
    ip: str,
    *,
    node: str = "",
    ready: str = "True",
    spec: PodSpec | None = None,
    **labels: str,
) -> Pod:
    return Pod(
        metadata=meta(name, **labels),
        spec=spec
        or PodSpec(
            node_name=node,
            service_account_name="sa",
            containers=(Container(ports=(ContainerPort(container_port=7070, name="web"),)),),
        ),
        status=PodStatus(
            phase="Running", pod_ip=ip, conditions=(PodCondition(type="Ready", status=ready),)
        ),
    )


def endpoints(snapshot: Snapshot, host: str = REVIEWS, port: str = "http") -> tuple[Endpoint, ...]:
    return tuple(snapshot.endpoints_of(Host(host)).by_port.get(port, ()))


def addresses(snapshot: Snapshot, host: str = REVIEWS) -> list[str]:
    return [f"{found.address}:{found.port}" for found in endpoints(snapshot, host)]


def test_a_service_of_kubernetes() -> None:
    snapshot = make_snapshot(
        [
            service(
                meta_=ObjectMeta(
                    name="reviews",
                    namespace="default",
                    annotations=Labels({"networking.istio.io/exportTo": "., other"}),
                ),
                internal_traffic_policy="Local",
            )
        ]
    )
    (found,) = snapshot.services
    assert found.host == REVIEWS
    assert found.addresses == ("10.1.0.1",)
    assert found.ports[0].protocol is Protocol.HTTP
    assert found.ports[0].target_port == 8080
    assert found.export_to == (".", "other")
    assert found.node_local
    assert found.ref == ObjectRef("Service", "default", "reviews")
    assert snapshot.service_by_host[REVIEWS] is found


def test_a_headless_service_passes_through() -> None:
    snapshot = make_snapshot([service(cluster_ip="None"), slice_of(at("10.0.0.1"))])
    assert snapshot.services[0].is_headless
    assert snapshot.services[0].addresses == ()
    assert addresses(snapshot) == ["10.0.0.1:8080"]


def test_an_external_name_is_an_alias() -> None:
    snapshot = make_snapshot([service(type="ExternalName", external_name="example.com.")])
    assert snapshot.services[0].resolution is Resolution.ALIAS
    assert snapshot.services[0].alias_of == "example.com"


def test_endpoints_of_all_slices_are_in_order_of_address() -> None:
    snapshot = make_snapshot(
        [
            service(),
            slice_of(at("10.0.0.3"), at("10.0.0.1"), suffix="b"),
            slice_of(at("10.0.0.2"), at("10.0.0.3", ready=False), suffix="a"),
        ]
    )
    assert addresses(snapshot) == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    assert all(found.health is Health.HEALTHY for found in endpoints(snapshot))


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ({}, Health.HEALTHY),
        ({"ready": True}, Health.HEALTHY),
        ({"ready": False}, Health.UNHEALTHY),
        ({"ready": False, "serving": True, "terminating": True}, None),
        ({"ready": False, "serving": False, "terminating": True}, None),
    ],
)
def test_conditions_of_a_slice_decide_on_health(
    state: dict[str, Any], health: Health | None
) -> None:
    snapshot = make_snapshot([service(), slice_of(at("10.0.0.1", **state))])
    assert [found.health for found in endpoints(snapshot)] == ([health] if health else [])


def test_a_service_with_persistent_sessions_drains() -> None:
    sticky = ObjectMeta(
        name="reviews", namespace="default", labels=Labels({"istio.io/persistent-session": "c"})
    )
    state: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
    snapshot = make_snapshot([service(meta_=sticky), slice_of(at("10.0.0.1", **state))])
    assert [found.health for found in endpoints(snapshot)] == [Health.DRAINING]


def test_a_pod_that_shuts_down_keeps_its_inbound_ports() -> None:
    snapshot = make_snapshot(
        [service(), slice_of(at("10.0.0.1", ready=False, serving=True, terminating=True))]
    )
    assert endpoints(snapshot) == ()
    assert snapshot.targets_at("10.0.0.1") == (ServiceTarget(REVIEWS, 9080, "http", 8080),)


def test_addresses_that_are_not_ready_can_be_published() -> None:
    snapshot = make_snapshot(
        [service(publish_not_ready_addresses=True), slice_of(at("10.0.0.1", ready=False))]
    )
    assert [found.health for found in endpoints(snapshot)] == [Health.HEALTHY]


def test_the_pod_behind_an_endpoint_tells_what_it_is() -> None:
    node = Node(
        metadata=ObjectMeta(
            name="n1",
            labels=Labels(
                {
                    "topology.kubernetes.io/region": "r",
                    "topology.kubernetes.io/zone": "z",
                    "topology.istio.io/subzone": "s",
                }
            ),
        )
    )
    labels: dict[str, Any] = {
        "app": "reviews",
        "pod-template-hash": "5d4",
        "security.istio.io/tlsMode": "istio",
        "topology.istio.io/network": "net",
    }
    snapshot = make_snapshot(
        [
            service(),
            slice_of(at("10.0.0.1", pod="reviews-v1-5d4-x", node="n1", zone="other")),
            pod("reviews-v1-5d4-x", "10.0.0.1", node="n1", **labels),
            node,
        ]
    )
    workload = endpoints(snapshot)[0].workload
    assert (workload.name, workload.namespace) == ("reviews-v1", "default")
    assert workload.labels == labels
    assert workload.service_account == "sa"
    assert (workload.node, workload.locality) == ("n1", "r/z/s")
    assert (workload.network, workload.tls_mode) == ("net", "istio")
    assert endpoints(snapshot)[0].source == ObjectRef("Pod", "default", "reviews-v1-5d4-x")


def test_a_label_of_the_pod_overrides_its_locality() -> None:
    labels: dict[str, Any] = {"istio-locality": "r.z"}
    snapshot = make_snapshot(
        [
            service(),
            slice_of(at("10.0.0.1", pod="a")),
            pod("a", "10.0.0.1", **labels),
        ]
    )
    assert endpoints(snapshot)[0].workload.locality == "r/z"


def test_the_zone_of_a_slice_counts_when_the_node_is_unknown() -> None:
    snapshot = make_snapshot([service(), slice_of(at("10.0.0.1", zone="z"))])
    assert endpoints(snapshot)[0].workload.locality == "/z"


def old_endpoints() -> Endpoints:
    return Endpoints(
        metadata=meta("reviews"),
        subsets=(
            EndpointSubset(
                addresses=(EndpointAddress(ip="10.9.0.1"),),
                not_ready_addresses=(EndpointAddress(ip="10.9.0.2"),),
                ports=(EndpointPort(name="http", port=8080),),
            ),
        ),
    )


def test_endpoints_count_only_without_slices() -> None:
    snapshot = make_snapshot([service(), old_endpoints()])
    assert [(found.address, found.health) for found in endpoints(snapshot)] == [
        ("10.9.0.1", Health.HEALTHY),
        ("10.9.0.2", Health.UNHEALTHY),
    ]
    snapshot = make_snapshot([service(), old_endpoints(), slice_of(at("10.0.0.1"))])
    assert addresses(snapshot) == ["10.0.0.1:8080"]


def test_without_slices_the_selector_finds_pods_and_workload_entries() -> None:
    entry = WorkloadEntry(
        metadata=meta("vm"),
        spec=WorkloadEntrySpec(
            address="10.0.0.9",
            labels=Labels({"app": "reviews"}),
            ports=FrozenDict({"http": 7}),
            weight=5,
        ),
    )
    ports = (KubernetesServicePort(port=80, name="http", target_port="web"),)
    snapshot = make_snapshot(
        [
            service(ports=ports),
            pod("a", "10.0.0.1", app="reviews"),
            pod("b", "10.0.0.2", app="reviews", ready="False"),
            pod("c", "10.0.0.3", app="other"),
            pod("d", "", app="reviews"),
            entry,
        ]
    )
    assert [(f.address, f.port, f.health.name, f.weight) for f in endpoints(snapshot)] == [
        ("10.0.0.1", 7070, "HEALTHY", 1),
        ("10.0.0.2", 7070, "UNHEALTHY", 1),
        ("10.0.0.9", 7, "HEALTHY", 5),
    ]


def entry_of(
    name: str = "ext", host: str = "example.com", created: str | None = None, **spec: object
) -> ServiceEntry:
    settings: dict[str, object] = {
        "hosts": (host,),
        "ports": (ServiceEntryPort(number=80, name="http", protocol="HTTP"),),
        **spec,
    }
    return ServiceEntry(metadata=meta(name, created), spec=ServiceEntrySpec(**settings))  # type: ignore[arg-type]  # keywords of a test


def test_a_static_service_entry() -> None:
    item = entry_of(
        hosts=("a.com", "b.com"),
        addresses=("240.0.0.1",),
        resolution="STATIC",
        ports=(ServiceEntryPort(number=80, name="http", protocol="HTTP", target_port=8080),),
        endpoints=(
            WorkloadEntrySpec(address="1.1.1.2", ports=FrozenDict({"http": 9000})),
            WorkloadEntrySpec(address="1.1.1.1", locality="r/z", weight=3),
            WorkloadEntrySpec(address="unix:///tmp/socket"),
        ),
    )
    snapshot = make_snapshot([item])
    assert [found.host for found in snapshot.services] == ["a.com", "b.com"]
    first = snapshot.services[0]
    assert (first.resolution, first.provider, first.external) == (
        Resolution.CLIENT_SIDE_LB, "External", True,
    )  # fmt: skip
    assert first.addresses == ("240.0.0.1",)
    assert addresses(snapshot, "a.com") == ["/tmp/socket:0", "1.1.1.1:8080", "1.1.1.2:9000"]
    assert addresses(snapshot, "b.com") == addresses(snapshot, "a.com")


@pytest.mark.parametrize(
    ("resolution", "expected", "found"),
    [
        ("NONE", Resolution.PASSTHROUGH, []),
        ("DNS", Resolution.DNS_LB, ["example.com:80"]),
        ("DNS_ROUND_ROBIN", Resolution.DNS_ROUND_ROBIN_LB, ["example.com:80"]),
    ],
)
def test_the_resolution_of_a_service_entry(
    resolution: str, expected: Resolution, found: list[str]
) -> None:
    snapshot = make_snapshot([entry_of(resolution=resolution)])
    assert snapshot.services[0].resolution is expected
    assert addresses(snapshot, "example.com") == found


def test_a_service_entry_selects_workloads_of_its_namespace() -> None:
    item = entry_of(
        resolution="STATIC", workload_selector=WorkloadSelector(labels=Labels({"app": "a"}))
    )
    far = WorkloadEntry(
        metadata=ObjectMeta(name="far", namespace="other"),
        spec=WorkloadEntrySpec(address="9.9.9.9", labels=Labels({"app": "a"})),
    )
    snapshot = make_snapshot([item, pod("p", "10.0.0.1", app="a"), far])
    assert addresses(snapshot, "example.com") == ["10.0.0.1:80"]


def test_the_oldest_object_has_a_host_and_the_other_is_told() -> None:
    young = entry_of("young", REVIEWS, "2024-02-01T00:00:00Z")
    old = service(meta_=meta("reviews", "2024-01-01T00:00:00Z"))
    origin = Provenance("file", "a.yaml", 7)
    snapshot = make_snapshot([young, old], provenance={young.ref: origin})
    assert snapshot.service_by_host[REVIEWS].provider == "Kubernetes"
    (found,) = (entry for entry in snapshot.diagnostics if entry.code == "DuplicateHost")
    assert (found.ref, found.file, found.line) == (young.ref, "a.yaml", 7)
    assert "Service default/reviews" in found.message

    older = entry_of("young", REVIEWS, "2023-02-01T00:00:00Z")
    assert make_snapshot([older, old]).service_by_host[REVIEWS].provider == "External"


def test_pods_are_found_by_address() -> None:
    host_network = PodSpec(host_network=True)
    snapshot = make_snapshot(
        [
            pod("a", "10.0.0.1"),
            pod("aa", "10.0.0.1", spec=host_network),
            structs.replace(
                pod("done", "10.0.0.2"), status=PodStatus(phase="Succeeded", pod_ip="10.0.0.2")
            ),
        ]
    )
    assert {ip: found.metadata.name for ip, found in snapshot.pods_by_ip.items()} == {
        "10.0.0.1": "a"
    }


def test_an_address_in_several_services_has_all_their_targets() -> None:
    snapshot = make_snapshot(
        [
            service("a"),
            service("b"),
            slice_of(at("10.0.0.1"), name="a"),
            slice_of(at("10.0.0.1"), name="b"),
        ]
    )
    assert [target.host.partition(".")[0] for target in snapshot.targets_at("10.0.0.1")] == [
        "a", "b",
    ]  # fmt: skip


BIG: list[Object] = [
    item
    for number in range(20)
    for item in (
        service(f"s{number}"),
        slice_of(at(f"10.0.{number}.1", pod=f"p{number}", node="n1"), name=f"s{number}"),
        pod(f"p{number}", f"10.0.{number}.1", app=f"s{number}", node="n1"),
    )
]


def test_what_did_not_change_is_the_same_object() -> None:
    first = make_snapshot(BIG)
    again = make_snapshot(list(reversed(BIG)), previous=first)
    for field in Snapshot.__struct_fields__:
        assert getattr(again, field) is getattr(first, field), field


def test_one_changed_slice_changes_one_service() -> None:
    assembler = Assembler()
    assembler.apply([Record.of(item) for item in BIG])
    before = assembler.snapshot()
    assembler.apply([Record.of(slice_of(at("10.7.7.7"), name="s3"))])
    after = assembler.snapshot()
    change = diff(before, after)
    assert change.endpoints == {"s3.default.svc.cluster.local"}
    assert change.only_endpoints
    assert after.services is before.services
    assert not after.targets_at("10.0.3.1")
    assert after.targets_at("10.7.7.7")[0].host == "s3.default.svc.cluster.local"
    assert before.targets_at("10.0.3.1")


STEPS: dict[str, Object] = {
    "a pod gets labels": pod("p1", "10.0.1.1", app="s1", version="v2", node="n1"),
    "a node gets a zone": Node(
        metadata=ObjectMeta(name="n1", labels=Labels({"topology.kubernetes.io/zone": "z"}))
    ),
    "a service changes its port": service(
        "s2", ports=(KubernetesServicePort(port=1, name="http"),)
    ),
    "a slice moves to another service": EndpointSlice(
        metadata=ObjectMeta(
            name="s4-x",
            namespace="default",
            labels=Labels({"kubernetes.io/service-name": "s5"}),
        ),
        ports=(EndpointPort(name="http", port=8080),),
        endpoints=(at("10.8.8.8"),),
    ),
    "a namespace gets labels": Namespace(metadata=ObjectMeta(name="default", labels=Labels(a="b"))),
    "an older entry takes a host": entry_of(
        "e", "s6.default.svc.cluster.local", "1960-01-01T00:00:00Z"
    ),
    "a workload entry comes": WorkloadEntry(
        metadata=meta("vm"), spec=WorkloadEntrySpec(address="10.6.6.6", labels=Labels(app="s7"))
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_step_by_step_gives_what_building_anew_gives(step: str) -> None:
    without = [item for item in BIG if item.ref.name != "s7-x"]  # s7 goes by its selector
    assembler = Assembler()
    assembler.apply([Record.of(item) for item in without])
    before = assembler.snapshot()
    item = STEPS[step]
    assembler.apply([Record.of(item)])
    after = assembler.snapshot()
    known = {entry.ref: entry for entry in without} | {item.ref: item}
    assert after == make_snapshot(known.values())
    assert after != before

    old = {entry.ref: entry for entry in without}.get(item.ref)
    if old is None:
        assembler.apply([], [item.ref])
    else:
        assembler.apply([Record.of(old)])
    assert assembler.snapshot() == before


def test_a_removed_object_leaves_nothing_behind() -> None:
    assembler = Assembler()
    assembler.apply([Record.of(item, Provenance("file", "a.yaml", 1)) for item in BIG])
    assembler.snapshot()
    assembler.apply([], [item.ref for item in BIG])
    left = assembler.snapshot()
    assert left == make_snapshot([])


def test_new_settings_of_the_mesh_change_everything_behind() -> None:
    assembler = Assembler()
    before = assembler.snapshot()
    assembler.set_mesh(MeshConfig(root_namespace="other"))
    after = assembler.snapshot()
    assert diff(before, after).full
    assembler.set_mesh(MeshConfig(root_namespace="other"))
    assert not diff(after, assembler.snapshot())
