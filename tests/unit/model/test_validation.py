"""Impossible values are found, each at its path and with Istio's level."""

# A row of a table reads better on one line.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import pytest
import yaml

from controlplane.model.diagnostics import Level
from controlplane.sources.mesh_config import parse_mesh_config
from controlplane.sources.parse import parse_file

ROUTE = {"route": [{"destination": {"host": "a"}}]}


def check(kind: str, spec: Any) -> list[str]:
    """Return `Level path: message` of every finding about an object with this spec."""
    version = "v1" if kind == "Service" else "networking.istio.io/v1"
    data = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    parsed = parse_file("x.yaml", yaml.safe_dump(data).encode())
    return [f"{found.level} {found.field}: {found.message}" for found in parsed.diagnostics]


def http(route: dict[str, Any]) -> dict[str, Any]:
    return {"hosts": ["a"], "http": [route]}


def with_route(**fields: Any) -> dict[str, Any]:
    return http({**ROUTE, **fields})


def match(**fields: Any) -> dict[str, Any]:
    return with_route(match=[fields])


def policy(**fields: Any) -> dict[str, Any]:
    return {"host": "a", "trafficPolicy": fields}


def server(**fields: Any) -> dict[str, Any]:
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    return {"selector": {"a": "b"}, "servers": [{"port": port, "hosts": ["*"], **fields}]}


