"""The real controllers: what a Deployment and a Service become without any help of a test."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.objects import application

pytestmark = [pytest.mark.kubernetes, pytest.mark.controllers]

_PATIENCE: Final = 60.0  # seconds; controllers wait for their first lists


@pytest.fixture(scope="module")
def controlled(own_cluster: Cluster) -> Cluster:
    """A cluster with controllers."""
    own_cluster.start_controller_manager()
    return own_cluster


def _items(cluster: Cluster, kind: str, *, count: int) -> list[dict[str, Any]]:
    """Wait until there are as many objects of a kind in `default`, and return them."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = json.loads(cluster.kubectl("get", kind, "-o", "json").stdout)["items"]
        if len(found) == count:
            return list(found)
        assert time.monotonic() < deadline, cluster.log("kube-controller-manager")[-3000:]
        time.sleep(0.1)


def test_a_deployment_becomes_pods_and_a_ready_pod_an_endpoint(controlled: Cluster) -> None:
    spec = {"containers": [{"name": "web", "image": "web"}]}
    controlled.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}},
        *application("web", spec, port=80),
    )
    (pod,) = _items(controlled, "pods", count=1)
    name = pod["metadata"]["name"]
    target = {"apiVersion": "v1", "kind": "Node", "name": "node"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    path = f"/api/v1/namespaces/default/pods/{name}/binding"
    controlled.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))
    status = {
        "phase": "Running",
        "podIP": "10.244.0.7",
        "podIPs": [{"ip": "10.244.0.7"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    patch = json.dumps({"status": status})
    controlled.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)

    def addresses() -> list[str]:
        words = ("get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "json")
        return [
            address
            for item in json.loads(controlled.kubectl(*words).stdout)["items"]
            for endpoint in item["endpoints"] or ()
            for address in endpoint["addresses"]
            if endpoint["conditions"]["ready"]
        ]

    deadline = time.monotonic() + _PATIENCE
    while addresses() != ["10.244.0.7"]:
        assert time.monotonic() < deadline, addresses()
        time.sleep(0.1)
    controlled.kubectl("delete", "deployment", "web", "--wait=false")
    _items(controlled, "replicasets", count=0)
