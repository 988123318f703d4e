"""Injection as a whole: what holds for every pod, and what a wrong pod or template gets."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings

from controlplane.capture.config import Accepted, CaptureFlags, parse_flags
from controlplane.inject.config import InjectConfig, load_config
from controlplane.inject.errors import InjectConfigError
from controlplane.inject.patch import difference
from controlplane.inject.shape import shape_problems
from controlplane.inject.sidecar import Injected, Outcome, Refused, Untouched, inject
from controlplane.model.mesh import MeshConfig
from tests.unit.inject.pods import applied, pod, pods

CONFIG = load_config()


def run(made: dict[str, Any], config: InjectConfig = CONFIG, **arguments: Any) -> Outcome:
    """Inject a pod of the namespace `default` with everything else as it comes."""
    return inject(made, namespace="default", config=config, mesh=MeshConfig(), **arguments)


def injected(
    made: dict[str, Any], config: InjectConfig = CONFIG, **arguments: Any
) -> dict[str, Any]:
    """Return the injected pod; fails when it is not injected."""
    outcome = run(made, config, **arguments)
    assert isinstance(outcome, Injected), outcome
    return outcome.pod


def proxy_of(made: dict[str, Any]) -> dict[str, Any]:
    """Return the one proxy of an injected pod."""
    (found,) = [
        one
        for group in ("initContainers", "containers")
        for one in made["spec"].get(group, ())
        if one["name"] == "istio-proxy"
    ]
    return dict(found)


@given(pods())
@settings(deadline=None, max_examples=150)
def test_injecting_twice_equals_injecting_once(made: dict[str, Any]) -> None:
    before = copy.deepcopy(made)
    once = injected(made)
    assert made == before, "the pod that came in was changed"
    kept = copy.deepcopy(once)
    assert isinstance(run(once), Untouched)
    assert once == kept


@given(pods())
@settings(deadline=None, max_examples=150)
def test_the_patch_of_a_pod_makes_the_injected_pod(made: dict[str, Any]) -> None:
    once = injected(made)
    assert applied(made, difference(made, once)) == once


@given(pods())
@settings(deadline=None, max_examples=150)
def test_every_injected_pod_is_whole(made: dict[str, Any]) -> None:
    once = injected(made)
    assert shape_problems(once) == []
    spec = once["spec"]
    names = [
        one["name"] for group in ("initContainers", "containers") for one in spec.get(group, ())
    ]
    assert len(set(names)) == len(names), "a container is there twice"
    for one in made["spec"]["containers"]:
        assert one["name"] in names, "a container of the application is gone"
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in proxy_of(once)["volumeMounts"]} <= volumes
    # What probes were taken from the application the agent is told about.
    told = {one["name"]: one.get("value") for one in proxy_of(once)["env"]}
    table = json.loads(told.get("ISTIO_KUBE_APP_PROBERS") or "{}")
    asked = {
        probe["httpGet"]["path"]
        for one in spec["containers"]
        if one["name"] != "istio-proxy"
        for field in ("readinessProbe", "livenessProbe")
        if "/app-health/" in (probe := one.get(field, {})).get("httpGet", {}).get("path", "")
    }
    assert asked == set(table)


@given(pods())
@settings(deadline=None, max_examples=100)
def test_capture_accepts_the_flags_of_every_injected_pod(made: dict[str, Any]) -> None:
    once = injected(made)
    for one in once["spec"].get("initContainers", ()):
        if one["name"] != "istio-init":
            continue
        flags = dict(zip(one["args"][1::2], one["args"][2::2], strict=True))
        found = parse_flags(
            CaptureFlags(
                envoy_port=flags["-p"],
                inbound_capture_port=flags["-z"],
                proxy_uid=flags["-u"],
                mode=flags["-m"],
                outbound_ranges=flags["-i"],
                exclude_outbound_ranges=flags["-x"],
                inbound_ports=flags["-b"],
                exclude_inbound_ports=flags["-d"],
            )
        )
        assert isinstance(found, Accepted), found
        assert "15090" in flags["-d"].split(",")


def test_a_pod_from_the_api_server_needs_no_metadata() -> None:
    made = injected({"spec": {"containers": [{"name": "app", "image": "x"}]}})
    labels = made["metadata"]["labels"]
    assert labels["service.istio.io/canonical-revision"] == "latest"
    assert "ISTIO_META_WORKLOAD_NAME" not in {one["name"] for one in proxy_of(made)["env"]}


def test_the_address_of_the_webhook_names_cluster_and_network() -> None:
    environment = {"ISTIO_META_CLUSTER_ID": "west", "ISTIO_META_NETWORK": "n2", "EXTRA": "1"}
    made = injected(pod(), environment=environment)
    values = {one["name"]: one.get("value") for one in proxy_of(made)["env"]}
    assert [values[name] for name in environment] == ["west", "n2", "1"]
    assert made["metadata"]["labels"]["topology.istio.io/network"] == "n2"


def test_the_network_label_of_a_pod_wins() -> None:
    made = pod()
    made["metadata"]["labels"]["topology.istio.io/network"] = "mine"
    found = injected(made, environment={"ISTIO_META_NETWORK": "n2"})
    values = {one["name"]: one.get("value") for one in proxy_of(found)["env"]}
    assert values["ISTIO_META_NETWORK"] == "mine"
    assert found["metadata"]["labels"]["topology.istio.io/network"] == "mine"


@pytest.mark.parametrize(
    ("controller", "labels", "name", "reference"),
    [
        ({"kind": "StatefulSet", "apiVersion": "apps/v1", "name": "db"}, {}, "db", "apps/v1"),
        (
            {"kind": "ReplicaSet", "apiVersion": "apps/v1", "name": "web-abc"},
            {},
            "web-abc",
            "replicasets/web-abc",
        ),
        (
            {"kind": "ReplicaSet", "apiVersion": "apps/v1", "name": "web-abc"},
            {"pod-template-hash": "abc"},
            "web",
            "deployments/web",
        ),
        (
            {"kind": "Job", "apiVersion": "batch/v1", "name": "night-28000000"},
            {},
            "night",
            "cronjobs/night",
        ),
        ({"kind": "Job", "apiVersion": "batch/v1", "name": "once"}, {}, "once", "jobs/once"),
        (
            {"kind": "ReplicationController", "apiVersion": "v1", "name": "dc-1"},
            {"deploymentconfig": "dc"},
            "dc",
            "apps.openshift.io/v1/namespaces/default/deploymentconfigs/dc",
        ),
    ],
)
def test_a_pod_belongs_to_what_controls_it(
    controller: dict[str, str], labels: dict[str, str], name: str, reference: str
) -> None:
    made = pod()
    made["metadata"]["labels"] = labels
    made["metadata"]["ownerReferences"] = [
        {"kind": "Node", "apiVersion": "v1", "name": "n"},
        {**controller, "controller": True},
    ]
    values = {one["name"]: one.get("value") for one in proxy_of(injected(made))["env"]}
    assert values["ISTIO_META_WORKLOAD_NAME"] == name
    assert reference in str(values["ISTIO_META_OWNER"])


def test_containers_can_be_put_in_front_of_a_native_proxy() -> None:
    made = pod(initContainers=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    made["metadata"]["annotations"] = {"sidecar.istio.io/init-containers-before-proxy": "c,b"}
    names = [one["name"] for one in injected(made)["spec"]["initContainers"]]
    assert names == ["istio-init", "c", "b", "istio-proxy", "a"]


def test_overrides_of_an_annotation_are_laid_over_the_template() -> None:
    made = pod()
    overrides = {"containers": [{"name": "istio-proxy", "resources": {"limits": {"cpu": "9"}}}]}
    made["metadata"]["annotations"] = {"proxy.istio.io/overrides": json.dumps(overrides)}
    assert proxy_of(injected(made))["resources"]["limits"]["cpu"] == "9"


def test_scraping_that_is_switched_off_stays_off() -> None:
    made = pod()
    made["metadata"]["annotations"] = {"prometheus.io/scrape": "false"}
    annotations = injected(made)["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "false"
    assert "prometheus.io/port" not in annotations


def test_every_spelling_of_the_prometheus_annotations_is_replaced() -> None:
    made = pod()
    made["metadata"]["annotations"] = {
        "prometheus.io.scrape": "true",
        "prometheus-io/port": "8080",
        "prometheus.io/path": "/m",
    }
    found = injected(made)
    annotations = found["metadata"]["annotations"]
    assert "prometheus.io.scrape" not in annotations
    assert "prometheus-io/port" not in annotations
    assert annotations["prometheus.io/path"] == "/stats/prometheus"
    values = {one["name"]: one.get("value") for one in proxy_of(found)["env"]}
    assert json.loads(str(values["ISTIO_PROMETHEUS_ANNOTATIONS"])) == {
        "scrape": "true", "path": "/m", "port": "8080",
    }  # fmt: skip


def test_metrics_stay_when_merging_is_off() -> None:
    made = pod()
    made["metadata"]["annotations"] = {
        "prometheus.istio.io/merge-metrics": "false",
        "prometheus.io/port": "8080",
    }
    assert injected(made)["metadata"]["annotations"]["prometheus.io/port"] == "8080"


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"spec": {}}, "spec.containers: must be a list of objects"),
        ({"spec": {"containers": ["a"]}}, "spec.containers[0]: must be an object"),
        ({"spec": {"containers": [{}]}}, "spec.containers[0].name: is required"),
        ({}, "spec: must be an object"),
        (
            {"metadata": {"labels": {"a": 1}}, "spec": {"containers": []}},
            "metadata.labels[a]: must be a string (put it in quotes)",
        ),
        (
            {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": "x"}]}]}},
            "spec.containers[0].ports[0].containerPort: must be a number",
        ),
        (
            {"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": 1}}]}},
            "spec.containers[0].livenessProbe.httpGet: must be an object",
        ),
    ],
)
def test_what_is_no_pod_is_refused_with_the_field(made: dict[str, Any], problem: str) -> None:
    assert run(made) == Refused((problem,))


def test_a_template_that_does_not_exist_is_named() -> None:
    made = pod()
    made["metadata"]["annotations"] = {"inject.istio.io/templates": "sidecar, gone"}
    assert run(made) == Refused(
        (
            "annotation inject.istio.io/templates: there is no template 'gone'; there are gateway, "
            "sidecar",
        )
    )


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{spec: {containers: [{image: x}]}}", "template sidecar: spec.containers[0].name"),
        ("{spec: {nodeName: '${nobody.knows}'}}", "spec.nodeName: there is no value nobody.knows"),
    ],
)
def test_a_template_that_makes_no_pod_is_the_operators_mistake(
    template: str, sentence: str
) -> None:
    config = load_config(f"templates: {{sidecar: {template}}}")
    with pytest.raises(InjectConfigError) as error:
        run(pod(), config)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "operations"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ({"a/b": {"c~d": 1}}, {"a/b": {}}, [{"op": "remove", "path": "/a~1b/c~0d"}]),
        ([1, 2], [0, 1, 2], [{"op": "add", "path": "/0", "value": 0}]),
        ([1, 2, 3], [1, 3], [{"op": "remove", "path": "/1"}]),
        ([{"x": 1}], [{"x": 2}], [{"op": "replace", "path": "/0/x", "value": 2}]),
        ([1, 1], [1], [{"op": "remove", "path": "/1"}]),
        ([], [1], [{"op": "add", "path": "/0", "value": 1}]),
    ],
)
def test_a_patch_is_small(old: Any, new: Any, operations: list[dict[str, Any]]) -> None:
    assert difference(old, new) == operations
    assert applied(old, operations) == new


def test_parts_that_a_pod_shares_with_itself_are_not_changed_together() -> None:
    same = {"app": "web"}
    made = {"metadata": {"labels": same, "annotations": same}, **{"spec": pod()["spec"]}}
    metadata = injected(made)["metadata"]
    assert "sidecar.istio.io/status" not in metadata["labels"]
    assert same == {"app": "web"}
