"""Annotations: one sentence for each that cannot be followed, naming it."""

from __future__ import annotations

import pytest

from controlplane.inject.annotations import problems, proxy_config, warnings
from controlplane.inject.names import OBSOLETE_ANNOTATIONS
from controlplane.model.base import FrozenDict
from controlplane.model.mesh import ProxyConfig

TRAFFIC = "traffic.sidecar.istio.io"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (f"{TRAFFIC}/includeInboundPorts", "80,http", "'http' is not a port"),
        (f"{TRAFFIC}/excludeInboundPorts", "*", "'*' is not possible here"),
        (f"{TRAFFIC}/excludeOutboundPorts", "70000", "'70000' is not a port"),
        (f"{TRAFFIC}/includeOutboundPorts", "9:1", "ends before it begins"),
        (f"{TRAFFIC}/includeOutboundIPRanges", "10.0.0.0/33", "is not an address range"),
        (f"{TRAFFIC}/includeOutboundIPRanges", "*,10.0.0.0/8", "'*' stands alone"),
        (f"{TRAFFIC}/excludeOutboundIPRanges", "10.0.0.1", "has no prefix length"),
        (f"{TRAFFIC}/excludeInterfaces", "a b", "is not the name of an interface"),
        (f"{TRAFFIC}/kubevirtInterfaces", "net/1", "is not the name of an interface"),
        ("sidecar.istio.io/interceptionMode", "tproxy", "is not one of REDIRECT, TPROXY, NONE"),
        ("sidecar.istio.io/nativeSidecar", "yes", "'yes' is neither true nor false"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "", "'' is neither true nor false"),
        ("prometheus.istio.io/merge-metrics", "no", "'no' is neither true nor false"),
        ("sidecar.istio.io/proxyCPU", "a lot", "'a lot' is not an amount such as 100m"),
        ("sidecar.istio.io/proxyMemoryLimit", "1GiB", "'1GiB' is not an amount"),
        ("sidecar.istio.io/proxyImage", "a b", "'a b' is not the name of an image"),
        ("sidecar.istio.io/proxyImageType", "tiny", "is not one of default, distroless, debug"),
        ("sidecar.istio.io/logLevel", "loud", "'loud' is not one of trace, debug"),
        ("sidecar.istio.io/componentLogLevel", "misc", "'misc' is not of the form COMPONENT:LEVEL"),
        ("status.sidecar.istio.io/port", "70000", "is not a number from 0 to 65535"),
        ("readiness.status.sidecar.istio.io/periodSeconds", "1.5", "is not a number from 0"),
        ("sidecar.istio.io/userVolume", "[]", 'must be JSON such as {"NAME"'),
        ("sidecar.istio.io/userVolumeMount", "{", 'must be JSON such as {"NAME"'),
        ("proxy.istio.io/overrides", "{}x", 'must be JSON such as {"containers"'),
        ("proxy.istio.io/config", "concurency: 2", "concurency: unknown field 'concurency'"),
        ("proxy.istio.io/config", "concurrency: two", "concurrency: must be a whole number"),
        ("proxy.istio.io/config", "drainDuration: 5", "drainDuration: must be a duration"),
        ("proxy.istio.io/config", "a: [}", "line 1: "),
        ("proxy.istio.io/config", "- a", "it must be the fields of a ProxyConfig"),
        ("proxy.istio.io/config", "statusPort: 99999", "statusPort: 99999 is not a port"),
    ],
)
def test_a_wrong_annotation_is_named(name: str, value: str, sentence: str) -> None:
    (problem,) = problems({name: value})
    assert problem.startswith(f"annotation {name}: ")
    assert sentence in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{TRAFFIC}/includeInboundPorts", "*"),
        (f"{TRAFFIC}/includeInboundPorts", ""),
        (f"{TRAFFIC}/includeOutboundIPRanges", ""),
        (f"{TRAFFIC}/includeOutboundIPRanges", "10.0.0.0/8, 192.168.0.0/16"),
        (f"{TRAFFIC}/excludeOutboundPorts", "8000:8010,9"),
        ("sidecar.istio.io/proxyCPU", "0.5"),
        ("sidecar.istio.io/proxyMemory", "128Mi"),
        ("sidecar.istio.io/proxyMemory", "1e9"),
        ("sidecar.istio.io/nativeSidecar", "True"),
        ("sidecar.istio.io/componentLogLevel", "misc:error,router:debug"),
        ("sidecar.istio.io/componentLogLevel", ""),
        ("proxy.istio.io/config", ""),
        ("proxy.istio.io/config", "{}"),
        ("example.org/mine", "anything"),
    ],
)
def test_a_right_annotation_is_accepted(name: str, value: str) -> None:
    assert problems({name: value}) == []


def test_every_wrong_annotation_is_reported_at_once() -> None:
    found = problems({"sidecar.istio.io/logLevel": "loud", f"{TRAFFIC}/excludeInboundPorts": "x"})
    assert len(found) == 2


def test_an_annotation_that_is_misspelt_is_warned_about() -> None:
    (warning,) = warnings({"sidecar.istio.io/proxyCpu": "1", "example.org/x": "", "app": ""})
    assert warning == (
        "annotation sidecar.istio.io/proxyCpu is not known and has no effect; "
        "did you mean sidecar.istio.io/proxyCPU?"
    )


@pytest.mark.parametrize("name", sorted(OBSOLETE_ANNOTATIONS))
def test_an_annotation_of_older_releases_is_said_to_have_no_effect(name: str) -> None:
    assert problems({name: "x"}) == []
    (warning,) = warnings({name: "x"})
    assert warning.startswith(f"annotation {name} has no effect any more: ")


def test_the_pods_proxy_config_replaces_fields_and_merges_metadata() -> None:
    base = ProxyConfig(
        concurrency=4, status_port=16000, proxy_metadata=FrozenDict({"A": "1", "B": "1"})
    )
    text = "concurrency: 0\nproxyMetadata: {B: '2'}\n"
    found = proxy_config({"proxy.istio.io/config": text}, base)
    assert found.concurrency == 0
    assert found.status_port == 16000
    assert found.proxy_metadata == {"A": "1", "B": "2"}
    assert proxy_config({}, base) is base
