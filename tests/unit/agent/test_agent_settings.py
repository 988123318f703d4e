"""Flags, environment, annotations and files become the settings of an agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controlplane.agent.agent_bootstrap import agent_bootstrap, envoy_arguments
from controlplane.agent.bootstrap import PipeAddress, SocketAddress
from controlplane.agent.identity import Account, Identity
from controlplane.agent.pod import Pod, parse_items, pod_addresses, read_pod
from controlplane.agent.settings import AgentSettings, DrainSettings, Flags, Made, make_settings
from controlplane.errors import UsageError
from controlplane.model.base import FrozenDict, Labels
from controlplane.model.proxy import ProxyType, make_proxy

USER = Account(1000, 1000)
ROOT = Account(0, 0)
POD = Pod(
    name="reviews-v1",
    namespace="default",
    service_account="bookinfo",
    ips=("10.244.0.7",),
    labels=Labels({"app": "reviews", "version": "v1"}),
)


def made(
    environment: Mapping[str, str] | None = None,
    *,
    flags: Flags | None = None,
    pod: Pod = POD,
    proxy_type: ProxyType = ProxyType.SIDECAR,
    mesh_file: str = "",
    account: Account = USER,
) -> Made:
    return make_settings(
        proxy_type,
        flags or Flags(),
        pod=pod,
        environment=environment or {},
        mesh_file=mesh_file,
        account=account,
    )


def settings(environment: Mapping[str, str] | None = None, **more: Any) -> AgentSettings:
    return made(environment, **more).settings


def annotated(text: str) -> Pod:
    return Pod(
        name="reviews-v1",
        namespace="default",
        ips=("10.244.0.7",),
        annotations=Labels({"proxy.istio.io/config": text}),
    )


def test_the_node_is_one_that_the_control_plane_understands() -> None:
    node = agent_bootstrap(settings({"ISTIO_META_DNS_CAPTURE": "true"}))["node"]
    proxy = make_proxy(node["id"], node["metadata"], cluster=node["cluster"])
    assert node["id"] == "sidecar~10.244.0.7~reviews-v1.default~default.svc.cluster.local"
    assert node["cluster"] == "reviews.default"
    assert (proxy.namespace, proxy.labels["version"]) == ("default", "v1")
    assert (proxy.dns_capture, proxy.interception_mode) == (True, "REDIRECT")


def test_without_certificates_the_control_plane_is_told_so() -> None:
    environment = {"ISTIO_META_ISTIO_VERSION": "1.30.0", "ISTIO_META_WORKLOAD_CERTIFICATES": "x"}
    node = agent_bootstrap(settings(environment))["node"]
    assert not make_proxy(node["id"], node["metadata"]).serves_secrets


def test_metadata_comes_from_variables_plain_and_json() -> None:
    metadata = settings(
        {
            "ISTIO_META_CLUSTER_ID": "west",
            "ISTIO_META_POD_PORTS": '[{"containerPort":9080}]',
            "ISTIO_METAJSON_MORE": '{"A": {"b": [1]}}',
            "UNRELATED": "x",
        }
    ).bootstrap.metadata
    assert metadata["CLUSTER_ID"] == "west"
    assert metadata["POD_PORTS"] == '[{"containerPort":9080}]'
    assert metadata["A"] == {"b": (1,)}
    assert "UNRELATED" not in metadata


def test_proxy_metadata_is_like_environment_and_loses_against_it() -> None:
    config = "proxyMetadata: {ISTIO_META_DNS_CAPTURE: true, ISTIO_META_NETWORK: a}"
    found = settings({"PROXY_CONFIG": config, "ISTIO_META_NETWORK": "b"})
    assert found.bootstrap.metadata["DNS_CAPTURE"] == "true"
    assert found.bootstrap.metadata["NETWORK"] == "b"
    assert found.dns_port == 15053


def test_flag_before_annotation_before_proxy_config_before_mesh_file() -> None:
    mesh = "defaultConfig: {concurrency: 1, proxyAdminPort: 1001, statusPort: 1002}"
    environment = {"PROXY_CONFIG": "{concurrency: 2, proxyAdminPort: 2001, drainDuration: 9s}"}
    found = settings(
        environment,
        mesh_file=mesh,
        pod=annotated("concurrency: 3\nproxyAdminPort: 3001"),
        flags=Flags(concurrency="4"),
    )
    assert found.concurrency == 4
    assert found.bootstrap.admin == SocketAddress(host="127.0.0.1", port=3001)
    assert found.drain.envoy == 9
    assert found.status_port == 1002


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        # Istio's defaults: 5 s, however long Envoy itself would take.
        (Flags(), {}, DrainSettings(minimum=5, limit=5, envoy=45)),
        (Flags(drain_duration="2s"), {}, DrainSettings(minimum=2, limit=2, envoy=2)),
        (Flags(drain_duration="20s"), {}, DrainSettings(minimum=5, limit=20, envoy=20)),
        (
            Flags(drain_duration="20s"),
            {"PROXY_CONFIG": "terminationDrainDuration: 7s"},
            DrainSettings(minimum=5, limit=7, envoy=20),
        ),
        (
            Flags(),
            {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true"},
            DrainSettings(minimum=5, limit=45, envoy=45),
        ),
        (
            Flags(),
            {"MINIMUM_DRAIN_DURATION": "500ms"},
            DrainSettings(minimum=0.5, limit=5, envoy=45),
        ),
        (
            Flags(),
            {"TERMINATION_DRAIN_DURATION_SECONDS": "0"},
            DrainSettings(minimum=0, limit=0, envoy=45),
        ),
    ],
)
def test_how_long_a_drain_takes(
    flags: Flags, environment: dict[str, str], expected: DrainSettings
) -> None:
    assert settings(environment, flags=flags).drain == expected


@pytest.mark.parametrize(
    ("flags", "address", "warned"),
    [
        (Flags(), SocketAddress(host="istiod.istio-system.svc", port=15010), True),
        (
            Flags(discovery_address="10.0.0.1:15010"),
            SocketAddress(host="10.0.0.1", port=15010),
            False,
        ),
        (Flags(discovery_address="[fd00::1]:99"), SocketAddress(host="fd00::1", port=99), False),
        (Flags(discovery_address="unix:///run/xds"), PipeAddress(path="/run/xds"), False),
        (
            Flags(discovery_address="x:15012", auth_policy="NONE"),
            SocketAddress(host="x", port=15012),
            False,
        ),
    ],
)
def test_where_the_control_plane_is(flags: Flags, address: Any, *, warned: bool) -> None:
    found = made(flags=flags)
    assert found.settings.bootstrap.xds == address
    assert bool(found.warnings) is warned


@pytest.mark.parametrize(
    ("account", "environment", "identity"),
    [
        (ROOT, {}, Identity(uid=1337, gid=1337)),
        (USER, {}, None),
        (Account(0, 1337), {"ISTIO_META_INTERCEPTION_MODE": "TPROXY"}, None),
        (
            ROOT,
            {"ISTIO_META_INTERCEPTION_MODE": "TPROXY"},
            Identity(uid=0, gid=1337, capabilities=("net_admin",)),
        ),
        (ROOT, {"PROXY_UID": "0", "PROXY_GID": "0"}, None),
    ],
)
def test_as_whom_envoy_runs(
    account: Account, environment: dict[str, str], identity: Identity | None
) -> None:
    assert settings(environment, account=account).identity == identity


def test_a_gateway_in_a_mesh_of_tproxy_is_no_root() -> None:
    found = settings(
        {"PROXY_CONFIG": "interceptionMode: TPROXY"}, account=ROOT, proxy_type=ProxyType.ROUTER
    )
    assert found.identity == Identity(uid=1337, gid=1337)


def test_the_cpu_limit_decides_the_threads() -> None:
    assert settings().concurrency == 2
    assert settings(proxy_type=ProxyType.ROUTER).concurrency == 0
    assert settings({"ISTIO_CPU_LIMIT": "3"}).concurrency == 3
    assert settings({"ISTIO_CPU_LIMIT": "3", "PROXY_CONFIG": "concurrency: 1"}).concurrency == 1


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        (Flags(concurrency="many"), {}, "--concurrency"),
        (Flags(drain_duration="soon"), {}, "--drainDuration"),
        (Flags(discovery_address="nowhere"), {}, "nowhere"),
        (Flags(status_port="70000"), {}, "--statusPort"),
        (Flags(domain="a~b"), {}, "a~b"),
        (Flags(), {"PROXY_CONFIG": "{"}, "PROXY_CONFIG"),
        (Flags(), {"PROXY_CONFIG": "concurrency: lots"}, "PROXY_CONFIG"),
        (Flags(), {"PROXY_CONFIG": "[]"}, "PROXY_CONFIG"),
        (Flags(), {"ISTIO_METAJSON_X": "{"}, "ISTIO_METAJSON_X"),
        (Flags(), {"ISTIO_PROMETHEUS_ANNOTATIONS": "scrape: true\nport: ninety"}, "port"),
    ],
)
def test_what_cannot_be_understood_is_named(
    flags: Flags, environment: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        agent_bootstrap(settings(environment, flags=flags))


def test_a_wrong_annotation_is_named() -> None:
    with pytest.raises(UsageError, match=r"annotation proxy\.istio\.io/config"):
        settings(pod=annotated("drainDuration: never"))


def test_downward_api_files_become_labels_and_annotations(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text('app="reviews"\npod-template-hash="abc"\n')
    (tmp_path / "annotations").write_text('a/b="one \\"two\\"\\n\\x41"\nbroken\nc=none\n')
    pod = read_pod(
        {"POD_NAME": "p", "INSTANCE_IP": "10.0.0.1", "ISTIO_METAJSON_LABELS": '{"extra":"1"}'},
        directory=tmp_path,
    )
    assert pod.labels == {"app": "reviews", "extra": "1"}
    assert pod.annotations == {"a/b": 'one "two"\nA'}


def test_items_without_quotes_are_left_out() -> None:
    assert parse_items('a="1"\nb\nc=2\n=\n') == {"a": "1"}


def test_a_pods_address_must_be_one() -> None:
    with pytest.raises(UsageError, match=r"10\.0\.0"):
        pod_addresses("10.0.0", "")
    assert pod_addresses("127.0.0.1", "127.0.0.2") == ("127.0.0.1", "127.0.0.2")


def test_the_bootstrap_has_locality_runtime_tags_and_statistics() -> None:
    pod = Pod(
        name="p",
        namespace="default",
        ips=("fd00::7",),
        labels=Labels({"istio-locality": "r1.z1.s1"}),
    )
    config = {
        "runtimeValues": {"a.b": "1"},
        "extraStatTags": ["kind"],
        "proxyStatsMatcher": {"inclusionRegexps": ["my_.*"]},
    }
    built = agent_bootstrap(settings({"PROXY_CONFIG": json.dumps(config)}, pod=pod))
    assert built["node"]["locality"] == {"region": "r1", "zone": "z1", "sub_zone": "s1"}
    assert built["layered_runtime"]["layers"][0]["static_layer"]["a.b"] == "1"
    assert built["stats_config"]["stats_tags"][-1]["tag_name"] == "kind"
    patterns = built["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    assert {"safe_regex": {"regex": "my_.*"}} in patterns
    addresses = {
        listener["address"]["socket_address"]["address"]
        for listener in built["static_resources"]["listeners"]
    }
    assert addresses == {"::"}
    assert built["admin"]["address"]["socket_address"]["address"] == "::1"


@pytest.mark.parametrize(
    ("annotation", "text", "sentence"),
    [
        ("statsFlushInterval", "often", "the annotation sidecar.istio.io/statsFlushInterval: "),
        ("statsEvictionInterval", "7s", "7s is not a multiple of the flush interval, 5s"),
        ("statsHistogramBuckets", "[1]", "it must be JSON such as"),
        ("statsHistogramBuckets", '{"a": [2, 1]}', "a: buckets are positive numbers that rise"),
    ],
)
def test_a_wrong_annotation_of_statistics_is_named(
    annotation: str, text: str, sentence: str
) -> None:
    pod = Pod(name="p", annotations=Labels({f"sidecar.istio.io/{annotation}": text}))
    with pytest.raises(UsageError) as error:
        settings(pod=pod)
    assert sentence in str(error.value)


def test_an_agent_without_status_port_opens_no_health_listener() -> None:
    built = agent_bootstrap(settings(flags=Flags(status_port="0")))
    ports = [
        listener["address"]["socket_address"]["port_value"]
        for listener in built["static_resources"]["listeners"]
    ]
    assert ports == [15090]


def test_envoys_command_line() -> None:
    words = envoy_arguments(
        settings(flags=Flags(drain_duration="3s", log_level="debug")), Path("/x.json")
    )
    line = " ".join(words)
    for expected in (
        "-c /x.json",
        "--drain-time-s 3 --drain-strategy immediate",
        "-l debug",
        "--concurrency 2",
        "--local-address-ip-version v4",
    ):
        assert expected in line
    assert "--config-yaml" not in words


def test_the_applications_metrics_and_probes_come_from_the_injection() -> None:
    found = settings(
        {
            "ISTIO_PROMETHEUS_ANNOTATIONS": '{"scrape":"true","path":"","port":"9090"}',
            "ISTIO_KUBE_APP_PROBERS": '{"/app-health/a/livez":{"tcpSocket":{"port":1}}}',
        }
    )
    assert found.application_metrics is not None
    assert (found.application_metrics.port, found.application_metrics.path) == (9090, "/metrics")
    assert found.probers == FrozenDict({"/app-health/a/livez": {"tcpSocket": {"port": 1}}})
    off = settings({"ISTIO_PROMETHEUS_ANNOTATIONS": '{"scrape":"false","port":"9090"}'})
    assert off.application_metrics is None
