"""What pods, nodes and WorkloadEntries tell about the workload behind an endpoint.

Source: Istio's kube/controller/pod.go and endpoint_builder.go. The rule that is easy to break:
a workload is shared by all endpoints of a pod, so it must not depend on a port or a service.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from controlplane.model.base import Labels
from controlplane.model.core import Node, Pod
from controlplane.model.meta import ObjectMeta
from controlplane.model.service_entry import WorkloadEntrySpec
from controlplane.model.services import Workload

REGION: Final = "topology.kubernetes.io/region"
ZONE: Final = "topology.kubernetes.io/zone"
SUBZONE: Final = "topology.istio.io/subzone"
NETWORK: Final = "topology.istio.io/network"
TLS_MODE: Final = "security.istio.io/tlsMode"
_POD_LOCALITY: Final = ("topology.istio.io/locality", "istio-locality")
_REPLICA_HASH: Final = "pod-template-hash"
_WORKLOAD_NAME: Final = "service.istio.io/workload-name"


def pod_workload(pod: Pod, node: Node | None, *, zone: str = "", cluster: str = "") -> Workload:
    """Return the workload of a pod; `zone` counts when neither pod nor node say where it is."""
    labels = pod.metadata.labels
    return Workload(
        name=sys.intern(workload_name(pod.metadata)),  # that of all pods of the controller
        namespace=pod.metadata.namespace,
        labels=labels,
        service_account=pod.spec.service_account_name,
        node=pod.spec.node_name,
        locality=_pod_locality(labels) or place_locality(node, zone),
        network=labels.get(NETWORK, ""),
        cluster=cluster,
        tls_mode=labels.get(TLS_MODE) or "disabled",
    )


def entry_workload(
    spec: WorkloadEntrySpec,
    *,
    name: str,
    namespace: str,
    labels: Labels,
    external: bool,
    cluster: str = "",
) -> Workload:
    """Return the workload of a WorkloadEntry or of an endpoint of a ServiceEntry."""
    return Workload(
        name=name,
        namespace=namespace,
        labels=labels,
        service_account=spec.service_account,
        locality=spec.locality or _pod_locality(labels),
        network=spec.network or labels.get(NETWORK, ""),
        cluster=cluster,
        tls_mode="disabled" if external else labels.get(TLS_MODE) or "disabled",
    )


def place_locality(node: Node | None, zone: str) -> str:
    """Return `region/zone/subzone` of a node, else of a bare zone, without an empty tail."""
    labels: Mapping[str, str] = node.metadata.labels if node is not None else {}
    parts = (labels.get(REGION, ""), labels.get(ZONE, "") or zone, labels.get(SUBZONE, ""))
    return sys.intern("/".join(parts).rstrip("/"))


def _pod_locality(labels: Labels) -> str:
    for key in _POD_LOCALITY:
        text = labels.get(key)
        if text:
            # A label value cannot hold a slash, so Istio takes dots for them.
            return text if "/" in text else text.replace(".", "/")
    return ""


def workload_name(meta: ObjectMeta) -> str:
    """Return the name of the controller that made a pod, as far as the pod's name tells it.

    A pod of a Deployment is called DEPLOYMENT-HASH-SUFFIX, its label pod-template-hash says
    HASH; any other pod is its own workload.
    """
    named = meta.labels.get(_WORKLOAD_NAME)
    if named:
        return named
    replica_hash = meta.labels.get(_REPLICA_HASH)
    if replica_hash:
        before, found, _ = meta.name.rpartition(f"-{replica_hash}-")
        if found and before:
            return before
    return meta.name


def pod_ips(pod: Pod) -> tuple[str, ...]:
    """Return the addresses of a pod, all families, the primary one first."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return ()
    found = (pod.status.pod_ip, *(entry.ip for entry in pod.status.pod_ips))
    return tuple(dict.fromkeys(ip for ip in found if ip))


def pod_ready(pod: Pod) -> bool:
    """Whether a pod serves: its Ready condition, else (in hand-written files) its phase."""
    for condition in pod.status.conditions:
        if condition.type == "Ready":
            return condition.status == "True"
    return pod.status.phase in ("", "Running")


def container_port(pod: Pod, name: str) -> int:
    """Return the number of a named container port, 0 when the pod has none of that name."""
    for container in pod.spec.containers:
        for port in container.ports:
            if port.name == name:
                return port.container_port
    return 0
