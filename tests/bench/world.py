"""A synthetic mesh of any size: the same numbers give the same objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.bench.loader import Played

DOMAIN = "cluster.local"


def documents(
    *,
    services: int = 1000,
    endpoints: int = 10,
    namespaces: int = 20,
    rules: int = 200,
    ports: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yield Kubernetes and Istio objects as JSON data: Services with an EndpointSlice each, and
    `rules` VirtualServices and DestinationRules with two subsets."""
    for number in range(services):
        yield service(number, namespaces=namespaces, ports=ports)
        yield endpoint_slice(number, endpoints=endpoints, namespaces=namespaces)
        if number < rules:
            yield virtual_service(number, namespaces=namespaces)
            yield destination_rule(number, namespaces=namespaces)


def service(
    number: int, *, namespaces: int = 20, ports: int = 1, app_protocol: str = "http"
) -> dict[str, Any]:
    """A Service with one port."""
    name = f"svc-{number}"
    port = {"name": "http", "port": 9080 + number % ports, "targetPort": 9080}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": f"ns-{number % namespaces}",
            "labels": {"app": name},
        },
        "spec": {
            "clusterIP": f"10.{96 + number // 65025}.{number // 255 % 255}.{number % 255 + 1}",
            "selector": {"app": name},
            "ports": [port if app_protocol == "http" else {**port, "appProtocol": app_protocol}],
        },
    }


def _rule(kind: str, number: int, namespaces: int, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": f"svc-{number}", "namespace": f"ns-{number % namespaces}"},
        "spec": spec,
    }


def destination_rule(
    number: int, *, namespaces: int = 20, connections: int = 100
) -> dict[str, Any]:
    """A DestinationRule with two subsets of one service."""
    name = f"svc-{number}"
    return _rule(
        "DestinationRule",
        number,
        namespaces,
        {
            "host": name,
            "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": connections}}},
            "subsets": [
                {"name": version, "labels": {"version": version}} for version in ("v1", "v2")
            ],
        },
    )


def virtual_service(number: int, *, namespaces: int = 20, weight: int = 90) -> dict[str, Any]:
    """A VirtualService that splits one service's traffic between its subsets."""
    name = f"svc-{number}"
    return _rule(
        "VirtualService",
        number,
        namespaces,
        {
            "hosts": [name],
            "http": [
                {
                    "route": [
                        {"destination": {"host": name, "subset": "v1"}, "weight": weight},
                        {"destination": {"host": name, "subset": "v2"}, "weight": 100 - weight},
                    ]
                }
            ],
        },
    )


def endpoint_slice(
    number: int, *, endpoints: int = 10, namespaces: int = 20, generation: int = 0
) -> dict[str, Any]:
    """The EndpointSlice of one service; each of 250 generations has another last address."""
    namespace = f"ns-{number % namespaces}"
    block, third, fourth = number // 4096, number // 16 % 256, number % 16 * 16
    addresses = [
        f"10.{128 + block % 64}.{third}.{fourth + index % 16}" for index in range(endpoints - 1)
    ]
    addresses.append(f"11.{generation % 250}.{number // 250 % 250}.{number % 250 + 1}")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"svc-{number}-1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True}, "zone": f"zone-{index % 3}"}
            for index, address in enumerate(addresses)
        ],
    }


def write_json(directory: Path, **size: int) -> None:
    """Write the mesh as one JSON file per kind, each a `List`."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents(**size):
        by_kind.setdefault(document["kind"], []).append(document)
    for kind, items in by_kind.items():
        content = {"apiVersion": "v1", "kind": "List", "items": items}
        (directory / f"{kind.lower()}.json").write_bytes(msgspec.json.encode(content))


def write_yaml(directory: Path, **size: int) -> None:
    """Write the same mesh as one multi-document YAML file per kind."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents(**size):
        by_kind.setdefault(document["kind"], []).append(document)
    for kind, items in by_kind.items():
        text = yaml.dump_all(items, Dumper=yaml.CSafeDumper, sort_keys=False)
        (directory / f"{kind.lower()}.yaml").write_text(text)


def mesh_config(*, generation: int = 0) -> str:
    """Settings of the mesh whose generations differ in every cluster, listener and route."""
    settings = {
        "connectTimeout": f"{10_000 + generation}ms",
        "accessLogFile": "/dev/stdout",
        "accessLogFormat": f"generation {generation} %START_TIME% %REQ(:METHOD)%\n",
        "defaultHttpRetryPolicy": {"attempts": 2 + generation, "retryOn": "connect-failure"},
    }
    return yaml.dump(settings, Dumper=yaml.CSafeDumper)


def sidecars(count: int, *, classes: int = 20, namespaces: int = 20) -> tuple[Played, ...]:
    """Sidecars of as many workloads as there shall be classes, each workload of one service."""
    return tuple(
        Played(number, f"ns-{number % classes % namespaces}", {"app": f"svc-{number % classes}"})
        for number in range(count)
    )
