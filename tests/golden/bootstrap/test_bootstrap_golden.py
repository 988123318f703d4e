"""Golden pairs of the agent's bootstrap, each with what it proves written by hand.

An input is what `pylot proxy` meets: `words` of its command line, its `environment`, and the
`labels` and `annotations` of the downward API as it writes them. The expected output holds the
`bootstrap` and the `warnings`.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from controlplane.cli.proxy import register
from tests.golden.support import GOLDEN, REWRITE

Object = dict[str, Any]


@pytest.fixture
def downward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory for the files of the downward API; this machine has no address."""
    monkeypatch.setattr("controlplane.agent.pod.own_addresses", tuple)
    return tmp_path


def run(name: str, downward: Path) -> tuple[Object, list[str]]:
    """Return the bootstrap and the warnings, after comparing them with the golden file."""
    asked = yaml.safe_load((GOLDEN / f"{name}.in.yaml").read_text())
    for part in ("labels", "annotations"):
        (downward / part).write_text(asked.get(part, ""))
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    words = [*asked["words"].split(), "--bootstrap-only", "--pod-directory", str(downward)]
    done = CliRunner().invoke(app, words, env=asked["environment"])
    assert done.exit_code == 0, (done.output, done.exception)
    made = {"bootstrap": json.loads(done.stdout), "warnings": done.stderr.splitlines()}
    golden = GOLDEN / f"{name}.out.yaml"
    text = yaml.safe_dump(made, sort_keys=True, width=100)
    if os.environ.get(REWRITE) == "1":
        golden.write_text(text)
    elif yaml.safe_load(golden.read_text()) != made:
        difference = difflib.unified_diff(
            golden.read_text().splitlines(), text.splitlines(), "expected", "made", lineterm=""
        )
        pytest.fail(f"{golden.name} differs:\n" + "\n".join(difference))
    return made["bootstrap"], made["warnings"]


