"""What objects say about each other is found, with Istio's codes and the right culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.model.assemble import make_snapshot
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import objects_of
from controlplane.sources.parse import parse_file

BASE = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: 10.0.0.1
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}, {name: tcp-x, port: 81}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gate}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['default/*.example.com']}
"""


def check(*documents: str, base: str = BASE) -> list[Diagnostic]:
    parsed = parse_file("x.yaml", "\n---\n".join((base, *documents)).encode())
    assert not [found for found in parsed.diagnostics if found.level == "Error"]
    snapshot = make_snapshot(objects_of(parsed.objects))
    return list(snapshot.diagnostics)


def shown(found: list[Diagnostic]) -> list[str]:
    return [f"{entry.level} {entry.code} {entry.ref} {entry.field}" for entry in found]


def routes(name: str, spec: str, created: str = "2024-01-01T00:00:00Z") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, creationTimestamp: '{created}'}}\nspec: {spec}\n"
    )


def to(host: str, rest: str = "") -> str:
    return f"[{{route: [{{destination: {{host: {host}{rest}}}}}]}}]"


def test_a_consistent_mesh_has_no_finding() -> None:
    assert check(routes("a", f"{{hosts: [reviews], http: {to('reviews', ', subset: v1')}}}")) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (f"{{hosts: [a], http: {to('missing')}}}",
         "Warning IST0101 VirtualService default/a spec.http[0].route[0].destination.host"),
        (f"{{hosts: [a], http: {to('reviews', ', subset: v9')}}}",
         "Warning IST0101 VirtualService default/a spec.http[0].route[0].destination.subset"),
        (f"{{hosts: [a], gateways: [other/gate, mesh], http: {to('reviews')}}}",
         "Warning IST0101 VirtualService default/a spec.gateways[0]"),
        (f"{{hosts: [a], http: {to('two')}}}",
         "Warning IST0112 VirtualService default/a spec.http[0].route[0].destination"),
        (f"{{hosts: [a], http: {to('two', ', port: {number: 82}')}}}",
         "Warning IST0112 VirtualService default/a spec.http[0].route[0].destination.port.number"),
        (f"{{hosts: [a.org], gateways: [gate], http: {to('reviews')}}}",
         "Warning IST0132 VirtualService default/a spec.hosts[0]"),
        ("{hosts: [a], http: [{route: [{destination: {host: reviews}}]},"
         " {redirect: {uri: /x}}]}",
         "Warning IST0130 VirtualService default/a spec.http[1]"),
        ("{hosts: [a], http: [{match: [{uri: {prefix: /}}], redirect: {uri: /y}},"
         " {redirect: {uri: /x}}]}",
         "Warning IST0130 VirtualService default/a spec.http[1]"),
        ("{hosts: [a], http: [{route: [{destination: {host: reviews}}], mirror: {host: missing}}]}",
         "Warning IST0101 VirtualService default/a spec.http[0].mirror.host"),
    ],
)  # fmt: skip
def test_a_reference_that_leads_nowhere_is_found(spec: str, expected: str) -> None:
    assert shown(check(routes("a", spec))) == [expected]


def test_a_host_of_the_gateway_is_found_by_wildcard() -> None:
    spec = f"{{hosts: [x.example.com], gateways: [gate], http: {to('reviews')}}}"
    assert check(routes("a", spec)) == []


def test_a_conditional_first_route_hides_nothing() -> None:
    spec = (
        "{hosts: [a], http: [{match: [{uri: {prefix: /}, headers: {x: {exact: z}}}],"
        " route: [{destination: {host: reviews}}]}, {redirect: {uri: /x}}]}"
    )
    assert check(routes("a", spec)) == []


def test_the_younger_virtual_service_loses_its_host() -> None:
    spec = f"{{hosts: [reviews], http: {to('reviews')}}}"
    found = check(
        routes("a-young", spec, "2024-02-01T00:00:00Z"),
        routes("b-old", spec, "2024-01-01T00:00:00Z"),
    )
    assert shown(found) == ["Warning IST0109 VirtualService default/a-young spec.hosts[0]"]
    assert "older VirtualService default/b-old" in found[0].message


def test_virtual_services_that_nobody_sees_together_do_not_conflict() -> None:
    spec = f"{{hosts: [reviews], http: {to('reviews')}, exportTo: [EXPORT]}}"
    found = check(
        routes("a", spec.replace("EXPORT", "one")), routes("b", spec.replace("EXPORT", "two"))
    )
    assert found == []


