"""Whether plain data has the shape of a pod, as far as injection reads it.

Owns the first look at an object that nobody has checked. The rule that is easy to break: after
this, the other modules index and iterate without asking again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_LISTS: Final = ("containers", "initContainers", "volumes", "imagePullSecrets")
_PROBES: Final = ("readinessProbe", "livenessProbe", "startupProbe")
_HOOKS: Final = ("preStop", "postStart")
_ACTIONS: Final = ("httpGet", "tcpSocket", "grpc")


def shape_problems(pod: Mapping[str, Any]) -> list[str]:
    """Return a sentence, with the path of the field, for each part that has the wrong shape."""
    return [*_metadata(pod.get("metadata")), *_spec(pod.get("spec"))]


def _metadata(metadata: Any) -> Iterator[str]:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        yield "metadata: must be an object"
        return
    for field in ("labels", "annotations"):
        entries = metadata.get(field)
        if entries is None:
            continue
        if not isinstance(entries, dict):
            yield f"metadata.{field}: must be an object"
            continue
        for key, value in entries.items():
            if not isinstance(value, str):
                yield f"metadata.{field}[{key}]: must be a string (put it in quotes)"
    references = metadata.get("ownerReferences")
    if references is not None and not _objects(references):
        yield "metadata.ownerReferences: must be a list of objects"


def _spec(spec: Any) -> Iterator[str]:
    if not isinstance(spec, dict):
        yield "spec: must be an object"
        return
    for field in _LISTS:
        entries: Any = spec.get(field)
        if entries is None and field != "containers":
            continue
        if not _objects(entries):
            yield f"spec.{field}: must be a list of objects"
            continue
        for index, entry in enumerate(entries):
            place = f"spec.{field}[{index}]"
            if not isinstance(entry.get("name"), str):
                yield f"{place}.name: is required"
            elif field in ("containers", "initContainers"):
                yield from _container(entry, place)


def _container(container: Mapping[str, Any], place: str) -> Iterator[str]:
    for field in ("ports", "env", "volumeMounts"):
        if container.get(field) is not None and not _objects(container[field]):
            yield f"{place}.{field}: must be a list of objects"
    for index, port in enumerate(container.get("ports") or ()):
        number = port.get("containerPort") if isinstance(port, dict) else 0
        if not isinstance(number, int) or isinstance(number, bool):
            yield f"{place}.ports[{index}].containerPort: must be a number"
    security = container.get("securityContext")
    if security is not None and not isinstance(security, dict):
        yield f"{place}.securityContext: must be an object"
    for field in _PROBES:
        yield from _actions(container.get(field), f"{place}.{field}")
    lifecycle = container.get("lifecycle")
    if lifecycle is not None and not isinstance(lifecycle, dict):
        yield f"{place}.lifecycle: must be an object"
    else:
        for field in _HOOKS:
            yield from _actions((lifecycle or {}).get(field), f"{place}.lifecycle.{field}")


def _actions(probe: Any, place: str) -> Iterator[str]:
    if probe is None:
        return
    if not isinstance(probe, dict):
        yield f"{place}: must be an object"
        return
    for action in _ACTIONS:
        if probe.get(action) is not None and not isinstance(probe[action], dict):
            yield f"{place}.{action}: must be an object"


def _objects(entries: Any) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
