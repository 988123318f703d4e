"""What made a pod: the workload whose name the proxy reports.

Owns Istio's way from a pod to its Deployment, CronJob or DeploymentConfig by names alone. Must
not know templates. The rule that is easy to break: a name is cut only when what is cut off is
proven to be generated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_CRON_JOB: Final = re.compile(r"(.+)-\d{8,10}")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A workload; `name` is empty when nobody knows it yet."""

    name: str = ""
    kind: str = ""
    api_version: str = ""
    namespace: str = ""

    @property
    def reference(self) -> str:
        """Istio's ISTIO_META_OWNER, empty when the owner is not known."""
        if not self.name or not self.api_version:
            return ""
        namespace = self.namespace or "default"
        return (
            f"kubernetes://apis/{self.api_version}/namespaces/{namespace}/"
            f"{self.kind.lower()}s/{self.name}"
        )


def owner_of_pod(pod: Mapping[str, Any], namespace: str) -> Owner:
    """Return the workload behind a pod, the pod itself when it has no controller.

    A rule of Istio's GetWorkloadMetaFromPod.
    """
    metadata = pod.get("metadata") or {}
    controllers = [
        reference
        for reference in metadata.get("ownerReferences") or ()
        if reference.get("controller")
    ]
    if not controllers:
        return Owner(
            name=metadata.get("name") or "", kind="Pod", api_version="v1", namespace=namespace
        )
    controller = controllers[0]
    name = str(controller.get("name", ""))
    kind = str(controller.get("kind", ""))
    version = str(controller.get("apiVersion", ""))
    labels = metadata.get("labels") or {}
    template_hash = labels.get("pod-template-hash")
    deployment_config = labels.get("deploymentconfig")
    cron_job = _CRON_JOB.fullmatch(name) if kind == "Job" else None
    if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
        name, kind = name.removesuffix(f"-{template_hash}"), "Deployment"
    elif kind == "ReplicationController" and deployment_config:
        name, kind, version = deployment_config, "DeploymentConfig", "apps.openshift.io/v1"
    elif cron_job is not None:
        name, kind, version = cron_job[1], "CronJob", "batch/v1"
    return Owner(name=name, kind=kind, api_version=version, namespace=namespace)