def entry(**fields: Any) -> dict[str, Any]:
    return {
        "hosts": ["a.com"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "DNS",
        **fields,
    }


GOOD: list[tuple[str, Any]] = [
    ("VirtualService", http(ROUTE)),
    ("VirtualService", {"http": [ROUTE]}),  # a delegate
    ("VirtualService", {"hosts": ["*"], "gateways": ["g"], "http": [ROUTE]}),
    ("VirtualService", {"hosts": ["*.a.com", "10.0.0.1"], "gateways": ["n/g"], "http": [ROUTE]}),
    ("VirtualService", http({"redirect": {"uri": "/x"}})),
    ("VirtualService", http({"directResponse": {"status": 503, "body": {"string": "x"}}})),
    ("VirtualService", match(uri={"regex": "/a/(b|c)[0-9]+$"}, headers={"x": {}, "y": {"regex": "*"}})),
    ("VirtualService", match(uri={"regex": r"(?i)^/\p{L}+\.(js|css)\z"})),
    ("VirtualService", with_route(timeout="0s", retries={"attempts": 3, "retryOn": "5xx,503, reset"})),
    ("VirtualService", with_route(fault={"abort": {"httpStatus": 500, "percentage": {"value": 0.1}}})),
    ("VirtualService", with_route(fault={"abort": {"grpcStatus": "UNAVAILABLE"}})),
    ("VirtualService", with_route(corsPolicy={"allowOrigins": [{"exact": "x"}], "maxAge": "24h"})),
    ("DestinationRule", policy(loadBalancer={"consistentHash": {"useSourceIp": True}})),
    ("DestinationRule", policy(tls={"mode": "ISTIO_MUTUAL"})),
    ("DestinationRule", policy(connectionPool={"tcp": {"maxConnections": 0}})),
    ("Gateway", server()),
    ("Gateway", server(port={"number": 80, "protocol": "Http", "name": "x"})),
    ("Gateway", server(hosts=["ns/*.a.com", "./a.com", "*/*"], tls={"httpsRedirect": True})),
    ("ServiceEntry", entry()),
    ("ServiceEntry", entry(hosts=["*.a.com"], resolution="NONE", addresses=["10.0.0.0/8"])),
    ("WorkloadEntry", {"address": "unix:///tmp/x"}),
    ("Service", {"clusterIP": "None", "selector": {"a": "b"}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_good_values_have_no_finding(kind: str, spec: Any) -> None:
    assert check(kind, spec) == []


BAD: list[tuple[str, Any, str]] = [
    ("VirtualService", {"hosts": ["a"]}, "spec: one of http, tls and tcp is required"),
    ("VirtualService", {"gateways": ["g"], "http": [ROUTE]}, "spec.hosts: is required"),
    ("VirtualService", {"hosts": ["*"], "http": [ROUTE]}, "spec.hosts[0]: `*` is not allowed"),
    ("VirtualService", {"hosts": ["a", "b", "a"], "http": [ROUTE]}, "spec.hosts[2]: host 'a' is"),
    ("VirtualService", {"hosts": ["a_b!"], "http": [ROUTE]}, "spec.hosts[0]: 'a_b!' is not a"),
    ("VirtualService", {"hosts": ["a.*.b"], "http": [ROUTE]}, "spec.hosts[0]: 'a.*.b' is not"),
    ("VirtualService", {"hosts": ["a"], "gateways": ["a/b/c"], "http": [ROUTE]}, "spec.gateways[0]:"),
    ("VirtualService", {"hosts": ["a"], "exportTo": ["*", "x"], "http": [ROUTE]}, "spec.exportTo[0]:"),
    ("VirtualService", http({}), "spec.http[0]: one of route, redirect, directResponse and delegate"),
    ("VirtualService", with_route(redirect={"uri": "/"}), "spec.http[0]: only one of route, redirect"),
    ("VirtualService", http({"redirect": {"redirectCode": 305, "uri": "/"}}),
     "spec.http[0].redirect.redirectCode: 305 is not one of"),
    ("VirtualService", http({"redirect": {}}), "spec.http[0].redirect: one of uri"),
    ("VirtualService", http({"directResponse": {"status": 99}}), "spec.http[0].directResponse.status:"),
    ("VirtualService", match(uri={"exact": "a", "prefix": "b"}), "spec.http[0].match[0].uri: only one"),
    ("VirtualService", match(uri={}), "spec.http[0].match[0].uri: one of exact, prefix and regex"),
    ("VirtualService", match(uri={"regex": ""}), "spec.http[0].match[0].uri.regex: must not be empty"),
    ("VirtualService", match(uri={"regex": "a("}), "spec.http[0].match[0].uri.regex: the pattern is"),
    ("VirtualService", match(uri={"regex": "(?=a)"}), "spec.http[0].match[0].uri.regex: the pattern"),
    ("VirtualService", match(uri={"regex": r"(a)\1"}), "spec.http[0].match[0].uri.regex: the pattern"),
    ("VirtualService", match(headers={"a b": {"exact": "x"}}), "spec.http[0].match[0].headers[a b]:"),
    ("VirtualService", match(port=0), "spec.http[0].match[0].port: 0 is not from 1"),
    ("VirtualService", match(sourceNamespace="A_"), "spec.http[0].match[0].sourceNamespace:"),
    ("VirtualService", with_route(timeout="1us"), "spec.http[0].timeout: 0.000001s is too short"),
    ("VirtualService", with_route(timeout="-1s"), "spec.http[0].timeout: -1s is too short"),
    ("VirtualService", with_route(retries={"attempts": -1}), "spec.http[0].retries.attempts: -1 is"),
    ("VirtualService", with_route(retries={"attempts": 1, "retryOn": "5xx,6xx"}),
     "spec.http[0].retries.retryOn: '6xx' is no"),
    ("VirtualService", with_route(fault={}), "spec.http[0].fault: one of delay and abort"),
    ("VirtualService", with_route(fault={"abort": {"httpStatus": 99}}),
     "spec.http[0].fault.abort.httpStatus: 99 is not from 200"),
    ("VirtualService", with_route(fault={"abort": {"percentage": {"value": 1}}}),
     "spec.http[0].fault.abort: one of httpStatus"),
    ("VirtualService", with_route(fault={"abort": {"grpcStatus": "NOPE"}}),
     "spec.http[0].fault.abort.grpcStatus: 'NOPE' is no"),
    ("VirtualService", with_route(fault={"delay": {"percentage": {"value": 101}, "fixedDelay": "1s"}}),
     "spec.http[0].fault.delay.percentage.value: 101 is out of range"),
    ("VirtualService", with_route(rewrite={}), "spec.http[0].rewrite: one of uri"),
    ("VirtualService", with_route(headers={"request": {"set": {":path": "/"}}}),
     "spec.http[0].headers.request.set[:path]: ':path' cannot be changed"),
    ("VirtualService", with_route(headers={"response": {"remove": ["host"]}}),
     "spec.http[0].headers.response.remove[0]: 'host' cannot be removed"),
    ("VirtualService", with_route(mirror={"host": "b"}, mirrors=[{"destination": {"host": "c"}}]),
     "spec.http[0]: only one of mirror and mirrors"),
    ("VirtualService", with_route(corsPolicy={"allowMethods": ["GRAB"]}),
     "spec.http[0].corsPolicy.allowMethods[0]: 'GRAB' is not"),
    ("VirtualService", http({"route": [{"destination": {"host": "a", "port": {}}}]}),
     "spec.http[0].route[0].destination.port.number: is required"),
    ("VirtualService", http({"route": [{"destination": {"host": "a"}}, {"destination": {"host": "b"}}]}),
     "spec.http[0].route: the weights"),
    ("VirtualService", http({"route": [{"destination": {"host": "a"}, "weight": -1}]}),
     "spec.http[0].route[0].weight: -1 is out of range"),
    ("DestinationRule", {"host": ""}, "spec.host: must not be empty"),
    ("DestinationRule", {"host": "a", "subsets": [{"name": "v1"}, {"name": "v1"}]},
     "spec.subsets[1]: subset 'v1' is already taken"),
    ("DestinationRule", {"host": "a", "subsets": [{"name": "v 1"}]}, "spec.subsets[0].name:"),
    ("DestinationRule", policy(), "spec.trafficPolicy: must not be empty"),
    ("DestinationRule", policy(loadBalancer={"simple": "ROUND_ROBBIN"}),
     "spec.trafficPolicy.loadBalancer.simple: 'ROUND_ROBBIN' is not one of"),
    ("DestinationRule", policy(loadBalancer={"consistentHash": {}}),
     "spec.trafficPolicy.loadBalancer.consistentHash: exactly one of"),
    ("DestinationRule", policy(loadBalancer={"consistentHash": {"useSourceIp": True, "maglev": {"tableSize": 4}}}),
     "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: 4 is not a prime"),
    ("DestinationRule", policy(loadBalancer={"localityLbSetting": {"distribute": [{"from": "a", "to": {"b": 50}}]}}),
     "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the weights sum to 50"),
    ("DestinationRule", policy(connectionPool={}), "spec.trafficPolicy.connectionPool: one of tcp"),
    ("DestinationRule", policy(connectionPool={"tcp": {"connectTimeout": "0s"}}),
     "spec.trafficPolicy.connectionPool.tcp.connectTimeout: 0s is too short"),
    ("DestinationRule", policy(outlierDetection={"maxEjectionPercent": 101}),
     "spec.trafficPolicy.outlierDetection.maxEjectionPercent: 101 is out of range"),
    ("DestinationRule", policy(outlierDetection={"interval": "1ns"}),
     "spec.trafficPolicy.outlierDetection.interval: 0.000000001s is too short"),
    ("DestinationRule", policy(tls={"mode": "MUTUAL", "privateKey": "/k"}),
     "spec.trafficPolicy.tls.clientCertificate: is required with mode MUTUAL"),
    ("DestinationRule", policy(tls={"mode": "ISTIO_MUTUAL", "privateKey": "/k"}),
     "spec.trafficPolicy.tls.privateKey: must not be set"),
    ("DestinationRule", policy(portLevelSettings=[{"port": {"number": 1}}, {"port": {"number": 1}}]),
     "spec.trafficPolicy.portLevelSettings[1].port: port 1 is already set"),
    ("Gateway", {"selector": {"a": "b"}}, "spec.servers: at least one server"),
    ("Gateway", server(hosts=[]), "spec.servers[0].hosts: at least one host"),
    ("Gateway", server(hosts=["a/b/c"]), "spec.servers[0].hosts[0]:"),
    ("Gateway", server(hosts=["x.*.com"]), "spec.servers[0].hosts[0]: 'x.*.com' is not a valid"),
    ("Gateway", server(bind="nowhere"), "spec.servers[0].bind: 'nowhere' is neither"),
    ("Gateway", server(port={"number": 80, "protocol": "HTTP"}), "spec.servers[0].port.name: is required"),
    ("Gateway", server(port={"number": 0, "protocol": "HTTP", "name": "x"}),
     "spec.servers[0].port.number: 0 is out of range"),
    ("Gateway", server(port={"number": 80, "protocol": "HTPP", "name": "x"}),
     "spec.servers[0].port.protocol: 'HTPP' is not one of"),
    ("Gateway", {"selector": {"a": "b"}, "servers": server()["servers"] * 2},
     "spec.servers[1].port.name: the port name 'http' is already taken by entry 0"),
    ("ServiceEntry", entry(hosts=[]), "spec.hosts: at least one host"),
    ("ServiceEntry", entry(hosts=["*.a.com"]), "spec.hosts[0]: '*.a.com' cannot be resolved"),
    ("ServiceEntry", entry(addresses=["10.0.0.300"]), "spec.addresses[0]: '10.0.0.300' is neither"),
    ("ServiceEntry", entry(ports=[]), "spec.ports: at least one port"),
    ("ServiceEntry", entry(resolution="NONE", endpoints=[{"address": "1.1.1.1"}]),
     "spec.endpoints: must be empty with resolution NONE"),
    ("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "a.com"}]),
     "spec.endpoints[0].address: 'a.com' is not an IP address"),
    ("ServiceEntry", entry(endpoints=[{"address": "a.com", "ports": {"htp": 1}}]),
     "spec.endpoints[0].ports.htp: is no port of this ServiceEntry"),
    ("ServiceEntry", entry(endpoints=[{"address": "a"}], workloadSelector={"labels": {"a": "b"}}),
     "spec.endpoints: cannot be combined with workloadSelector"),
    ("WorkloadEntry", {}, "spec.address: is required"),
    ("Service", {"ports": [{"port": 1}, {"port": 2}]}, "spec.ports[0].name: is required when"),
    ("Service", {"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]},
     "spec.ports[1].port: the port '1/TCP' is already taken"),
    ("Service", {"clusterIP": "1.2.3", "ports": [{"port": 1}]}, "spec.clusterIP: '1.2.3' is not"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "expected"), BAD)
def test_an_impossible_value_is_an_error_at_its_path(kind: str, spec: Any, expected: str) -> None:
    found = check(kind, spec)
    errors = [line for line in found if line.startswith("Error")]
    assert any(line.startswith(f"Error {expected}") for line in errors), found


DOUBTFUL: list[tuple[str, Any, str]] = [
    ("VirtualService", with_route(mirror={"host": "b"}, mirrorPercent=5),
     "Warning spec.http[0].mirrorPercent: is deprecated, use mirrorPercentage"),
    ("VirtualService", with_route(corsPolicy={"allowOrigin": ["x"]}),
     "Warning spec.http[0].corsPolicy.allowOrigin: is deprecated, use allowOrigins"),
    ("DestinationRule", policy(loadBalancer={"simple": "LEAST_CONN"}),
     "Warning spec.trafficPolicy.loadBalancer.simple: LEAST_CONN is deprecated, use LEAST_REQUEST"),
    ("DestinationRule", policy(loadBalancer={"consistentHash": {"useSourceIp": True, "minimumRingSize": 9}}),
     "Warning spec.trafficPolicy.loadBalancer.consistentHash.minimumRingSize: is deprecated, use ringHash.minimumRingSize"),
    ("Gateway", {"servers": server()["servers"]},
     "Warning spec.selector: is empty: the gateway applies to every proxy"),
    ("ServiceEntry", entry(resolution="STATIC"),
     "Warning spec.resolution: STATIC without endpoints and workloadSelector reaches nobody"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "expected"), DOUBTFUL)
def test_a_doubtful_value_is_only_a_warning(kind: str, spec: Any, expected: str) -> None:
    assert check(kind, spec) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proxyListenPort: 15006", "proxyInboundListenPort: is the same port as proxyListenPort"),
        ("connectTimeout: 0s", "connectTimeout: 0s is too short, it must be at least 0.001s"),
        ("rootNamespace: A", "rootNamespace: 'A' is not a namespace"),
        ("defaultServiceExportTo: ['*', a]", "defaultServiceExportTo[0]: '*' cannot be combined"),
        ("defaultConfig: {statusPort: 70000}", "defaultConfig.statusPort: 70000 is not from 0"),
    ],
)
def test_impossible_settings_of_the_mesh(text: str, expected: str) -> None:
    mesh, found = parse_mesh_config("m.yaml", text.encode())
    assert mesh is None
    assert [entry.level for entry in found] == [Level.ERROR]
    assert f"{found[0].field}: {found[0].message}".startswith(expected)
