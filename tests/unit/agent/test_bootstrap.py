"""The bootstrap says who the Envoy is and where it finds the control plane."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.agent.bootstrap import (
    Bootstrap,
    EnvoyAddress,
    PipeAddress,
    SocketAddress,
    bootstrap_json,
    build_bootstrap,
)
from controlplane.errors import UsageError
from controlplane.model.base import freeze
from controlplane.model.proxy import ProxyType, make_proxy

XDS = SocketAddress(host="127.0.0.1", port=15010)


def bootstrap(
    *,
    xds: EnvoyAddress = XDS,
    name: str = "reviews-v1.default",
    delta: bool = True,
    prometheus_port: int = 0,
    status_port: int = 0,
) -> Bootstrap:
    return Bootstrap(
        proxy_type=ProxyType.SIDECAR,
        ip="10.0.0.7",
        name=name,
        xds=xds,
        admin=SocketAddress(host="127.0.0.1", port=15000),
        cluster="reviews.default",
        metadata=freeze({"NAMESPACE": "default", "LABELS": {"app": "reviews"}}),
        delta=delta,
        prometheus_port=prometheus_port,
        status_port=status_port,
    )


def cluster_of(built: dict[str, Any], name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = built["static_resources"]["clusters"]
    return next(cluster for cluster in found if cluster["name"] == name)


def endpoint_of(cluster: dict[str, Any]) -> Any:
    locality = cluster["load_assignment"]["endpoints"][0]
    return locality["lb_endpoints"][0]["endpoint"]["address"]


def test_a_control_plane_that_was_away_is_soon_asked_again() -> None:
    (service,) = build_bootstrap(bootstrap())["dynamic_resources"]["ads_config"]["grpc_services"]
    pauses = service["envoy_grpc"]["retry_policy"]["retry_back_off"]
    assert pauses == {"base_interval": "0.2s", "max_interval": "2s"}


def test_the_node_is_one_that_the_control_plane_understands() -> None:
    node = json.loads(bootstrap_json(bootstrap()))["node"]
    assert node["id"] == "sidecar~10.0.0.7~reviews-v1.default~default.svc.cluster.local"
    proxy = make_proxy(node["id"], node["metadata"], cluster=node["cluster"])
    assert (proxy.namespace, proxy.labels["app"]) == ("default", "reviews")
    assert proxy.cluster == "reviews.default"


def test_a_part_of_the_node_id_cannot_hold_its_separator() -> None:
    with pytest.raises(UsageError, match="a~b"):
        build_bootstrap(bootstrap(name="a~b"))


@pytest.mark.parametrize(("delta", "api_type"), [(True, "DELTA_GRPC"), (False, "GRPC")])
def test_the_protocol_is_incremental_unless_it_is_asked_otherwise(
    *, delta: bool, api_type: str
) -> None:
    ads = build_bootstrap(bootstrap(delta=delta))["dynamic_resources"]["ads_config"]
    assert ads["api_type"] == api_type
    assert ads["set_node_on_first_message_only"] is True


def test_envoy_waits_for_the_control_plane_before_it_is_ready() -> None:
    dynamic = build_bootstrap(bootstrap())["dynamic_resources"]
    for source in ("lds_config", "cds_config"):
        assert dynamic[source]["initial_fetch_timeout"] == "0s"


@pytest.mark.parametrize(
    ("address", "kind", "expected"),
    [
        (
            SocketAddress(host="10.0.0.1", port=15010),
            "STATIC",
            {"socket_address": {"address": "10.0.0.1", "port_value": 15010}},
        ),
        (
            SocketAddress(host="pylot.istio-system.svc", port=15010),
            "STRICT_DNS",
            {"socket_address": {"address": "pylot.istio-system.svc", "port_value": 15010}},
        ),
        (PipeAddress(path="/run/xds"), "STATIC", {"pipe": {"path": "/run/xds"}}),
    ],
)
def test_the_control_plane_is_found_by_address_name_or_unix_socket(
    address: EnvoyAddress, kind: str, expected: dict[str, Any]
) -> None:
    cluster = cluster_of(build_bootstrap(bootstrap(xds=address)), "xds-grpc")
    assert cluster["type"] == kind
    assert endpoint_of(cluster) == expected


def test_static_listeners_are_there_only_when_they_are_asked_for() -> None:
    assert build_bootstrap(bootstrap())["static_resources"]["listeners"] == []
    built = build_bootstrap(bootstrap(prometheus_port=15090, status_port=15021))
    ports = [
        listener["address"]["socket_address"]["port_value"]
        for listener in built["static_resources"]["listeners"]
    ]
    assert ports == [15090, 15021]
    assert endpoint_of(cluster_of(built, "prometheus_stats"))["socket_address"]["port_value"] == (
        15000
    )
    assert endpoint_of(cluster_of(built, "agent"))["socket_address"]["port_value"] == 15020


def test_equal_facts_give_equal_bytes() -> None:
    assert bootstrap_json(bootstrap()) == bootstrap_json(bootstrap())
