"""The harness itself: a real API server that can be restarted, compacted and asked as anybody."""

from __future__ import annotations

import json

import pytest

from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes


def _config_map(namespace: str, name: str, **data: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": data,
    }


def _resource_version(cluster: Cluster, namespace: str, name: str) -> int:
    found = cluster.kubectl("get", "configmap", "-n", namespace, name, "-o", "json").stdout
    return int(json.loads(found)["metadata"]["resourceVersion"])


def test_objects_survive_a_restart_of_the_api_server(cluster: Cluster, namespace: str) -> None:
    """Ports and data stay, so that clients find the same server again."""
    cluster.apply(_config_map(namespace, "kept", key="value"))
    before = _resource_version(cluster, namespace, "kept")
    cluster.restart_api_server(kill=True)
    assert _resource_version(cluster, namespace, "kept") == before


def test_history_is_gone_after_a_compaction(cluster: Cluster, namespace: str) -> None:
    """A watch from an older version is refused with 410 as soon as etcd has forgotten it."""
    cluster.apply(_config_map(namespace, "one", key="a"))
    old = _resource_version(cluster, namespace, "one")
    cluster.apply(_config_map(namespace, "one", key="b"))
    cluster.compact()
    cluster.restart_api_server()  # its own cache remembers longer than etcd
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    query = f"?watch=true&resourceVersion={old}&timeoutSeconds=1"
    done = cluster.kubectl("get", "--raw", path + query, check=False)
    assert '"code":410' in done.stdout.replace(" ", ""), done


def test_a_user_without_a_rule_is_refused(cluster: Cluster, namespace: str) -> None:
    """RBAC is on: who has no rule may do nothing."""
    nobody = cluster.kubeconfig_for("nobody")
    done = cluster.kubectl("get", "configmaps", "-n", namespace, kubeconfig=nobody, check=False)
    assert done.returncode != 0
    assert "forbidden" in done.stderr.lower()
