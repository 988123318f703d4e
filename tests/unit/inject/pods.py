"""Builders of pods, and an applier of JSON patches that is independent of the code under test."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

Operations = list[dict[str, Any]]


def pod(name: str = "app", **spec: Any) -> dict[str, Any]:
    """Return a pod of one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": name, "image": "example/app"}], **spec},
    }


def applied(document: Any, operations: Operations) -> Any:
    """Return a document with an RFC 6902 patch applied; a path that does not exist fails."""
    made = json.loads(json.dumps(document))  # nothing shared, as behind a network
    for operation in operations:
        parts = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        if not parts:
            assert operation["op"] == "replace"
            made = operation["value"]
            continue
        target = made
        for part in parts[:-1]:
            target = target[int(part)] if isinstance(target, list) else target[part]
        _apply(target, parts[-1], operation)
    return made


def _apply(target: Any, last: str, operation: dict[str, Any]) -> None:
    value = copy.deepcopy(operation.get("value"))
    match operation["op"], target:
        case "add", list():
            assert 0 <= int(last) <= len(target)
            target.insert(int(last), value)
        case "add", dict():
            target[last] = value
        case "replace", list():
            target[int(last)] = value
        case "replace", dict():
            assert last in target
            target[last] = value
        case "remove", list():
            del target[int(last)]
        case "remove", dict():
            del target[last]
        case other:
            raise AssertionError(f"no such operation: {other}")


_WORDS = st.sampled_from(["app", "web", "db", "istio", "x-1"])
_PORTS = st.integers(1, 65535)
_ACTIONS = st.one_of(
    st.fixed_dictionaries(
        {"httpGet": st.fixed_dictionaries({"port": _PORTS, "path": st.just("/")})}
    ),
    st.fixed_dictionaries({"httpGet": st.fixed_dictionaries({"port": st.just("http")})}),
    st.fixed_dictionaries({"tcpSocket": st.fixed_dictionaries({"port": _PORTS})}),
    st.fixed_dictionaries({"grpc": st.fixed_dictionaries({"port": _PORTS})}),
    st.just({"exec": {"command": ["true"]}}),
)
_CONTAINERS = st.fixed_dictionaries(
    {"image": st.just("example/app")},
    optional={
        "ports": st.lists(
            st.fixed_dictionaries({"containerPort": _PORTS}, optional={"name": st.just("http")}),
            max_size=2,
        ),
        "env": st.just([{"name": "A", "value": "1"}]),
        "readinessProbe": _ACTIONS,
        "livenessProbe": _ACTIONS,
        "volumeMounts": st.just([{"name": "v", "mountPath": "/v"}]),
    },
)
_OWN_PROXY: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"name": st.just("istio-proxy"), "image": st.sampled_from(["auto", "example/proxy"])},
    optional={
        "securityContext": st.fixed_dictionaries({"runAsUser": st.sampled_from([0, 1337, 2000])}),
        "env": st.just([{"name": "POD_NAME", "value": "fixed"}]),
        "resources": st.just({"limits": {"cpu": "1"}}),
    },
)
_ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "sidecar.istio.io/nativeSidecar": st.sampled_from(["true", "false"]),
        "sidecar.istio.io/interceptionMode": st.sampled_from(["REDIRECT", "TPROXY", "NONE"]),
        "sidecar.istio.io/rewriteAppHTTPProbers": st.sampled_from(["true", "false"]),
        "status.sidecar.istio.io/port": st.sampled_from(["0", "15020", "16020"]),
        "prometheus.io/scrape": st.sampled_from(["true", "false"]),
        "prometheus.io/port": st.sampled_from(["9090", "15020"]),
        "proxy.istio.io/config": st.just("holdApplicationUntilProxyStarts: true"),
        "traffic.sidecar.istio.io/excludeInboundPorts": st.sampled_from(["", "22,23"]),
        "example.org/a~b": st.just("x"),
    },
)


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    """Return a pod as a user could write it, with every feature or none."""
    names = draw(st.lists(_WORDS, min_size=1, max_size=3, unique=True))
    containers: list[dict[str, Any]] = [{"name": name, **draw(_CONTAINERS)} for name in names]
    if draw(st.booleans()):
        containers.insert(draw(st.integers(0, len(containers))), draw(_OWN_PROXY))
    made: dict[str, Any] = {"spec": {"containers": containers}}
    if draw(st.booleans()):
        made["spec"]["initContainers"] = [{"name": "setup", "image": "example/setup"}]
    if draw(st.booleans()):
        made["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    annotations = draw(_ANNOTATIONS)
    labels = draw(st.dictionaries(st.sampled_from(["app", "version"]), _WORDS, max_size=2))
    if annotations or labels:
        made["metadata"] = {"annotations": annotations, "labels": labels}
    return made