def ports(bootstrap: Object) -> dict[int, str]:
    """Return the static listeners: the path that each forwards, by its port."""
    found = {}
    for listener in bootstrap["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (host,) = manager["route_config"]["virtual_hosts"]
        port = listener["address"]["socket_address"]["port_value"]
        found[port] = host["routes"][0]["match"]["prefix"]
    return found


def cluster(bootstrap: Object, name: str = "xds-grpc") -> Object:
    """Return a static cluster, with its one address beside it."""
    (found,) = [one for one in bootstrap["static_resources"]["clusters"] if one["name"] == name]
    (endpoint,) = found["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return {**found, "address": endpoint["endpoint"]["address"]}


def kept(bootstrap: Object) -> list[tuple[str, str]]:
    """Return which statistics are kept: the kind of the match and its text."""
    patterns = bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    return [
        (kind, text["regex"] if isinstance(text, dict) else text)
        for pattern in patterns
        for kind, text in pattern.items()
    ]


def test_a_sidecar_of_today(downward: Path) -> None:
    made, warnings = run("bootstrap/sidecar", downward)
    node = made["node"]
    assert node["id"] == "sidecar~10.244.0.7~web-5d4f9c-x2x7k.shop~shop.svc.cluster.local"
    assert node["cluster"] == "web.shop"
    metadata = node["metadata"]
    assert metadata["LABELS"] == {"app": "web", "version": "v1"}, "without the template's hash"
    assert metadata["POD_PORTS"] == '[{"containerPort":9080,"protocol":"TCP"}]', "JSON in a text"
    assert (metadata["INTERCEPTION_MODE"], metadata["OWNER"].partition(":")[0]) == (
        "REDIRECT",
        "kubernetes",
    )
    ads = made["dynamic_resources"]["ads_config"]
    assert (ads["api_type"], ads["set_node_on_first_message_only"]) == ("DELTA_GRPC", True)
    for source in ("lds_config", "cds_config"):
        assert made["dynamic_resources"][source]["initial_fetch_timeout"] == "0s"
    assert ports(made) == {15090: "/stats/prometheus", 15021: "/healthz/ready"}
    address = {"address": "127.0.0.1", "port_value": 15000}
    assert made["admin"]["address"]["socket_address"] == address
    assert cluster(made, "prometheus_stats")["address"]["socket_address"] == address
    assert cluster(made, "agent")["address"]["socket_address"]["port_value"] == 15020
    assert cluster(made)["type"] == "STRICT_DNS"
    assert cluster(made)["address"]["socket_address"] == {
        "address": "istiod.istio-system.svc",
        "port_value": 15010,
    }
    assert warnings == [
        "Warning: the control plane at istiod.istio-system.svc:15012 is asked without TLS on port "
        "15010: this agent has no certificates yet"
    ]


def test_a_router(downward: Path) -> None:
    made, warnings = run("bootstrap/router", downward)
    node = made["node"]
    assert node["id"].startswith("router~10.244.0.8~istio-ingressgateway-7c8d9f-abcde.istio-system")
    assert node["locality"] == {"region": "r1", "zone": "z1", "sub_zone": "s1"}
    assert node["metadata"]["INSTANCE_IPS"] == "10.244.0.8,fd00::8"
    assert "INTERCEPTION_MODE" not in node["metadata"], "nothing captures a gateway's traffic"
    assert cluster(made)["respect_dns_ttl"] is True
    assert warnings == []


def test_the_arguments_of_the_first_releases(downward: Path) -> None:
    made, warnings = run("bootstrap/flags-of-the-first-releases", downward)
    assert made["node"]["cluster"] == "web"
    assert cluster(made)["connect_timeout"] == "10s"
    assert cluster(made)["address"]["socket_address"]["port_value"] == 15007
    assert [one.split()[1] for one in warnings] == [
        "--parentShutdownDuration",
        "--discoveryRefreshDelay",
        "--zipkinAddress",
        "--statsdUdpAddress",
    ]


def test_the_arguments_of_1_1_to_1_4(downward: Path) -> None:
    made, warnings = run("bootstrap/flags-of-1-1-to-1-4", downward)
    assert made["node"]["metadata"]["LABELS"] == {"app": "web", "version": "v1"}
    assert made["node"]["metadata"]["ANNOTATIONS"] == {"team": "shop"}
    assert made["node"]["cluster"] == "web.default"
    assert cluster(made)["dns_refresh_rate"] == "300s"
    assert [one.split()[1] for one in warnings] == [
        "--parentShutdownDuration",
        "--zipkinAddress",
        "--applicationPorts",
        "--trust-domain",
    ]


def test_the_arguments_of_1_5_to_1_9(downward: Path) -> None:
    made, warnings = run("bootstrap/flags-of-1-5-to-1-9", downward)
    assert made["node"]["metadata"]["PROXY_CONFIG"]["tracing"]["zipkin"]["address"] == "zipkin:9411"
    assert cluster(made)["address"]["socket_address"]["port_value"] == 15010, "not that of TLS"
    assert [one.split()[1] for one in warnings[:2]] == ["--trust-domain", "--stsPort"]


def test_flags_win_over_the_annotation_over_proxy_config(downward: Path) -> None:
    made, warnings = run("bootstrap/proxy-config", downward)
    metadata = made["node"]["metadata"]
    assert made["admin"]["address"]["socket_address"]["port_value"] == 15900, "the flag"
    assert metadata["PROXY_CONFIG"]["proxyMetadata"]["FROM"] == "annotation"
    assert metadata["PROXY_CONFIG"]["statsCompression"] is False
    assert metadata["DNS_CAPTURE"] == "true", "proxyMetadata is like environment"
    assert metadata["INTERCEPTION_MODE"] == "TPROXY"
    assert made["node"]["cluster"] == "shop-web"
    assert cluster(made, "agent")["address"]["socket_address"]["port_value"] == 15920
    assert cluster(made)["connect_timeout"] == "1.5s"
    assert ("prefix", "mine") in kept(made)
    assert ("safe_regex", "other_.*") in kept(made)
    (monitor,) = made["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == "1000"
    assert filters_of_the_metrics(made) == ["envoy.filters.http.router"], "no compression"
    assert warnings == []


def test_annotations_decide_what_is_counted(downward: Path) -> None:
    made, warnings = run("bootstrap/annotations", downward)
    assert [text for kind, text in kept(made) if text in ("mine", "yours", "not-this")] == [
        "mine",
        "yours",
    ], "the annotation takes the place of the ProxyConfig's list"
    assert ("suffix", "kept") in kept(made), "and leaves the lists of other kinds"
    assert ("prefix", "cluster.xds-grpc") in kept(made), "and what the agent needs"
    tags = [one["tag_name"] for one in made["stats_config"]["stats_tags"]]
    assert tags[-2:] == ["kind", "colour"]
    assert (made["stats_flush_interval"], made["stats_eviction_interval"]) == ("10s", "60s")
    (bucket,) = made["stats_config"]["histogram_bucket_settings"]
    assert bucket == {"match": {"prefix": "istio"}, "buckets": [1, 10, 100]}
    assert [name.rpartition(".")[2] for name in filters_of_the_metrics(made)] == [
        "brotli",
        "zstd",
        "gzip",
        "router",
    ]
    for listener in made["static_resources"]["listeners"]:
        assert listener["address"]["socket_address"]["address"] == "::", "the pod has only IPv6"
    assert warnings == []


def filters_of_the_metrics(bootstrap: Object) -> list[str]:
    """Return the names of the HTTP filters of the listener of the metrics."""
    (listener,) = [
        one for one in bootstrap["static_resources"]["listeners"] if one["name"].endswith("_15090")
    ]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return [one["name"] for one in manager["http_filters"]]


def test_metadata_of_variables(downward: Path) -> None:
    made, warnings = run("bootstrap/metadata", downward)
    metadata = made["node"]["metadata"]
    assert metadata["TEAM"] == {"name": "shop"}
    assert metadata["SIZE"] == 3
    assert (metadata["NETWORK"], metadata["HTTP10"]) == ("east", "1")
    assert metadata["WORKLOAD_CERTIFICATES"] == "none", "whatever the environment says"
    assert made["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"
    assert cluster(made)["address"] == {"pipe": {"path": "/run/xds.sock"}}
    assert made["admin"]["address"] == {"pipe": {"path": "/run/admin.sock"}}
    assert ports(made) == {15921: "/healthz/ready"}
    assert warnings == []
