"""Whether plain data has the shape of a pod, as far as injection reads it.

Owns the first look at an object that nobody has checked. The rule that is easy to break: after
this, the other modules index and iterate without asking again, so a field that one of them
begins to read must be in the table here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

Kind = Any
"""A type (str, int, bool), a `_Required`, `_PORT`, `_STRINGS`, a list of one kind, or a table."""


class _Required(msgspec.Struct, frozen=True):
    """A field that must be there."""

    kind: Kind


_PORT: Final = (int, str)
_STRINGS: Final = Mapping
"""A mapping of any keys to strings."""

_ACTION: Final = {
    "httpGet": {"port": _PORT, "host": str, "path": str, "scheme": str},
    "tcpSocket": {"port": _PORT, "host": str},
    "grpc": {"port": _PORT},
}
_CONTAINER: Final = {
    "name": _Required(str),
    "image": str,
    "args": [str],
    "command": [str],
    "ports": [{"containerPort": _Required(int), "name": str, "protocol": str}],
    "env": [{"name": _Required(str)}],
    "volumeMounts": [{"mountPath": _Required(str), "name": _Required(str)}],
    "volumeDevices": [{"devicePath": _Required(str)}],
    "resources": {},
    "securityContext": {"runAsUser": int},
    "readinessProbe": _ACTION,
    "livenessProbe": _ACTION,
    "startupProbe": _ACTION,
    "lifecycle": {"preStop": _ACTION, "postStart": _ACTION},
}
_NAMED: Final = {"name": _Required(str)}
_POD: Final = {
    "metadata": {
        "name": str,
        "generateName": str,
        "labels": _STRINGS,
        "annotations": _STRINGS,
        "ownerReferences": [{"name": str, "kind": str, "apiVersion": str}],
    },
    "spec": _Required(
        {
            "hostNetwork": bool,
            "containers": _Required([_CONTAINER]),
            "initContainers": [_CONTAINER],
            "volumes": [_NAMED],
            "imagePullSecrets": [_NAMED],
            "hostAliases": [{"ip": _Required(str)}],
        }
    ),
}


def shape_problems(pod: Mapping[str, Any]) -> list[str]:
    """Return a sentence, with the path of the field, for each part that has the wrong shape."""
    return list(_misfits(pod, _POD, ""))


def container_problems(container: Mapping[str, Any], place: str) -> list[str]:
    """Return the same for one container."""
    return list(_misfits(container, _CONTAINER, place))


def _misfits(value: Any, kind: Kind, place: str) -> Iterator[str]:
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            yield f"{place}: must be an object"
            return
        for field, below in kind.items():
            inside = f"{place}.{field}" if place else field
            if value.get(field) is not None:
                wanted = below.kind if isinstance(below, _Required) else below
                yield from _misfits(value[field], wanted, inside)
            elif isinstance(below, _Required):
                yield f"{inside}: {_missing(below.kind)}"
    elif isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{place}: must be a list of {_MANY[type(kind[0])]}"
            return
        for index, entry in enumerate(value):
            yield from _misfits(entry, kind[0], f"{place}[{index}]")
    elif kind is _STRINGS:
        if not isinstance(value, dict):
            yield f"{place}: must be an object"
            return
        for key, entry in value.items():
            if not isinstance(entry, str):
                yield f"{place}[{key}]: must be a string (put it in quotes)"
    elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        yield f"{place}: must be {_ONE[kind]}"


_ONE: Final[Mapping[Any, str]] = {
    str: "a string",
    int: "a number",
    bool: "true or false",
    _PORT: "a number or the name of a port",
}
_MANY: Final[Mapping[Any, str]] = {dict: "objects", type: "strings"}


def _missing(kind: Kind) -> str:
    match kind:
        case dict():
            return "must be an object"
        case list():
            return f"must be a list of {_MANY[type(kind[0])]}"
        case _:
            return "is required"