def test_a_rule_for_an_unknown_host_is_found() -> None:
    rule = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\n"
        "spec: {host: HOST, trafficPolicy: {tls: {mode: DISABLE}}}\n"
    )
    assert shown(check(rule.replace("HOST", "nobody"))) == [
        "Warning IST0174 DestinationRule default/x spec.host"
    ]
    assert check(rule.replace("HOST", "'*.default.svc.cluster.local'")) == []


def test_a_subset_without_endpoints_is_found_once_workloads_are_known() -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: reviews, version: VERSION,"
        " istio: ingressgateway}}\nstatus: {phase: Running, podIP: 10.1.1.1}\n"
    )
    assert shown(check(pod.replace("VERSION", "v2"))) == [
        "Warning IST0173 DestinationRule default/reviews spec.subsets[0]"
    ]
    assert check(pod.replace("VERSION", "v1")) == []


def test_a_selector_without_pods_is_found_once_pods_are_known() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nstatus: {podIP: 10.1.1.1}\n"
    assert shown(check(pod)) == ["Warning IST0101 Gateway default/gate spec.selector"]


def gateway(name: str, server: str, created: str = "2024-01-01T00:00:00Z") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: Gateway\n"
        f"metadata: {{name: {name}, creationTimestamp: '{created}'}}\n"
        f"spec: {{selector: {{istio: x}}, servers: [{server}]}}\n"
    )


def test_gateways_cannot_share_a_port_between_protocols() -> None:
    found = check(
        gateway("young", "{port: {number: 80, name: t, protocol: TCP}, hosts: ['*']}",
                "2024-02-01T00:00:00Z"),
        gateway("old", "{port: {number: 80, name: h, protocol: HTTP}, hosts: [a.com]}"),
    )  # fmt: skip
    assert shown(found) == ["Error IST0145 Gateway default/young spec.servers[0].port"]
    assert "port 80 is HTTP in the older Gateway default/old (spec.servers[0])" in found[0].message


def test_a_server_that_lost_its_port_takes_it_from_nobody() -> None:
    http = "{port: {number: 80, name: h, protocol: HTTP}, hosts: [HOST]}"
    found = check(
        gateway("first", http.replace("HOST", "a.com"), "2024-01-01T00:00:00Z"),
        gateway("loser", "{port: {number: 80, name: t, protocol: TCP}, hosts: ['*']}",
                "2024-02-01T00:00:00Z"),
        gateway("last", http.replace("HOST", "b.com"), "2024-03-01T00:00:00Z"),
    )  # fmt: skip
    assert shown(found) == ["Error IST0145 Gateway default/loser spec.servers[0].port"]


def test_gateways_may_share_a_port_for_different_hosts_only() -> None:
    server = "{port: {number: 80, name: h, protocol: HTTP}, hosts: [HOST]}"
    assert (
        check(
            gateway("a", server.replace("HOST", "a.com")),
            gateway("b", server.replace("HOST", "b.com")),
        )
        == []
    )
    found = check(
        gateway("a", server.replace("HOST", "a.com")), gateway("b", server.replace("HOST", "a.com"))
    )
    assert shown(found) == ["Warning IST0145 Gateway default/b spec.servers[0].hosts"]


def test_gateways_on_different_pods_do_not_clash() -> None:
    tcp = "{port: {number: 80, name: t, protocol: TCP}, hosts: ['*']}"
    found = check(gateway("a", tcp), gateway("b", tcp).replace("istio: x", "istio: z"))
    assert found == []


def test_a_port_name_without_protocol_is_worth_a_word() -> None:
    found = check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n"
        "spec: {clusterIP: 10.0.0.3, ports: [{name: web, port: 80}]}\n"
    )
    assert shown(found) == ["Info IST0118 Service default/s spec.ports[0].name"]


def test_bookinfo_has_nothing_to_complain_about() -> None:
    root = Path(__file__).parents[3] / "examples" / "bookinfo"
    files = [
        *sorted((root / "mesh").glob("*.yaml")),
        root / "networking" / "bookinfo-gateway.yaml",
        root / "networking" / "destination-rule-all.yaml",
        root / "networking" / "virtual-service-all-v1.yaml",
    ]
    objects = [
        item
        for file in files
        for item in objects_of(parse_file(str(file), file.read_bytes()).objects)
    ]
    assert len(objects) > 10
    assert make_snapshot(objects).diagnostics == ()
