"""What istiod counts as conflicts: each of them made by objects, translated, and counted once."""

from __future__ import annotations

from controlplane.debug.conflicts import GAUGES, conflicts
from controlplane.debug.metrics import Metrics
from controlplane.model.assemble import make_snapshot
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.snapshot import Snapshot
from controlplane.translate.build import Generator
from tests.golden.support import parse_documents

NONE = {**dict.fromkeys(GAUGES, 0), "pilot_destrule_subsets": 0}
SOUND = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {clusterIP: 10.96.0.1, ports: [{name: tcp-db, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: old, namespace: default, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {hosts: [db], http: [{route: [{destination: {host: db}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: old, namespace: default, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {host: db, subsets: [{name: v1, labels: {version: v1}}]}
"""
TCP = """
---
apiVersion: v1
kind: Service
metadata: {name: younger, namespace: default, creationTimestamp: "2024-02-01T00:00:00Z"}
spec: {clusterIP: 10.96.0.1, ports: [{name: tcp-db, port: 5432}]}
"""
DNS = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: empty, namespace: default}
spec:
  hosts: ["empty.example.com"]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: nobody}}
"""
DOMAIN = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: younger, namespace: default, creationTimestamp: "2024-02-01T00:00:00Z"}
spec: {hosts: [db], http: [{route: [{destination: {host: db}}]}]}
"""
SUBSETS = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: younger, namespace: default, creationTimestamp: "2024-02-01T00:00:00Z"}
spec:
  host: db
  subsets: [{name: v1, labels: {version: other}}, {name: v2, labels: {version: v2}}]
"""


def counted(*texts: str) -> dict[str, int]:
    """The gauges of a mesh with proxies of two classes."""
    proxy, mesh, objects = parse_documents(SOUND + "".join(texts))
    snapshot: Snapshot = make_snapshot(objects, mesh=mesh)
    generator = Generator()
    classes = [
        generator.classify(proxy, snapshot),
        generator.classify(parse_documents(OTHER)[0], snapshot),
    ]
    findings: list[Diagnostic] = []
    for cls in classes:
        generator.clusters(snapshot, cls)
        generator.listeners(snapshot, cls)
        findings += generator.diagnostics(snapshot, cls)
    return conflicts(snapshot, findings)


OTHER = "kind: Proxy\nnode: sidecar~10.0.0.2~other.elsewhere~elsewhere.svc.cluster.local"


def test_objects_in_peace_count_nothing() -> None:
    assert counted() == NONE


def test_each_conflict_is_counted_once_by_its_own_gauge() -> None:
    for text, gauge in (
        (TCP, "pilot_conflict_outbound_listener_tcp_over_current_tcp"),
        (DNS, "pilot_dns_cluster_without_endpoints"),
        (DOMAIN, "pilot_vservice_dup_domain"),
        (SUBSETS, "pilot_destrule_subsets"),
    ):
        assert counted(text) == {**NONE, gauge: 1}, gauge


def test_the_gauges_are_shown() -> None:
    metrics = Metrics(version="1")
    metrics.conflicts(counted(SUBSETS, DOMAIN))
    shown = metrics.render().decode().splitlines()
    assert "pilot_destrule_subsets 1.0" in shown
    assert "pilot_vservice_dup_domain 1.0" in shown
    assert "pilot_dns_cluster_without_endpoints 0.0" in shown
