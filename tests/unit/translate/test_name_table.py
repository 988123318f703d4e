"""Which hosts an agent is told to answer for, and with which addresses."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.assemble import make_snapshot
from controlplane.model.proxy import make_proxy
from controlplane.translate.envoy import NameTable
from controlplane.translate.name_table import name_table
from controlplane.translate.resources import ResourceType
from controlplane.translate.scope import Classifier
from tests.golden.support import parse_documents

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00::1"], ports: [{port: 9080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: mysql, namespace: db}
spec: {clusterIP: None, selector: {app: mysql}, ports: [{port: 3306, name: tcp}]}
---
apiVersion: v1
kind: Pod
metadata: {name: mysql-0, namespace: db, labels: {app: mysql}}
spec: {hostname: mysql-0, subdomain: mysql}
status: {podIP: 10.244.0.8, phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: mysql-1, namespace: db, labels: {app: mysql}}
spec: {}
status: {podIP: 10.244.0.9, phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: mysql-2, namespace: db, labels: {app: mysql}}
spec: {hostname: mysql-2, subdomain: mysql}
status: {podIP: 10.244.0.10, phase: Running, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: default}
spec: {type: ExternalName, externalName: www.example.org, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: default}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{port: 80, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: default}
spec:
  hosts: [api.example.com, "*.example.com"]
  addresses: [192.0.2.1, 192.0.3.0/24, "2001:db8::1"]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: no-address, namespace: default}
spec:
  hosts: [www.example.net]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: db}
spec:
  hosts: [private.example.com]
  addresses: [192.0.2.7]
  exportTo: ["."]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
"""


def table(ip: str = "10.244.0.5", *, namespace: str = "default") -> Any:
    _, mesh, objects = parse_documents(SERVICES)
    snapshot = make_snapshot(objects, mesh=mesh)
    proxy = make_proxy(
        f"sidecar~{ip.partition(',')[0]}~web.{namespace}~{namespace}.svc.cluster.local",
        {"INSTANCE_IPS": ip},
    )
    resource = name_table(snapshot, Classifier(snapshot).classify(proxy).outbound)
    assert (resource.type, resource.name) == (ResourceType.NAME_TABLE, "")
    return NameTable.FromString(resource.body).table


def test_a_service_is_known_with_its_short_name() -> None:
    entry = table()["reviews.default.svc.cluster.local"]
    assert list(entry.ips) == ["10.96.0.1"]
    assert (entry.registry, entry.shortname, entry.namespace) == (
        "Kubernetes",
        "reviews",
        "default",
    )


@pytest.mark.parametrize(
    ("ip", "ips"),
    [
        ("10.244.0.5", ["10.96.0.1"]),
        ("fd00::5", ["fd00::1"]),
        ("10.244.0.5,fd00::5", ["10.96.0.1", "fd00::1"]),
    ],
)
def test_only_addresses_of_the_proxys_families(ip: str, ips: list[str]) -> None:
    assert list(table(ip)["reviews.default.svc.cluster.local"].ips) == ips


def test_a_headless_service_has_the_addresses_of_its_ready_pods() -> None:
    found = table()
    assert list(found["mysql.db.svc.cluster.local"].ips) == ["10.244.0.8", "10.244.0.9"]


def test_a_pod_with_a_host_name_in_a_headless_service_has_a_name() -> None:
    found = table()
    entry = found["mysql-0.mysql.db.svc.cluster.local"]
    assert (list(entry.ips), entry.shortname, entry.namespace) == (
        ["10.244.0.8"],
        "mysql-0.mysql",
        "db",
    )
    assert [host for host in found if host.startswith("mysql-")] == [
        "mysql-0.mysql.db.svc.cluster.local"
    ]


def test_hosts_of_a_service_entry_have_its_addresses_but_not_its_networks() -> None:
    found = table()
    for host in ("api.example.com", "*.example.com"):
        entry = found[host]
        assert (list(entry.ips), entry.registry, entry.shortname) == (["192.0.2.1"], "External", "")


def test_hosts_without_address_are_left_to_the_real_dns() -> None:
    found = table()
    absent = {
        "www.example.net",
        "elsewhere.default.svc.cluster.local",
        "nobody.default.svc.cluster.local",
    }
    assert absent.isdisjoint(found)


def test_hosts_that_are_not_exported_are_unknown_elsewhere() -> None:
    assert "private.example.com" not in table()
    assert "private.example.com" in table(namespace="db")


def test_the_same_mesh_gives_the_same_bytes() -> None:
    _, mesh, objects = parse_documents(SERVICES)
    proxy = make_proxy("sidecar~10.0.0.1~web.default~default.svc.cluster.local")
    versions = set()
    for order in (objects, tuple(reversed(objects))):
        snapshot = make_snapshot(order, mesh=mesh)
        versions.add(name_table(snapshot, Classifier(snapshot).classify(proxy).outbound).version)
    assert len(versions) == 1
