"""Clusters that are left out or cut down, and the diagnostic that says so."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.assemble import make_snapshot
from controlplane.model.diagnostics import Level
from controlplane.model.proxy import make_proxy
from controlplane.translate.clusters import build_cluster, outbound_cluster_inputs
from controlplane.translate.resources import Translated
from controlplane.translate.scope import Classifier
from tests.golden.support import make_object

SIDECAR = "sidecar~10.0.0.1~client.default~default.svc.cluster.local"
ROUTER = "router~10.0.0.9~ingress.istio-system~istio-system.svc.cluster.local"


def entry(resolution: str, **spec: object) -> dict[str, Any]:
    return {
        "kind": "ServiceEntry",
        "metadata": {"name": "api"},
        "spec": {
            "hosts": ["api.example.com"],
            "resolution": resolution,
            "ports": [{"number": 443, "name": "http", "protocol": "HTTP"}],
            **spec,
        },
    }


def rule(tls: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "DestinationRule",
        "metadata": {"name": "api"},
        "spec": {"host": "api.example.com", "trafficPolicy": {"tls": tls}},
    }


def translate(*objects: dict[str, Any], node: str = SIDECAR) -> Translated:
    """What became of the first cluster."""
    snapshot = make_snapshot([make_object(item) for item in objects])
    cls = Classifier(snapshot).classify(make_proxy(node)).outbound
    return build_cluster(outbound_cluster_inputs(snapshot, cls)[0])


@pytest.mark.parametrize("node", [SIDECAR, ROUTER])
def test_mutual_tls_without_certificate_is_refused_rather_than_plain(node: str) -> None:
    made = translate(entry("DNS"), rule({"mode": "MUTUAL"}), node=node)
    assert made.resource is None
    (found,) = made.diagnostics
    assert (found.level, found.code) == (Level.ERROR, "MissingCertificate")
    assert str(found.ref) == "DestinationRule default/api"
    assert found.field == "spec.trafficPolicy"


def test_a_gateway_with_a_credential_is_refused_rather_than_plain() -> None:
    made = translate(entry("DNS"), rule({"mode": "SIMPLE", "credentialName": "c"}), node=ROUTER)
    assert made.resource is None
    assert [found.code for found in made.diagnostics] == ["CredentialNotServed"]


def test_a_sidecar_ignores_a_credential_and_says_so() -> None:
    made = translate(entry("DNS"), rule({"mode": "SIMPLE", "credentialName": "c"}))
    assert made.resource is not None
    assert b"envoy.transport_sockets.tls" not in made.resource.body
    assert [found.code for found in made.diagnostics] == ["CredentialIgnored"]


def test_dynamic_dns_is_left_out_with_a_diagnostic() -> None:
    made = translate(entry("DYNAMIC_DNS"))
    assert made.resource is None
    assert [found.code for found in made.diagnostics] == ["UnsupportedResolution"]


def test_round_robin_dns_takes_the_first_of_several_endpoints() -> None:
    endpoints = [{"address": "b.example.com"}, {"address": "a.example.com"}]
    made = translate(entry("DNS_ROUND_ROBIN", endpoints=endpoints))
    assert made.resource is not None
    assert b"a.example.com" in made.resource.body
    assert b"b.example.com" not in made.resource.body
    assert [found.code for found in made.diagnostics] == ["ExtraEndpoints"]


def test_an_alias_has_no_cluster() -> None:
    service = {
        "kind": "Service",
        "metadata": {"name": "alias"},
        "spec": {
            "type": "ExternalName",
            "externalName": "api.example.com",
            "ports": [{"port": 80}],
        },
    }
    made = translate(service)
    assert made.resource is not None
    assert made.resource.name == "BlackHoleCluster"
