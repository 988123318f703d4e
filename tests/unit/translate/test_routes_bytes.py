"""Route configurations as bytes: joined, not serialised again; named, hashed and traced."""

from __future__ import annotations

import random

import msgspec

from controlplane.model.base import Labels, dec_hook
from controlplane.model.diagnostics import Level
from controlplane.model.mesh import MeshConfig, OutboundTrafficPolicy
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.names import Host, RouteName
from controlplane.model.proxy import ProxyType
from controlplane.model.services import Protocol, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import (
    Destination,
    HTTPMatchRequest,
    HTTPRetry,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualService,
    VirtualServiceSpec,
)
from controlplane.model.virtual_services import VirtualServices
from controlplane.translate import envoy
from controlplane.translate.inbound_route import inbound_route
from controlplane.translate.resources import Translated, length_delimited, serialise
from controlplane.translate.routes import RouteInput, join_route, route_input
from controlplane.translate.scope import InboundTarget, OutboundClass
from controlplane.translate.virtual_hosts import (
    RefuseContent,
    VirtualHostInput,
    alternate_names,
    build_virtual_host,
)

CLIENT = OutboundClass(
    type=ProxyType.SIDECAR, namespace="default", dns_domain="default.svc.cluster.local"
)
BATCH = OutboundClass(
    type=ProxyType.SIDECAR,
    namespace="default",
    dns_domain="default.svc.cluster.local",
    labels=Labels({"tier": "batch"}),
)


def service(
    name: str, *, address: str = "", protocol: Protocol = Protocol.HTTP, port: int = 9080
) -> Service:
    return Service(
        host=Host(f"{name}.default.svc.cluster.local"),
        name=name,
        namespace="default",
        ports=(ServicePort(name="http", number=port, protocol=protocol),),
        addresses=(address,) if address else (),
        ref=ObjectRef("Service", "default", name),
    )


def rule(name: str, host: str, *routes: HTTPRoute, created: str | None = None) -> VirtualService:
    return VirtualService(
        metadata=ObjectMeta(name=name, namespace="default", creation_timestamp=created),
        spec=VirtualServiceSpec(hosts=(host,), http=routes),
    )


def to(host: str, *matches: HTTPMatchRequest) -> HTTPRoute:
    return HTTPRoute(
        match=matches, route=(HTTPRouteDestination(destination=Destination(host=host)),)
    )


def snapshot(
    *services: Service, rules: tuple[VirtualService, ...] = (), mesh: MeshConfig | None = None
) -> Snapshot:
    mesh = mesh or MeshConfig()
    return Snapshot(
        mesh=mesh,
        services=services,
        service_by_host={item.host: item for item in services},
        virtual_services=rules,
        routing=VirtualServices.build(rules, mesh, "cluster.local"),
    )


def route(snap: Snapshot, name: str = "9080", *, cls: OutboundClass = CLIENT) -> Translated:
    value = route_input(snap, cls, name)
    return join_route(value, tuple(build_virtual_host(host) for host in value.virtual_hosts))


def parsed(translated: Translated) -> envoy.RouteConfiguration:
    assert translated.resource is not None
    return envoy.RouteConfiguration.FromString(translated.resource.body)


def test_the_join_is_what_serialising_the_whole_gives() -> None:
    snap = snapshot(
        *(service(f"s{number:03}") for number in range(200)),
        rules=(rule("r", "s001", to("s002", HTTPMatchRequest(name="m")), to("s003")),),
    )
    joined = parsed(route(snap))
    value = route_input(snap, CLIENT, "9080")
    whole = envoy.RouteConfiguration(
        name="9080",
        validate_clusters=envoy.BoolValue(value=False),
        max_direct_response_body_size_bytes=envoy.UInt32Value(value=1024 * 1024),
        ignore_port_in_host_matching=True,
    )
    for host in value.virtual_hosts:
        made = build_virtual_host(host)
        part = envoy.RouteConfiguration.FromString(made.beginning + made.tail)
        whole.virtual_hosts.extend(part.virtual_hosts)
    assert len(whole.virtual_hosts) == 201
    assert joined == whole
    assert serialise(joined) == serialise(whole)


def test_domains_are_kept_without_the_host_that_the_name_begins_with() -> None:
    for host, domains in {
        "a.one.svc.cluster.local": "a.one.svc.cluster.local a.one.svc.cluster.local. a.one",
        "a": "a a. a.a.example banana 10.0.0.1",
        "[fd00::1]": "[fd00::1] [fd00::1]:80",
        "*": "*",
    }.items():
        made = VirtualHostInput.of(f"{host}:80", domains, RefuseContent())
        assert host not in made.kept
        assert made.text == domains
        assert made == VirtualHostInput.of(f"{host}:80", domains, RefuseContent())
    assert VirtualHostInput.of("block_all", "*", RefuseContent()).domains == ["*"]


