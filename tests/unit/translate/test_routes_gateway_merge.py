"""Which servers of which Gateways a gateway class opens, and which of them lose."""

from __future__ import annotations

from controlplane.model.base import Labels
from controlplane.model.gateway import Gateway, GatewayPort, GatewaySpec, Server, ServerTLSSettings
from controlplane.model.meta import ObjectMeta
from controlplane.model.names import Host
from controlplane.model.proxy import ProxyType
from controlplane.model.snapshot import Snapshot
from controlplane.translate.gateways import (
    Family,
    iterate_http_routes,
    matching_hosts,
    merged_gateways,
)
from controlplane.translate.scope import OutboundClass

INGRESS = OutboundClass(
    type=ProxyType.ROUTER,
    namespace="istio-system",
    dns_domain="istio-system.svc.cluster.local",
    labels=Labels({"istio": "ingressgateway"}),
)


def server(
    *hosts: str,
    port: int = 80,
    protocol: str = "HTTP",
    name: str = "http",
    tls: ServerTLSSettings | None = None,
    bind: str = "",
) -> Server:
    return Server(
        port=GatewayPort(number=port, protocol=protocol, name=name),
        hosts=hosts,
        tls=tls,
        bind=bind,
    )


def gateway(
    name: str, *servers: Server, created: str = "", selector: str = "ingressgateway"
) -> Gateway:
    return Gateway(
        metadata=ObjectMeta(name=name, namespace="default", creation_timestamp=created or None),
        spec=GatewaySpec(servers=servers, selector=Labels({"istio": selector})),
    )


def merge(*gateways: Gateway, cls: OutboundClass = INGRESS):  # type: ignore[no-untyped-def]
    return merged_gateways(Snapshot(gateways=gateways), cls)


SIMPLE = ServerTLSSettings(mode="SIMPLE", credential_name="c")


def test_http_servers_of_two_gateways_share_one_port() -> None:
    merged = merge(gateway("a", server("a.com")), gateway("b", server("b.com")))
    (port,) = merged.ports
    assert (port.port, port.family, port.route_name) == (80, Family.HTTP, "http.80")
    assert [item.gateway_key for item in port.servers] == ["default/a", "default/b"]
    assert merged.diagnostics == ()


def test_the_older_gateway_decides_what_a_port_speaks() -> None:
    old = gateway("old", server("*", protocol="TCP"), created="2024-01-01T00:00:00Z")
    new = gateway("new", server("*"), created="2025-01-01T00:00:00Z")
    for order in ((old, new), (new, old)):
        merged = merge(*order)
        (port,) = merged.ports
        assert port.family is Family.TCP
        (diagnostic,) = merged.diagnostics
        assert diagnostic.ref == new.ref
        assert diagnostic.field == "spec.servers[0].port"
        assert "Gateway default/old" in diagnostic.message


def test_a_gateway_of_other_pods_adds_nothing() -> None:
    assert merge(gateway("egress", server("*"), selector="egressgateway")).ports == ()


def test_a_sidecar_opens_no_gateway_port() -> None:
    sidecar = OutboundClass(
        type=ProxyType.SIDECAR,
        namespace="default",
        dns_domain="default.svc.cluster.local",
        labels=Labels({"istio": "ingressgateway"}),
    )
    assert merge(gateway("a", server("*")), cls=sidecar).ports == ()


def test_a_service_port_becomes_its_target_port() -> None:
    cls = OutboundClass(
        type=ProxyType.ROUTER,
        namespace="istio-system",
        dns_domain="istio-system.svc.cluster.local",
        labels=INGRESS.labels,
        gateway_ports=((80, 8080), (443, 8443)),
    )
    (port,) = merge(gateway("a", server("*")), cls=cls).ports
    assert (port.port, port.route_name) == (8080, "http.8080")
    assert port.servers[0].service_port == 80


def test_https_servers_share_a_port_and_keep_their_own_routes() -> None:
    merged = merge(
        gateway(
            "web",
            server("a.com", port=443, protocol="HTTPS", name="https-a", tls=SIMPLE),
            server("b.com", port=443, protocol="HTTPS", name="https-b", tls=SIMPLE),
        )
    )
    assert list(iterate_http_routes(merged)) == [
        "https.443.https-a.web.default",
        "https.443.https-b.web.default",
    ]
    (port,) = merged.ports
    assert port.servers[0].sni_hosts == ("a.com",)
    assert port.servers[0].terminates_tls


def test_a_host_on_a_tls_port_belongs_to_the_first_server() -> None:
    merged = merge(
        gateway("a", server("a.com", port=443, protocol="HTTPS", name="one", tls=SIMPLE)),
        gateway("b", server("a.com", port=443, protocol="HTTPS", name="two", tls=SIMPLE)),
    )
    assert len(merged.ports[0].servers) == 1
    (diagnostic,) = merged.diagnostics
    assert (diagnostic.code, str(diagnostic.ref)) == ("IST0145", "Gateway default/b")


def test_passthrough_asks_for_no_route_and_every_name_is_no_sni() -> None:
    passthrough = ServerTLSSettings(mode="PASSTHROUGH")
    merged = merge(gateway("a", server("*", port=443, protocol="TLS", tls=passthrough)))
    (port,) = merged.ports
    assert port.family is Family.TLS
    assert port.servers[0].route_name is None
    assert port.servers[0].sni_hosts == ()
    assert not port.servers[0].terminates_tls


def test_a_bind_address_is_a_port_of_its_own() -> None:
    merged = merge(
        gateway("a", server("*")), gateway("b", server("*", protocol="TCP", bind="10.0.0.1"))
    )
    assert [(port.bind, port.family) for port in merged.ports] == [
        ("", Family.HTTP),
        ("10.0.0.1", Family.TCP),
    ]


def test_unprivileged_pods_skip_low_ports_and_say_so() -> None:
    cls = OutboundClass(
        type=ProxyType.ROUTER,
        namespace="n",
        dns_domain="n.svc.cluster.local",
        labels=INGRESS.labels,
        unprivileged=True,
    )
    merged = merge(gateway("a", server("*"), server("*", port=8080, name="alt")), cls=cls)
    assert [port.port for port in merged.ports] == [8080]
    assert [item.code for item in merged.diagnostics] == ["PrivilegedPort"]


def test_matching_hosts_takes_the_narrower_name_and_the_namespace() -> None:
    merged = merge(gateway("a", server("team/*.foo.com", "bar.com", "./only.com")))
    (item,) = merged.ports[0].servers
    assert matching_hosts(item, (Host("a.foo.com"),), "team") == ("a.foo.com",)
    assert matching_hosts(item, (Host("a.foo.com"),), "other") == ()
    assert matching_hosts(item, (Host("*"),), "team") == ("*.foo.com", "bar.com")
    assert matching_hosts(item, (Host("only.com"),), "default") == ("only.com",)
