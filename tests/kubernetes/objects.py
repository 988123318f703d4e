"""What several tests put into a cluster. Must not know what they find out about it."""

from __future__ import annotations

from typing import Any

from controlplane.crds.definitions import definitions
from controlplane.crds.text import as_yaml
from tests.kubernetes.cluster import Cluster


def install_definitions(cluster: Cluster) -> None:
    """Let a cluster serve Istio's kinds, as `pylot crds` prints them."""
    names = [f"crd/{item['metadata']['name']}" for item in definitions()]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=as_yaml(definitions()))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=50s", *names)


def application(name: str, spec: dict[str, Any], *, port: int) -> tuple[dict[str, Any], ...]:
    """A Deployment of one pod with this spec in `default`, and its Service."""
    labels = {"app": name}
    return (
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": labels, "ports": [{"port": port}]},
        },
    )