def test_a_frame_is_one_virtual_host() -> None:
    made = build_virtual_host(
        VirtualHostInput.of(name="block_all", text="*", content=RefuseContent())
    )
    framed = made.beginning + made.tail
    (host,) = envoy.RouteConfiguration.FromString(framed).virtual_hosts
    assert framed == length_delimited(2, serialise(host))
    assert host.routes[0].direct_response.status == 502


def test_the_virtual_hosts_of_services_keep_once_what_they_have_alike() -> None:
    mesh = MeshConfig(default_http_retry_policy=HTTPRetry(attempts=3, retry_on="reset"))
    snap = snapshot(service("a"), service("longer-name", address="10.0.0.1"), mesh=mesh)
    first, second, _ = map(build_virtual_host, route_input(snap, CLIENT, "9080").virtual_hosts)
    assert first.tail is second.tail
    assert b"reset" in first.tail
    assert first.digest != second.digest
    for name, made in (("a", first), ("longer-name", second)):
        framed = made.beginning + made.tail
        (host,) = envoy.RouteConfiguration.FromString(framed).virtual_hosts
        full = f"{name}.default.svc.cluster.local"
        assert host.name == f"{full}:9080"
        assert host.domains[:2] == [full, f"{full}."]
        assert host.include_request_attempt_count
        (only,) = host.routes
        assert (only.name, only.match.prefix) == ("default", "/")
        assert only.decorator.operation == f"{full}:9080/*"
        assert only.route.cluster == f"outbound|9080||{full}"
        assert only.route.HasField("timeout")
        assert only.route.retry_policy.num_retries.value == 3


def test_equal_inputs_are_equal_keys_whatever_the_order_of_objects() -> None:
    services = [service(name, address=f"10.0.0.{index}") for index, name in enumerate("abcdef", 1)]
    rules = [
        rule("new", "a", to("b"), created="2025-01-01T00:00:00Z"),
        rule("old", "a", to("c"), created="2024-01-01T00:00:00Z"),
        rule("other", "d", to("e")),
    ]
    first = route_input(snapshot(*services, rules=tuple(rules)), CLIENT, "9080")
    chance = random.Random(7)
    for _ in range(10):
        chance.shuffle(rules)
        again = route_input(snapshot(*services, rules=tuple(rules)), CLIENT, "9080")
        assert again == first
        assert hash(again) == hash(first)


def test_an_unknown_name_gets_an_empty_configuration() -> None:
    for name in ("nonsense", "0", "70000", "a:b", "http.80", ""):
        message = parsed(route(snapshot(service("a")), name))
        assert message.name == name
        assert not message.virtual_hosts
        assert message.validate_clusters.value is False
        assert not message.ignore_port_in_host_matching


def test_a_port_without_services_has_the_catch_all_alone() -> None:
    message = parsed(route(snapshot(service("a")), "1234"))
    assert [host.name for host in message.virtual_hosts] == ["allow_any"]


def test_origins_name_services_and_the_entry_of_a_virtual_service() -> None:
    snap = snapshot(service("a"), service("b"), rules=(rule("r", "a", to("b")),))
    translated = route(snap)
    assert translated.resource is not None
    origins = {
        (origin.part, str(origin.ref), origin.field) for origin in translated.resource.origins
    }
    part = "virtual_hosts[a.default.svc.cluster.local:9080]"
    assert (part, "Service default/a", "") in origins
    assert (f"{part}.routes[0]", "VirtualService default/r", "spec.http[0]") in origins
    default = "virtual_hosts[b.default.svc.cluster.local:9080]"
    assert (f"{default}.routes[0]", "Service default/b", "") in origins


def test_a_rule_without_a_route_for_the_proxy_yields_to_the_next_and_then_to_the_service() -> None:
    batch = HTTPMatchRequest(source_labels=Labels({"tier": "batch"}))
    first = rule("first", "a", to("b", batch), created="2024-01-01T00:00:00Z")
    second = rule("second", "a", to("c"), created="2025-01-01T00:00:00Z")
    services = (service("a"), service("b"), service("c"))

    def cluster(rules: tuple[VirtualService, ...], cls: OutboundClass) -> str:
        message = parsed(route(snapshot(*services, rules=rules), cls=cls))
        name = "a.default.svc.cluster.local:9080"
        (host,) = [item for item in message.virtual_hosts if item.name == name]
        found: str = host.routes[0].route.cluster
        return found

    assert "||b." in cluster((first, second), BATCH)
    assert "||c." in cluster((first, second), CLIENT)
    assert "||a." in cluster((first,), CLIENT)


