"""What an installation brings, out of the manifest that users apply: values only.

Owns what differs here: the control plane runs in the node and not in a pod, so its Deployment is
left out and its Service has the node as its endpoint; and proxies are told an address, because
there is neither a DNS server nor a kube-proxy. The rule that is easy to break: everything else is
as it is in the manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from controlplane.agent.bootstrap import SocketAddress

SYSTEM: Final = "istio-system"
INJECTED: Final = {"istio-injection": "enabled"}
_MANIFEST: Final = Path(__file__).resolve().parents[2] / "deploy" / "pylot.yaml"
_CONTROL_PLANE: Final = "istiod"
_NEEDS_A_POD: Final = ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget")


def mesh_config(xds: SocketAddress) -> dict[str, Any]:
    """The MeshConfig, with DNS proxies in the place of a DNS server."""
    return {
        "defaultConfig": {
            "discoveryAddress": str(xds),
            "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"},
        }
    }


def installation(address: str, xds: SocketAddress) -> list[dict[str, Any]]:
    """The objects; webhooks are served at an address, xDS at another one."""
    documents = yaml.safe_load_all(_MANIFEST.read_text())
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "default", "labels": INJECTED},
        },
        *(made for one in documents if one for made in _adapted(one, address, xds)),
    ]


def _adapted(one: dict[str, Any], address: str, xds: SocketAddress) -> list[dict[str, Any]]:
    match one["kind"], one["metadata"]["name"]:
        case kind, name if name == _CONTROL_PLANE and kind in _NEEDS_A_POD:
            return []
        case "ConfigMap", "istio":
            return [{**one, "data": {"mesh": yaml.safe_dump(mesh_config(xds))}}]
        case "Service", name if name == _CONTROL_PLANE:
            ports = one["spec"]["ports"]
            return [{**one, "spec": {"ports": ports}}, _endpoints(ports, address)]
    return [one]


def _endpoints(ports: list[dict[str, Any]], address: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": _CONTROL_PLANE}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": _CONTROL_PLANE, "namespace": SYSTEM, "labels": labels},
        "addressType": "IPv4",
        "ports": [
            {"name": port["name"], "port": port.get("targetPort", port["port"])} for port in ports
        ],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
