"""Bookinfo with some rivals, and everything that a proxy of it gets: what properties hold of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from controlplane.model.meta import Object, objects_of
from controlplane.model.proxy import Proxy
from controlplane.model.snapshot import Snapshot
from controlplane.sources.parse import parse_file
from controlplane.translate.build import Generator

EXAMPLES = Path(__file__).parents[2] / "examples" / "bookinfo"
EXTRA = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, creationTimestamp: '2024-01-01T00:00:00Z'}
spec:
  hosts: [a.example.com, b.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.2}, {address: 192.0.2.1, locality: r/z, weight: 2}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: rival, namespace: other, creationTimestamp: '2024-01-01T00:00:00Z'}
spec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rival, creationTimestamp: '2020-01-01T00:00:00Z'}
spec: {hosts: [reviews], http: [{timeout: 2s, route: [{destination: {host: reviews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: twin, creationTimestamp: '2020-01-01T00:00:00Z'}
spec: {hosts: [reviews], http: [{timeout: 3s, route: [{destination: {host: ratings}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: second}
spec: {host: reviews, subsets: [{name: extra, labels: {version: v3}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: theirs, namespace: other}
spec:
  host: reviews.default.svc.cluster.local
  exportTo: [.]
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: other}
spec:
  hosts: [hidden.example.com]
  exportTo: [.]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.3}]
"""


def documents() -> list[dict[str, Any]]:
    names = ("destination-rule-all", "virtual-service-all-v1", "bookinfo-gateway")
    files = [
        *sorted((EXAMPLES / "mesh").glob("*.yaml")),
        *(EXAMPLES / "networking" / f"{name}.yaml" for name in names),
    ]
    texts = [file.read_text() for file in files] + [EXTRA]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


DOCUMENTS = documents()
OBJECTS: list[Object] = list(
    objects_of(parse_file("all.yaml", yaml.safe_dump_all(DOCUMENTS).encode()).objects)
)


def resources_of(proxy: Proxy, snapshot: Snapshot, generator: Generator) -> dict[str, bytes]:
    """Return the bytes of everything that a proxy gets, by type and name."""
    cls = generator.classify(proxy, snapshot)
    clusters = generator.clusters(snapshot, cls)
    listeners = generator.listeners(snapshot, cls)
    made = [*clusters, *listeners]
    made += [
        generator.route(snapshot, cls, name)
        for name in sorted({name for listener in listeners for name in listener.routes})
    ]
    made += [
        generator.load_assignment(snapshot, cls, cluster.eds_name)
        for cluster in clusters
        if cluster.eds_name
    ]
    # The order of a response is part of what must not depend on anything else.
    order = "\n".join(entry.name for entry in made)
    return {f"{entry.type} {entry.name}": entry.body for entry in made} | {"order": order.encode()}
