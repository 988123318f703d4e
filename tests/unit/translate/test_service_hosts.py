"""What is remembered of services changes no virtual host, and a VirtualService changes little."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from controlplane.model.destination_rule import (
    ConsistentHashLB,
    DestinationRule,
    DestinationRuleSpec,
    LoadBalancerSettings,
    TrafficPolicy,
)
from controlplane.model.destination_rules import DestinationRules
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.names import Host
from controlplane.model.proxy import ProxyType
from controlplane.model.services import Protocol, Resolution, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import (
    Destination,
    HTTPMatchRequest,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualService,
    VirtualServiceSpec,
)
from controlplane.model.virtual_services import VirtualServices
from controlplane.translate.scope import OutboundClass
from controlplane.translate.service_hosts import ServiceHosts, Shared
from controlplane.translate.sidecar_routes import SidecarRoutes

CLIENT = OutboundClass(
    type=ProxyType.SIDECAR, namespace="shop", dns_domain="shop.svc.cluster.local"
)
HOSTS = (
    *(
        f"{name}.{place}.svc.cluster.local"
        for name in ("cart", "pay")
        for place in ("shop", "bank")
    ),
    "cart",  # also what clients of its namespace call a service
    "cart.shop",  # also a short name of a service
    "example.com",
    "Example.com",
    "10.0.0.1",
)


def make_service(
    host: str, *, address: str = "", port: int = 80, protocol: Protocol = Protocol.HTTP,
    alias_of: str | None = None,
) -> Service:  # fmt: skip
    return Service(
        host=Host(host),
        name=host,
        namespace="shop",
        ports=(ServicePort(name="web", number=port, protocol=protocol),),
        addresses=(address,) if address else (),
        resolution=Resolution.CLIENT_SIDE_LB if alias_of is None else Resolution.ALIAS,
        alias_of=Host(alias_of) if alias_of is not None else None,
        ref=ObjectRef("Service", "shop", host),
    )


def make_rule(
    name: str, hosts: tuple[str, ...], *, path: str = "", port: int = 0
) -> VirtualService:
    match = (HTTPMatchRequest(name=path, port=port),) if path or port else ()
    route = HTTPRoute(
        match=match, route=(HTTPRouteDestination(destination=Destination(host=hosts[0])),)
    )
    return VirtualService(
        metadata=ObjectMeta(name=name, namespace="shop"),
        spec=VirtualServiceSpec(hosts=hosts, http=(route,)),
    )


def make_affinity(host: str) -> DestinationRule:
    balancer = LoadBalancerSettings(consistent_hash=ConsistentHashLB(http_header_name="user"))
    return DestinationRule(
        metadata=ObjectMeta(name="affine", namespace="shop"),
        spec=DestinationRuleSpec(host=host, traffic_policy=TrafficPolicy(load_balancer=balancer)),
    )


def make_snapshot(services: tuple[Service, ...], rules: tuple[VirtualService, ...]) -> Snapshot:
    return Snapshot(
        services=services,
        service_by_host={service.host: service for service in services},
        virtual_services=rules,
        routing=VirtualServices.build(rules, MeshConfig(), "cluster.local"),
    )


services_of_any_kind = st.lists(
    st.builds(
        make_service,
        st.sampled_from(HOSTS),
        address=st.sampled_from(("", "10.0.0.1", "10.0.0.2")),
        port=st.sampled_from((80, 81)),
        protocol=st.sampled_from((Protocol.HTTP, Protocol.TCP)),
        alias_of=st.sampled_from((None, None, None, HOSTS[0])),
    ),
    max_size=6,
    unique_by=lambda service: service.host,
).map(tuple)
some_hosts = st.lists(
    st.sampled_from((*HOSTS, "*.svc.cluster.local", "*.com", "elsewhere.org", "cart")),
    min_size=1,
    max_size=3,
).map(tuple)
rules_of_any_kind = st.lists(
    st.builds(
        make_rule,
        st.sampled_from("abcdef"),
        some_hosts,
        path=st.sampled_from(("", "one")),
        port=st.sampled_from((0, 80, 99)),
    ),
    max_size=4,
    unique_by=lambda rule: rule.metadata.name,
).map(tuple)


@settings(max_examples=300, deadline=None)
@given(services_of_any_kind, st.lists(rules_of_any_kind, min_size=2, max_size=4))
def test_the_short_way_and_the_long_way_end_at_the_same_virtual_hosts(
    services: tuple[Service, ...], changes: list[tuple[VirtualService, ...]]
) -> None:
    first = make_snapshot(services, ())
    hosts = ServiceHosts(first, CLIENT)
    for rules in changes:
        snapshot = structs.replace(first, routing=make_snapshot((), rules).routing)
        assert hosts.fits(snapshot)
        for port in (80, 81):
            found = SidecarRoutes(snapshot, CLIENT, hosts).port(port)
            with mock.patch.object(ServiceHosts, "defaults", return_value=None):
                assert found == SidecarRoutes(snapshot, CLIENT).port(port)
        assert SidecarRoutes(snapshot, CLIENT, hosts).all_ports() == (
            SidecarRoutes(snapshot, CLIENT).all_ports()
        )


def test_rules_that_come_go_and_change_are_put_in_without_looking_at_others() -> None:
    services = tuple(make_service(f"s{index}.shop.svc.cluster.local") for index in range(5))
    none = make_snapshot(services, ())
    hosts = ServiceHosts(none, CLIENT)
    usual = SidecarRoutes(none, CLIENT, hosts).port(80)
    for rules in (
        (make_rule("b", (services[1].host,)),),
        (make_rule("b", (services[1].host,), path="x"), make_rule("c", (services[2].host,))),
        (make_rule("a", (services[2].host,), path="x"), make_rule("c", (services[2].host,))),
        (),
    ):
        snapshot = structs.replace(none, routing=make_snapshot((), rules).routing)
        with mock.patch.object(SidecarRoutes, "_ruled", side_effect=AssertionError):
            found = SidecarRoutes(snapshot, CLIENT, hosts).port(80)
        assert found == SidecarRoutes(snapshot, CLIENT).port(80)
    assert found == usual


def test_services_without_a_common_domain_are_shared_out_once() -> None:
    services = tuple(make_service(f"s{index}.shop.svc.cluster.local") for index in range(5))
    one = make_snapshot(services, (make_rule("a", (services[1].host,)),))
    two = structs.replace(
        one,
        routing=VirtualServices.build(
            (make_rule("a", (services[2].host,), path="x"),), one.mesh, "cluster.local"
        ),
    )
    hosts = ServiceHosts(one, CLIENT)
    before = {value.name: value for value in SidecarRoutes(one, CLIENT, hosts).port(80)}
    after = {value.name: value for value in SidecarRoutes(two, CLIENT, hosts).port(80)}
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if value is not before[name]}
    assert changed == {f"s{index}.shop.svc.cluster.local:80" for index in (1, 2)}


@settings(max_examples=100, deadline=None)
@given(services_of_any_kind, rules_of_any_kind, st.sampled_from(HOSTS), st.booleans())
def test_what_is_taken_over_from_an_earlier_snapshot_is_what_would_be_made(
    services: tuple[Service, ...], rules: tuple[VirtualService, ...], host: str, hidden: bool
) -> None:
    first = make_snapshot(services, rules)
    mesh = MeshConfig(default_service_export_to=(".",)) if hidden else MeshConfig()
    second = structs.replace(
        first,
        mesh=mesh,
        rules=DestinationRules.build([make_affinity(host)], mesh),
    )
    before = ServiceHosts(first, CLIENT)
    for port in (80, 81):
        SidecarRoutes(first, CLIENT, before).port(port)
    after = ServiceHosts(second, CLIENT, before)
    for port in (80, 81):
        found = SidecarRoutes(second, CLIENT, after).port(port)
        assert found == SidecarRoutes(second, CLIENT).port(port)


@settings(max_examples=300, deadline=None)
@given(services_of_any_kind)
def test_classes_that_see_the_same_get_what_each_would_get_alone(
    services: tuple[Service, ...],
) -> None:
    snapshot, shared = make_snapshot(services, ()), Shared()
    for place in ("bank", "shop", "elsewhere", "x.svc.other.org", "plain"):
        domain = "no.kubernetes" if place == "plain" else f"{place}.svc.cluster.local"
        cls = structs.replace(CLIENT, namespace=place, dns_domain=domain)
        together = ServiceHosts(snapshot, cls, shared=shared, alike="")
        alone = ServiceHosts(snapshot, cls)
        for port in (80, 81):
            assert together.defaults(port) == alone._claim_all(port, far=False)


def test_a_destination_rule_changes_the_virtual_hosts_of_its_service_alone() -> None:
    services = tuple(make_service(f"s{index}.shop.svc.cluster.local") for index in range(3))
    first = make_snapshot(services, ())
    second = structs.replace(
        first, rules=DestinationRules.build([make_affinity(services[1].host)], first.mesh)
    )
    before = ServiceHosts(first, CLIENT)
    old = SidecarRoutes(first, CLIENT, before).port(80)
    new = SidecarRoutes(second, CLIENT, ServiceHosts(second, CLIENT, before)).port(80)
    assert [one is two for one, two in zip(old, new, strict=True)] == [True, False, True]


def test_another_mesh_or_another_service_fits_no_more() -> None:
    services = (make_service("cart.shop.svc.cluster.local"),)
    snapshot = make_snapshot(services, ())
    hosts = ServiceHosts(snapshot, CLIENT)
    assert hosts.fits(structs.replace(snapshot, endpoints={}))
    assert not hosts.fits(structs.replace(snapshot, mesh=MeshConfig(root_namespace="other")))
    assert not hosts.fits(make_snapshot((*services, make_service("pay.shop")), ()))
