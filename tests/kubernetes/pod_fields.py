"""What a pod's spec says to a container: variables, references to fields, expansions, its user.

Pure functions over the pod as the API server has it. Must not know processes. The rule that is
easy to break: what is not understood is refused, because a container that runs with half of its
spec proves nothing. Variables of services (enableServiceLinks) are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tests.kubernetes.api import Object

_REFERENCE: Final = re.compile(r"\$(\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")
_KEYED: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_SUFFIXES: Final = {
    "": 1.0,
    "m": 1e-3,
    **{name: 1000.0**power for power, name in enumerate("kMGTP", start=1)},
    **{f"{name}i": 1024.0**power for power, name in enumerate("KMGTP", start=1)},
}
_QUANTITY: Final = re.compile(r"([0-9.]+)([a-zA-Z]*)")


class UnsupportedError(Exception):
    """The pod says something that this kubelet cannot do."""


class User(NamedTuple):
    """As whom a container runs."""

    uid: int
    gid: int
    capabilities: tuple[str, ...]
    no_new_privileges: bool
    read_only_root: bool


def environment(
    pod: Object, container: Object, *, own: Mapping[str, str], capacity: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of a container, over those of its image (`own`).

    `capacity` is the node's, which a limit that is not said stands for.
    """
    if container.get("envFrom"):
        raise UnsupportedError("envFrom")
    found = dict(own)
    declared: dict[str, str] = {}
    for entry in container.get("env") or ():
        if "valueFrom" in entry:
            value = _value_from(pod, container, entry["valueFrom"], capacity)
        else:
            value = expand(entry.get("value", ""), declared)
        declared[entry["name"]] = value
    return {**found, **declared}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does: an unknown name stays, `$$` is a dollar."""

    def replace(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else variables.get(found[2], found[0])

    return _REFERENCE.sub(replace, text)


def command_of(
    container: Object, entrypoint: tuple[str, ...], variables: Mapping[str, str]
) -> list[str]:
    """The command line: the container's command in the place of the image's, then its args."""
    command = container.get("command") or entrypoint
    return [expand(word, variables) for word in (*command, *(container.get("args") or ()))]


def field(pod: Object, path: str) -> str:
    """The value of a fieldPath of the downward API; raises UnsupportedError."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    keyed = _KEYED.fullmatch(path)
    if keyed is not None:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    match path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata[path.removeprefix("metadata.")])
        case "metadata.labels" | "metadata.annotations":
            items = metadata.get(path.removeprefix("metadata.")) or {}
            return "\n".join(f"{name}={json.dumps(items[name])}" for name in sorted(items))
        case "spec.nodeName":
            return str(spec["nodeName"])
        case "spec.serviceAccountName":
            return account_of(pod)
        case "status.hostIP" | "status.podIP":
            return str(status[path.removeprefix("status.")])
        case "status.podIPs" | "status.hostIPs":
            return ",".join(entry["ip"] for entry in status[path.removeprefix("status.")])
    raise UnsupportedError(f"fieldPath {path}")


def account_of(pod: Object) -> str:
    """The name of the pod's service account."""
    return str(pod["spec"].get("serviceAccountName") or "default")


def user_of(pod: Object, container: Object, *, uid: int, gid: int) -> User:
    """As whom a container runs, `uid` and `gid` being the image's; raises UnsupportedError."""
    outer = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    said = {**outer, **own}
    user = int(said.get("runAsUser", uid))
    if said.get("runAsNonRoot") and user == 0:
        raise UnsupportedError("root, where runAsNonRoot forbids it")
    wanted = own.get("capabilities") or {}
    dropped = {name.upper() for name in wanted.get("drop") or ()}
    if "ALL" not in dropped:
        raise UnsupportedError("the capabilities of a runtime's default: drop ALL")
    added = tuple(name.lower() for name in wanted.get("add") or ())
    return User(
        uid=user,
        gid=int(said.get("runAsGroup", gid)),
        capabilities=added,
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        read_only_root=bool(own.get("readOnlyRootFilesystem")),
    )


def quantity(text: str) -> float:
    """The number that a quantity such as `2000m` or `1Gi` means; raises UnsupportedError."""
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in _SUFFIXES:
        raise UnsupportedError(f"quantity {text!r}")
    return float(found[1]) * _SUFFIXES[found[2]]


def _value_from(pod: Object, container: Object, source: Object, capacity: Mapping[str, str]) -> str:
    match source:
        case {"fieldRef": {"fieldPath": str(path)}}:
            return field(pod, path)
        case {"resourceFieldRef": {"resource": str(resource), **rest}}:
            kind, _, name = resource.partition(".")
            limits: dict[str, Any] = (container.get("resources") or {}).get(kind) or {}
            amount = quantity(str(limits.get(name) or capacity[name]))
            divisor = quantity(str(rest.get("divisor") or 1)) or 1
            return str(math.ceil(amount / divisor))
    raise UnsupportedError(f"valueFrom {'/'.join(source)}")
