"""How VirtualServices meet the servers of Gateways, beyond what the golden pairs show."""

from __future__ import annotations

from typing import Any

import msgspec

from controlplane.model.base import Labels, dec_hook
from controlplane.model.gateway import Gateway
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.proxy import ProxyType
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import VirtualService
from controlplane.model.virtual_services import VirtualServices
from controlplane.translate import envoy
from controlplane.translate.resources import Origin
from controlplane.translate.routes import join_route, route_input
from controlplane.translate.scope import OutboundClass
from controlplane.translate.virtual_hosts import build_virtual_host

INGRESS = OutboundClass(
    type=ProxyType.ROUTER,
    namespace="istio-system",
    dns_domain="istio-system.svc.cluster.local",
    labels=Labels({"istio": "ingressgateway"}),
    gateway_ports=((80, 8080),),
)


def gateway(name: str, *servers: dict[str, Any]) -> Gateway:
    spec = {"selector": {"istio": "ingressgateway"}, "servers": list(servers)}
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "default"}, "spec": spec},
        Gateway,
        dec_hook=dec_hook,
    )


def http(*hosts: str, number: int = 80, **more: Any) -> dict[str, Any]:
    port = {"number": number, "name": f"http-{number}", "protocol": "HTTP"}
    return {"port": port, "hosts": list(hosts), **more}


def rule(name: str, spec: dict[str, Any], *, namespace: str = "default") -> VirtualService:
    made = msgspec.convert({"spec": spec}, VirtualService, dec_hook=dec_hook)
    return msgspec.structs.replace(made, metadata=ObjectMeta(name=name, namespace=namespace))


def to(host: str) -> list[dict[str, Any]]:
    return [{"route": [{"destination": {"host": host}}]}]


def hosts_of(
    gateways: tuple[Gateway, ...], rules: tuple[VirtualService, ...], name: str = "http.8080"
) -> dict[str, Any]:
    empty = Snapshot()
    snapshot = Snapshot(
        gateways=gateways,
        virtual_services=rules,
        routing=VirtualServices.build(rules, empty.mesh, "cluster.local"),
    )
    value = route_input(snapshot, INGRESS, name)
    made = join_route(value, tuple(build_virtual_host(host) for host in value.virtual_hosts))
    assert made.resource is not None
    assert {origin.ref.kind for origin in made.resource.origins} <= {"Gateway", "VirtualService"}
    message = envoy.RouteConfiguration.FromString(made.resource.body)
    return {host.name: host for host in message.virtual_hosts}


def test_names_carry_the_port_of_the_gateway_and_the_route_that_of_the_pod() -> None:
    rules = (rule("r", {"hosts": ["a.com"], "gateways": ["web"], "http": to("b.com")}),)
    found = hosts_of((gateway("web", http("*")),), rules)
    assert list(found) == ["a.com:80"]
    assert found["a.com:80"].routes[0].route.cluster == "outbound|80||b.com"
    assert hosts_of((gateway("web", http("*")),), rules, "http.80") == {}


def test_one_virtual_service_at_two_gateways_of_a_port_is_said_once() -> None:
    rules = (rule("r", {"hosts": ["a.com"], "gateways": ["one", "two"], "http": to("b.com")}),)
    found = hosts_of((gateway("one", http("*")), gateway("two", http("a.com"))), rules)
    assert len(found["a.com:80"].routes) == 1


def test_a_match_can_tell_gateways_and_ports_apart() -> None:
    entries = [
        {"match": [{"gateways": ["two"]}], **to("two.com")[0]},
        {"match": [{"port": 81}], **to("port.com")[0]},
        *to("rest.com"),
    ]
    rules = (rule("r", {"hosts": ["*"], "gateways": ["one", "two"], "http": entries}),)
    found = hosts_of((gateway("one", http("a.com")), gateway("two", http("b.com"))), rules)
    clusters = {
        name: [route.route.cluster for route in host.routes] for name, host in found.items()
    }
    assert clusters == {
        "a.com:80": ["outbound|80||rest.com"],
        "b.com:80": ["outbound|80||two.com"],
    }
    other = hosts_of((gateway("one", http("a.com", number=81)),), rules, "http.81")
    assert other["a.com:81"].routes[0].route.cluster == "outbound|81||port.com"


def test_a_name_in_capitals_is_the_same_name() -> None:
    rules = (rule("r", {"hosts": ["A.com"], "gateways": ["web"], "http": to("b.com")}),)
    assert list(hosts_of((gateway("web", http("a.COM")),), rules)) == ["a.com:80"]


def test_a_redirecting_server_and_a_serving_one_share_a_port() -> None:
    rules = (rule("r", {"hosts": ["a.com", "b.com"], "gateways": ["web"], "http": to("c.com")}),)
    redirecting = http("a.com", tls={"httpsRedirect": True})
    found = hosts_of((gateway("web", redirecting, http("b.com")),), rules)
    assert found["a.com:80"].require_tls == envoy.VirtualHost.ALL
    assert found["b.com:80"].require_tls == envoy.VirtualHost.NONE


def test_delegation_says_nothing_and_hides_what_it_hid() -> None:
    entries = [
        {"match": [{"uri": {"exact": "/own"}}], **to("own.com")[0]},
        {"delegate": {"name": "other"}},
        *to("unreachable.com"),
    ]
    rules = (rule("r", {"hosts": ["a.com"], "gateways": ["web"], "http": entries}),)
    (host,) = hosts_of((gateway("web", http("*")),), rules).values()
    assert [route.route.cluster for route in host.routes] == ["outbound|80||own.com"]


def test_routes_come_from_the_entry_that_made_them() -> None:
    rules = (
        rule("first", {"hosts": ["a.com"], "gateways": ["web"], "http": to("b.com")}),
        rule(
            "second",
            {
                "hosts": ["a.com"],
                "gateways": ["web"],
                "http": [{"match": [{"uri": {"exact": "/x"}}], **to("c.com")[0]}],
            },
        ),
    )
    snapshot = Snapshot(
        gateways=(gateway("web", http("*")),),
        routing=VirtualServices.build(rules, Snapshot().mesh, "cluster.local"),
    )
    value = route_input(snapshot, INGRESS, "http.8080")
    made = build_virtual_host(value.virtual_hosts[0])
    part, field = "virtual_hosts[a.com:80]", "spec.http[0]"
    assert made.origins == (
        Origin(part, ObjectRef("Gateway", "default", "web"), "spec.servers[0]"),
        Origin(f"{part}.routes[0]", ObjectRef("VirtualService", "default", "second"), field),
        Origin(f"{part}.routes[1]", ObjectRef("VirtualService", "default", "first"), field),
    )
