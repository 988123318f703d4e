"""Where the pod is in a workload.

Owns the kinds that hold a pod template and the path to it. The rule that is easy to break: an
object of a known kind name in a foreign API group is not a workload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane.inject.owner import Owner

_TEMPLATE: Final = ("spec", "template")
_PATHS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "Pod"): (),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
    ("apps.openshift.io", "DeploymentConfig"): _TEMPLATE,
    ("argoproj.io", "Rollout"): _TEMPLATE,
}


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A pod inside an object: the path to it, itself, and what it belongs to.

    `owner` is None for an object that is a pod: it says so by itself.
    """

    path: tuple[str, ...]
    pod: Mapping[str, Any]
    owner: Owner | None
    namespace: str


def find_workload(value: Mapping[str, Any], default_namespace: str) -> Workload | str | None:
    """Return the pod in an object, None when it is no workload, a sentence when it is broken."""
    version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return None
    group = version.rpartition("/")[0]
    path = _PATHS.get((group, kind))
    if path is None:
        return None
    pod: Any = value
    for index, part in enumerate(path):
        pod = pod.get(part)
        if not isinstance(pod, Mapping):
            return f"{'.'.join(path[: index + 1])}: must be an object"
    metadata = value.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        return "metadata: must be an object"
    meta: Mapping[str, Any] = metadata or {}
    namespace = str(meta.get("namespace") or default_namespace)
    owner = None
    if path:
        name = str(meta.get("name") or "")
        owner = Owner(name=name, kind=kind, api_version=version, namespace=namespace)
    return Workload(path=path, pod=pod, owner=owner, namespace=namespace)


def with_pod(value: Mapping[str, Any], path: tuple[str, ...], pod: Mapping[str, Any]) -> Any:
    """Return the object with another pod in it; the object itself is not changed."""
    if not path:
        return {**value, **pod}
    return {**value, path[0]: with_pod(value[path[0]], path[1:], pod)}
