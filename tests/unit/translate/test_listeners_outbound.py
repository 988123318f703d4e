"""Outbound listeners: who shares one, who loses, and what makes one new."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.model.base import Duration, FrozenDict
from controlplane.model.destination_rule import (
    ConnectionPoolSettings,
    ConsistentHashLB,
    DestinationRule,
    DestinationRuleSpec,
    LoadBalancerSettings,
    TCPSettings,
    TrafficPolicy,
)
from controlplane.model.destination_rules import DestinationRules
from controlplane.model.matching import JsonObject
from controlplane.model.mesh import EgressProxy, MeshConfig, OutboundTrafficPolicy
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.names import Host
from controlplane.model.proxy import ProxyType
from controlplane.model.services import (
    Endpoint,
    Health,
    Protocol,
    Resolution,
    Service,
    ServiceEndpoints,
    ServicePort,
)
from controlplane.model.snapshot import Snapshot
from controlplane.translate.listeners import (
    build_listener,
    outbound_conflicts,
    outbound_listener_inputs,
)
from controlplane.translate.outbound_listeners import HttpChain, OutboundListenerInput, TcpChain
from controlplane.translate.resources import Resource
from controlplane.translate.scope import OutboundClass

SIDECAR = OutboundClass(
    type=ProxyType.SIDECAR, namespace="default", dns_domain="default.svc.cluster.local"
)
NOT_CAPTURED = msgspec.structs.replace(SIDECAR, interception_mode="NONE")


def service(name: str, *ports: ServicePort, **fields: Any) -> Service:
    host = Host(fields.pop("host", f"{name}.default.svc.cluster.local"))
    namespace = fields.pop("namespace", "default")
    return Service(
        host=host,
        name=name,
        namespace=namespace,
        ports=ports,
        ref=ObjectRef("Service", namespace, name),
        **fields,
    )


def entry(host: str, *ports: ServicePort, **fields: Any) -> Service:
    return service(
        host.partition(".")[0],
        *ports,
        host=host,
        provider="External",
        **{"resolution": Resolution.DNS_LB, **fields},
    )


def http(number: int) -> ServicePort:
    return ServicePort(name="http", number=number, protocol=Protocol.HTTP)


def tcp(number: int, protocol: Protocol = Protocol.TCP) -> ServicePort:
    return ServicePort(name="tcp", number=number, protocol=protocol)


def detected(number: int) -> ServicePort:
    return ServicePort(name="", number=number, protocol=Protocol.UNSUPPORTED)


def mesh_of(*services: Service, **fields: Any) -> Snapshot:
    return Snapshot(
        services=services,
        service_by_host=FrozenDict({each.host: each for each in services}),
        **fields,
    )


def inputs(snapshot: Snapshot, cls: OutboundClass = SIDECAR) -> dict[str, OutboundListenerInput]:
    found = outbound_listener_inputs(snapshot, cls)
    return {
        f"{value.bind}_{value.port}": value
        for value in found
        if isinstance(value, OutboundListenerInput)
    }


def losers(value: OutboundListenerInput) -> list[str]:
    return [diagnostic.ref.name for diagnostic in value.conflicts if diagnostic.ref is not None]


def routes(value: OutboundListenerInput) -> list[str]:
    return [chain.route for chain in value.chains if isinstance(chain, HttpChain)]


def clusters(value: OutboundListenerInput) -> list[str]:
    return [chain.cluster for chain in value.chains if isinstance(chain, TcpChain)]


def resource(value: OutboundListenerInput) -> Resource:
    made = build_listener(value).resource
    assert made is not None
    return made


def test_another_http_service_on_a_port_leaves_its_listener_alone() -> None:
    one = mesh_of(service("a", http(80)))
    two = mesh_of(service("a", http(80)), service("b", http(80)))
    assert inputs(one) == inputs(two)


def test_a_tcp_service_on_the_port_of_http_services_has_its_own_listener() -> None:
    found = inputs(
        mesh_of(
            service("web", http(80), addresses=("10.0.0.1",)),
            service("db", tcp(80), addresses=("10.0.0.2",)),
        )
    )
    assert list(found) == ["0.0.0.0_80", "10.0.0.2_80"]
    assert not any(value.conflicts for value in found.values())


def test_of_two_tcp_services_on_one_address_the_older_wins() -> None:
    (value,) = inputs(
        mesh_of(
            service("old", tcp(80), addresses=("10.0.0.2",)),
            service("new", tcp(80), addresses=("10.0.0.2",)),
        )
    ).values()
    assert clusters(value) == ["outbound|80||old.default.svc.cluster.local"]
    assert losers(value) == ["new"]


def test_tcp_joins_http_on_the_wildcard_as_the_default_chain() -> None:
    (value,) = inputs(mesh_of(service("web", http(80)), entry("x.com", tcp(80)))).values()
    made = resource(value)
    assert made.routes == {"80"}
    assert made.clusters == {"outbound|80||x.com"}
    assert [origin.part for origin in made.origins] == ["filter_chains[0]", "default_filter_chain"]
    assert not value.conflicts


def test_a_detected_service_joins_http_on_the_wildcard_with_its_tcp_chain_only() -> None:
    (value,) = inputs(mesh_of(service("web", http(80)), entry("x.com", detected(80)))).values()
    assert routes(value) == ["80"]
    assert clusters(value) == ["outbound|80||x.com"]


def test_a_detected_service_joins_tcp_on_the_wildcard_with_routes() -> None:
    (value,) = inputs(
        mesh_of(entry("a.com", tcp(80, Protocol.TLS)), entry("b.com", detected(80)))
    ).values()
    assert routes(value) == ["80"]
    assert clusters(value) == ["outbound|80||a.com", "outbound|80||b.com"]


def test_http_after_a_detected_service_on_the_wildcard_shares_its_routes() -> None:
    (value,) = inputs(mesh_of(entry("x.com", detected(80)), service("web", http(80)))).values()
    assert routes(value) == ["80"]
    assert not value.conflicts


def test_without_capture_a_detected_service_replaces_the_http_services_of_its_port() -> None:
    snapshot = mesh_of(service("a", http(80)), service("b", http(80)), service("c", detected(80)))
    (value,) = inputs(snapshot, NOT_CAPTURED).values()
    assert routes(value) == ["c.default.svc.cluster.local:80"]
    assert losers(value) == ["a", "b"]


def test_without_capture_http_after_a_detected_service_loses() -> None:
    snapshot = mesh_of(service("c", detected(80)), service("a", http(80)))
    (value,) = inputs(snapshot, NOT_CAPTURED).values()
    assert losers(value) == ["a"]


@pytest.mark.parametrize("first_is_http", [True, False])
def test_without_capture_http_and_tcp_cannot_share_a_port(first_is_http: bool) -> None:
    pair = (service("web", http(80)), service("db", tcp(80)))
    snapshot = mesh_of(*(pair if first_is_http else reversed(pair)))
    (value,) = inputs(snapshot, NOT_CAPTURED).values()
    assert losers(value) == ["db" if first_is_http else "web"]
    assert len(value.chains) == 1


@pytest.mark.parametrize("protocol", [Protocol.MONGO, Protocol.MYSQL])
def test_a_server_first_protocol_never_shares_a_listener_that_detects(protocol: Protocol) -> None:
    (value,) = inputs(mesh_of(service("web", http(80)), entry("m.com", tcp(80, protocol)))).values()
    assert losers(value) == ["m"]
    assert routes(value) == ["80"]
    (other,) = inputs(mesh_of(entry("m.com", tcp(80, protocol)), service("web", http(80)))).values()
    assert losers(other) == ["web"]
    assert len(other.chains) == 1


def test_equal_networks_conflict_whatever_their_host_bits() -> None:
    (value,) = inputs(
        mesh_of(
            entry("a.com", tcp(80), addresses=("10.1.0.0/16",)),
            entry("b.com", tcp(80), addresses=("10.1.2.3/16",)),
        )
    ).values()
    assert losers(value) == ["b"]
    assert len(value.chains) == 1


def test_all_addresses_of_a_service_entry_are_listened_on() -> None:
    found = inputs(mesh_of(entry("a.com", tcp(80), addresses=("10.1.0.1", "10.1.0.2", "::1"))))
    assert list(found) == ["10.1.0.1_80", "10.1.0.2_80"]


def test_a_proxy_of_ipv6_uses_addresses_of_ipv6() -> None:
    cls = msgspec.structs.replace(SIDECAR, ipv4=False, ipv6=True)
    found = inputs(mesh_of(service("a", tcp(80), http(81), addresses=("10.0.0.1", "fd00::1"))), cls)
    assert list(found) == ["fd00::1_80", "::_81"]


def test_an_unexported_service_has_no_listener_elsewhere() -> None:
    private = service("a", http(80), namespace="other", export_to=(".",))
    assert inputs(mesh_of(private)) == {}
    shared = service("a", http(80), namespace="other", export_to=("default",))
    assert list(inputs(mesh_of(shared))) == ["0.0.0.0_80"]
    mesh = MeshConfig(default_service_export_to=(".",))
    unsaid = service("a", http(80), namespace="other")
    assert inputs(mesh_of(unsaid, mesh=mesh)) == {}


def test_aliases_and_udp_ports_have_no_listener() -> None:
    alias = service("a", http(80), resolution=Resolution.ALIAS, alias_of=Host("b.com"))
    assert inputs(mesh_of(alias, service("dns", tcp(53, Protocol.UDP)))) == {}


def test_a_headless_service_skips_the_proxy_itself_and_unhealthy_endpoints() -> None:
    db = service("db", tcp(80), resolution=Resolution.PASSTHROUGH)
    endpoints = ServiceEndpoints.of(
        {
            "tcp": (
                Endpoint(address="10.0.0.1", port=80),
                Endpoint(address="10.0.0.2", port=80),
                Endpoint(address="10.0.0.3", port=80, health=Health.UNHEALTHY),
            )
        }
    )
    snapshot = mesh_of(db, endpoints=FrozenDict({db.host: endpoints}))
    cls = msgspec.structs.replace(SIDECAR, own_headless=("10.0.0.1",))
    assert list(inputs(snapshot, cls)) == ["10.0.0.2_80"]
    assert inputs(mesh_of(db)) == {}


def test_a_service_entry_without_endpoints_listens_on_the_wildcard() -> None:
    found = inputs(mesh_of(entry("a.com", tcp(80), resolution=Resolution.PASSTHROUGH)))
    assert list(found) == ["0.0.0.0_80"]


@pytest.mark.parametrize("port", [15001, 15006, 15021, 15090])
def test_ports_of_the_proxy_are_left_out_with_a_diagnostic(port: int) -> None:
    snapshot = mesh_of(service("a", http(port)), service("b", tcp(port), addresses=("10.0.0.1",)))
    assert list(inputs(snapshot)) == [f"10.0.0.1_{port}"]
    (problem,) = outbound_conflicts(snapshot, SIDECAR)
    assert problem.ref == ObjectRef("Service", "default", "a")
    assert problem.field == "spec.ports[0]"


def test_an_unprivileged_proxy_without_capture_opens_no_low_ports() -> None:
    cls = msgspec.structs.replace(NOT_CAPTURED, unprivileged=True)
    snapshot = mesh_of(service("a", http(80), http(8080)))
    assert list(inputs(snapshot, cls)) == ["127.0.0.1_8080"]
    assert [problem.field for problem in outbound_conflicts(snapshot, cls)] == ["spec.ports[0]"]


def test_a_server_name_that_envoy_rejects_costs_only_its_own_service() -> None:
    snapshot = mesh_of(
        entry("*-eu.example.com", tcp(443, Protocol.TLS)),
        entry("good.example.com", tcp(443, Protocol.TLS)),
    )
    (value,) = inputs(snapshot).values()
    assert clusters(value) == ["outbound|443||good.example.com"]
    (problem,) = outbound_conflicts(snapshot, SIDECAR)
    assert "*-eu.example.com" in problem.message


def test_tls_with_an_address_needs_no_server_name() -> None:
    snapshot = mesh_of(entry("a.com", tcp(443, Protocol.TLS), addresses=("10.1.0.1",)))
    (chain,) = inputs(snapshot)["10.1.0.1_443"].chains
    assert isinstance(chain, TcpChain)
    assert chain.server_names == ()


def test_a_destination_rule_limits_tcp_connections() -> None:
    rule = DestinationRule(
        metadata=ObjectMeta(name="db", namespace="default"),
        spec=DestinationRuleSpec(
            host="db",
            traffic_policy=TrafficPolicy(
                connection_pool=ConnectionPoolSettings(
                    tcp=TCPSettings(
                        idle_timeout=Duration.parse("5s"),
                        max_connection_duration=Duration.parse("60s"),
                    )
                ),
                load_balancer=LoadBalancerSettings(
                    consistent_hash=ConsistentHashLB(use_source_ip=True)
                ),
            ),
        ),
    )
    mesh = MeshConfig()
    snapshot = mesh_of(
        service("db", tcp(80), addresses=("10.0.0.1",)),
        rules=DestinationRules.build([rule], mesh),
        mesh=mesh,
    )
    value = inputs(snapshot)["10.0.0.1_80"]
    (chain,) = value.chains
    assert isinstance(chain, TcpChain)
    assert (str(chain.idle_timeout), str(chain.max_duration)) == ("5s", "60s")
    assert chain.hash_source_ip
    assert rule.ref in [origin.ref for origin in resource(value).origins]


def test_unknown_destinations_go_to_the_egress_proxy() -> None:
    policy = OutboundTrafficPolicy(
        egress_proxy=EgressProxy(host="egress.com", port=JsonObject({"number": 8443}))
    )
    snapshot = mesh_of(service("a", http(80)), mesh=MeshConfig(outbound_traffic_policy=policy))
    assert inputs(snapshot)["0.0.0.0_80"].fallthrough == "outbound|8443||egress.com"


def test_listeners_come_by_port_then_address_then_virtual_outbound() -> None:
    snapshot = mesh_of(
        service("c", tcp(90), addresses=("10.0.0.9",)),
        service("b", tcp(80), addresses=("10.0.0.3",)),
        service("a", tcp(80), addresses=("10.0.0.2",)),
    )
    made = [build_listener(value).resource for value in outbound_listener_inputs(snapshot, SIDECAR)]
    names = [each.name for each in made if each is not None]
    assert names == ["10.0.0.2_80", "10.0.0.3_80", "10.0.0.9_90", "virtualOutbound"]


def test_other_proxies_have_no_listeners() -> None:
    cls = msgspec.structs.replace(SIDECAR, type=ProxyType.WAYPOINT)
    assert outbound_listener_inputs(mesh_of(service("a", http(80))), cls) == ()
