"""virtualInbound and the gateway's listeners, as far as golden pairs do not show it."""

from __future__ import annotations

import msgspec

from controlplane.model.base import FrozenDict, Labels
from controlplane.model.gateway import Gateway, GatewayPort, GatewaySpec, Server
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.names import Host
from controlplane.model.proxy import ProxyType
from controlplane.model.services import Protocol, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.inbound_chains import MutualTls
from controlplane.translate.inbound_listeners import build_virtual_inbound, virtual_inbound_input
from controlplane.translate.listeners import (
    build_listener,
    inbound_listener_inputs,
    outbound_conflicts,
    outbound_listener_inputs,
)
from controlplane.translate.scope import InboundClass, InboundTarget, OutboundClass

WEB = Host("web.default.svc.cluster.local")
SNAPSHOT = Snapshot(
    service_by_host=FrozenDict(
        {
            WEB: Service(
                host=WEB,
                name="web",
                namespace="default",
                ports=(
                    ServicePort(name="tcp", number=81, protocol=Protocol.TCP),
                    ServicePort(name="http", number=80, protocol=Protocol.HTTP),
                ),
                ref=ObjectRef("Service", "default", "web"),
            )
        }
    )
)


def target(port: int, service_port: int, protocol: Protocol = Protocol.HTTP) -> InboundTarget:
    return InboundTarget(
        target_port=port,
        host=WEB,
        service_port=service_port,
        service_port_name="",
        protocol=protocol,
        service_name="web",
        service_namespace="default",
    )


def test_every_chain_of_a_port_names_the_service_port_behind_it() -> None:
    cls = InboundClass(targets=(target(8080, 80), target(8081, 81, Protocol.TCP)))
    (value,) = inbound_listener_inputs(SNAPSHOT, cls)
    made = build_listener(value).resource
    assert made is not None
    assert [(origin.part, origin.field) for origin in made.origins] == [
        ("filter_chains[3]", "spec.ports[1]"),
        ("filter_chains[4]", "spec.ports[0]"),
    ]
    assert made.clusters == {
        "BlackHoleCluster",
        "InboundPassthroughCluster",
        "inbound|8080||",
        "inbound|8081||",
    }
    assert made.routes == frozenset()


def test_without_capture_there_is_no_inbound_listener() -> None:
    assert inbound_listener_inputs(SNAPSHOT, InboundClass(interception_mode="NONE")) == ()


def test_trust_domains_matter_only_to_proxies_that_take_mutual_tls() -> None:
    other = msgspec.structs.replace(SNAPSHOT, mesh=MeshConfig(trust_domain="other.org"))
    plain = InboundClass()
    assert virtual_inbound_input(SNAPSHOT, plain) == virtual_inbound_input(other, plain)
    mutual = InboundClass(serves_secrets=True)
    assert virtual_inbound_input(SNAPSHOT, mutual) != virtual_inbound_input(other, mutual)


def test_a_proxy_of_ipv6_listens_on_ipv6() -> None:
    cls = InboundClass(targets=(target(8080, 80),), ipv4=False, ipv6=True)
    value = virtual_inbound_input(SNAPSHOT, cls)
    assert value is not None
    assert value.mode is MutualTls.DISABLE
    made = build_virtual_inbound(value).resource
    assert made is not None
    listener = envoy.Listener.FromString(made.body)
    assert listener.address.socket_address.address == "::"
    assert listener.filter_chains[-1].name == "::_8080"


GATEWAY_CLASS = OutboundClass(
    type=ProxyType.ROUTER,
    namespace="istio-system",
    dns_domain="istio-system.svc.cluster.local",
    labels=Labels({"istio": "ingressgateway"}),
    exact_balance=True,
)


def gateway(name: str, *servers: Server) -> Gateway:
    return Gateway(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=GatewaySpec(servers=servers, selector=Labels({"istio": "ingressgateway"})),
    )


def server(number: int, host: str = "*") -> Server:
    return Server(port=GatewayPort(number=number, protocol="HTTP", name="http"), hosts=(host,))


def test_gateway_listeners_come_by_port_and_name_every_server() -> None:
    gateways = (gateway("a", server(90), server(80, "a.com")), gateway("b", server(80, "b.com")))
    values = outbound_listener_inputs(Snapshot(gateways=gateways), GATEWAY_CLASS)
    made = [build_listener(value).resource for value in values]
    assert [each.name for each in made if each is not None] == ["0.0.0.0_80", "0.0.0.0_90"]
    first = made[0]
    assert first is not None
    assert [(origin.ref.name, origin.field) for origin in first.origins] == [
        ("a", "spec.servers[1]"),
        ("b", "spec.servers[0]"),
    ]
    assert envoy.Listener.FromString(first.body).connection_balance_config.HasField("exact_balance")


def test_a_change_of_hosts_leaves_the_gateways_listener_alone() -> None:
    before = Snapshot(gateways=(gateway("a", server(80, "a.com")),))
    after = Snapshot(gateways=(gateway("a", server(80, "b.com")),))
    assert outbound_listener_inputs(before, GATEWAY_CLASS) == outbound_listener_inputs(
        after, GATEWAY_CLASS
    )


def test_servers_that_lose_their_port_are_said() -> None:
    tcp = Server(port=GatewayPort(number=80, protocol="TCP", name="tcp"), hosts=("*",))
    snapshot = Snapshot(gateways=(gateway("a", server(80)), gateway("b", tcp)))
    (problem,) = outbound_conflicts(snapshot, GATEWAY_CLASS)
    assert problem.ref == ObjectRef("Gateway", "default", "b")
