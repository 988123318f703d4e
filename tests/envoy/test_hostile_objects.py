"""Settings that an Envoy would refuse are found before they reach one, and spoil nothing else.

Each setting is given to a service of its own, all at once: were one of them refused, everything in
the same response would be late, and `update_rejected` would tell.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from tests.envoy.harness import bed, eventually, virtual_hosts

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio]

ROUTE: Final[Any] = [{"destination": {"host": "details"}}]


def tcp(**settings: Any) -> dict[str, Any]:
    return {"connectionPool": {"tcp": settings}}


def hashed(**settings: Any) -> dict[str, Any]:
    return {"loadBalancer": {"consistentHash": settings}}


def matched(**condition: Any) -> dict[str, Any]:
    return {"match": [condition], "route": ROUTE}


def routed(**settings: Any) -> dict[str, Any]:
    return {"route": ROUTE, **settings}


def with_headers(**headers: str) -> dict[str, Any]:
    return routed(headers={"request": {"set": headers}})


POLICIES: Final[tuple[dict[str, Any], ...]] = (
    tcp(connectTimeout="0s"),
    tcp(connectTimeout="-1s"),
    tcp(maxConnections=-1),
    tcp(maxConnectionDuration="0s"),
    {"connectionPool": {"http": {"maxRequestsPerConnection": -5}}},
    {"outlierDetection": {"interval": "0s", "baseEjectionTime": "0s"}},
    {"outlierDetection": {"maxEjectionPercent": 150}},
    {"outlierDetection": {"minHealthPercent": -1}},
    hashed(httpHeaderName="x", ringHash={"minimumRingSize": 2**40}),
    hashed(useSourceIp=True, maglev={"tableSize": 100}),
    hashed(httpCookie={"name": "", "ttl": "0s"}),
    hashed(httpHeaderName="two words\n"),
    hashed(httpQueryParameterName=""),
    {"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "30s", "aggression": -1}}},
    {"tls": {"mode": "MUTUAL"}},
    {"tls": {"mode": "SIMPLE", "credentialName": "nowhere"}},
)
ROUTES: Final[tuple[dict[str, Any], ...]] = (
    routed(timeout="-1s"),
    routed(retries={"attempts": -1}),
    routed(retries={"attempts": 1, "backoff": "0s"}),
    routed(fault={"delay": {"fixedDelay": "-1s"}}),
    routed(fault={"abort": {"httpStatus": 1000, "percentage": {"value": 100}}}),
    routed(fault={"abort": {"httpStatus": 500, "percentage": {"value": 500}}}),
    routed(fault={"abort": {"grpcStatus": "NOPE"}}),
    with_headers(**{"two words": "x"}),
    with_headers(x="two\nlines"),
    with_headers(x="100%"),
    with_headers(x="%BOGUS%"),
    with_headers(x="%REQ%"),
    with_headers(**{"": "x"}),
    routed(rewrite={"uriRegexRewrite": {"match": "(", "rewrite": "x"}}),
    routed(rewrite={"authority": "two words\n"}),
    {"redirect": {"uri": "/x\n", "redirectCode": 299}},
    {"directResponse": {"status": 99}},
    matched(uri={"regex": "("}),
    matched(uri={"regex": "(a{1000}){2}"}),
    matched(headers={"": {"exact": "x"}}),
    matched(headers={"two words": {"exact": "x"}}),
    matched(headers={"x": {"regex": "["}}),
    matched(method={"regex": "("}),
    matched(port=99999),
    routed(corsPolicy={"allowOrigins": [{"regex": "("}], "maxAge": "-1s"}),
    routed(mirror={"host": "nowhere"}, mirrorPercentage={"value": -1}),
    {"route": [{"destination": {"host": "details"}, "weight": -1}]},
    {"route": [{"destination": {"host": "details", "port": {"number": 70000}}}]},
    {},
)
ENDPOINTS: Final[tuple[str, ...]] = ("not an address", "unix://" + "/a" * 200, "999.1.1.1", "")


def object_text(kind: str, name: str, spec: dict[str, Any]) -> str:
    value = {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    return msgspec.json.encode(value).decode()


def service_entry(name: str, *endpoints: str) -> str:
    return object_text(
        "ServiceEntry",
        name,
        {
            "hosts": [f"{name}.example.com"],
            "ports": [{"number": 7070, "name": "http", "protocol": "HTTP"}],
            "resolution": "STATIC",
            "endpoints": [{"address": address} for address in endpoints],
        },
    )


def hostile_files() -> dict[str, str]:
    """The text of each file by its object, as a diagnostic names that."""
    files = {}
    for number, policy in enumerate(POLICIES):
        name = f"policy-{number}"
        spec: dict[str, Any] = {"host": f"{name}.example.com", "trafficPolicy": policy}
        files[f"ServiceEntry default/{name}"] = service_entry(name, "127.0.0.99")
        files[f"DestinationRule default/{name}"] = object_text("DestinationRule", name, spec)
    for number, route in enumerate(ROUTES):
        name = f"route-{number}"
        spec = {"hosts": [f"{name}.example.com"], "http": [route]}
        files[f"ServiceEntry default/{name}"] = service_entry(name, "127.0.0.99")
        files[f"VirtualService default/{name}"] = object_text("VirtualService", name, spec)
    for number, address in enumerate(ENDPOINTS):
        name = f"endpoint-{number}"
        files[f"ServiceEntry default/{name}"] = service_entry(name, address)
    return files


async def test_what_an_envoy_would_refuse_is_found_and_spoils_nothing() -> None:
    files = hostile_files()
    hostile = {name for name in files if not name.startswith("ServiceEntry default/")} | {
        name for name in files if name.startswith("ServiceEntry default/endpoint-")
    }
    async with bed() as mesh:
        sidecars = [await mesh.sidecar("delta"), await mesh.sidecar("sotw", delta=False)]
        await mesh.gateway()
        for number, text in enumerate(files.values()):
            mesh.write(f"hostile-{number}.yaml", text)

        async def found() -> set[str]:
            return {str(finding.get("origin")) for finding in await mesh.findings()}

        await eventually(
            found, lambda seen: hostile <= seen, what=f"a finding for each of {sorted(hostile)}"
        )
        # What comes after them arrives.
        mesh.copy("virtual-service-reviews-v3.yaml", "reviews.yaml")
        for sidecar in sidecars:
            await eventually(
                lambda sidecar=sidecar: virtual_hosts(sidecar),  # type: ignore[misc]
                lambda hosts: "|v3|" in str(hosts),
                what="the routes to reviews v3",
            )
        await mesh.settled()