def test_labels_of_the_proxy_are_no_key_where_no_match_reads_them() -> None:
    snap = snapshot(service("a"), rules=(rule("r", "a", to("a")),))
    assert route_input(snap, CLIENT, "9080") == route_input(snap, BATCH, "9080")


def test_two_services_on_one_address_do_not_claim_it_twice() -> None:
    message = parsed(
        route(snapshot(service("a", address="10.0.0.1"), service("b", address="10.0.0.1")))
    )
    domains = [domain for host in message.virtual_hosts for domain in host.domains]
    assert domains.count("10.0.0.1") == 1
    assert len(domains) == len(set(domains))
    assert "10.0.0.1" in message.virtual_hosts[0].domains


def test_ports_that_carry_no_http_have_no_virtual_host() -> None:
    snap = snapshot(
        service("tcp", protocol=Protocol.TCP), service("any", protocol=Protocol.UNSUPPORTED)
    )
    names = [host.name for host in parsed(route(snap)).virtual_hosts]
    assert names == ["any.default.svc.cluster.local:9080", "allow_any"]
    assert not parsed(route(snap, "tcp.default.svc.cluster.local:9080")).virtual_hosts


def test_dynamic_dns_falls_back_and_says_so() -> None:
    mesh = MeshConfig(outbound_traffic_policy=OutboundTrafficPolicy(mode="ALLOW_ANY_DYNAMIC_DNS"))
    translated = route(snapshot(mesh=mesh))
    assert [host.name for host in parsed(translated).virtual_hosts] == ["allow_any"]
    (diagnostic,) = translated.diagnostics
    assert diagnostic.level is Level.WARNING
    assert "ALLOW_ANY_DYNAMIC_DNS" in diagnostic.message


def test_an_egress_proxy_takes_the_place_of_passing_through() -> None:
    policy = {"egressProxy": {"host": "egress.example", "port": {"number": 3128}}}
    mesh = MeshConfig(
        outbound_traffic_policy=msgspec.convert(policy, OutboundTrafficPolicy, dec_hook=dec_hook)
    )
    (host,) = parsed(route(snapshot(mesh=mesh))).virtual_hosts
    assert host.routes[0].route.cluster == "outbound|3128||egress.example"


def test_names_of_other_domains_are_not_shortened() -> None:
    domain = "default.svc.cluster.local"
    assert alternate_names("a.example.com", domain) == ("a.example.com.",)
    assert alternate_names("10.0.0.1", domain) == ()
    assert alternate_names("a.b.svc.other.domain", domain) == ("a.b.svc.other.domain.",)
    assert alternate_names("a.b.svc.cluster.local", "") == ("a.b.svc.cluster.local.",)


def test_an_empty_input_joins_to_its_name() -> None:
    translated = join_route(RouteInput(name=RouteName("x"), known=False), ())
    assert parsed(translated).name == "x"


def target(protocol: Protocol) -> InboundTarget:
    return InboundTarget(
        target_port=8080,
        host=Host("a.default.svc.cluster.local"),
        service_port=80,
        service_port_name="http",
        protocol=protocol,
        service_name="a",
        service_namespace="default",
    )


def test_the_inbound_route_leads_to_the_target_port_without_any_timeout() -> None:
    message = inbound_route(target(Protocol.HTTP))
    assert message.name == "inbound|8080||"
    (host,) = message.virtual_hosts
    assert (host.name, list(host.domains)) == ("inbound|http|80", ["*"])
    (only,) = host.routes
    assert only.decorator.operation == "a.default.svc.cluster.local:80/*"
    action = only.route
    assert action.cluster == "inbound|8080||"
    assert action.HasField("timeout")
    assert action.timeout.ToNanoseconds() == 0
    assert action.max_stream_duration.HasField("grpc_timeout_header_max")
    assert action.retry_policy.retry_on == "reset-before-request"
    assert action.retry_policy.num_retries.value == 2


def test_grpc_is_not_retried_on_the_way_in() -> None:
    (host,) = inbound_route(target(Protocol.GRPC)).virtual_hosts
    assert not host.routes[0].route.HasField("retry_policy")
