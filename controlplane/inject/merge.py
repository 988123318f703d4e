"""Laying one part of a pod over another, as `kubectl patch --type strategic` does it.

Owns which lists of a pod are merged, and by what. Must not know sidecars. The rule that is easy
to break: a list that is not in the table is replaced as a whole (args, command, tolerations), as
the API's own patchStrategy tags say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_DEFAULTS: Final = {"protocol": "TCP"}
_REPLACED: Final = frozenset({"volumes", "env"})
"""Of these an entry is one choice of several (emptyDir or configMap, value or valueFrom), so that
two of them cannot be merged; the API marks volumes with retainKeys."""


def overlay(base: Any, over: Any, field: str = "") -> Any:
    """Return `base` with `over` laid over it; neither is changed. A null removes the field."""
    if isinstance(base, dict) and isinstance(over, dict):
        made = dict(base)
        for key, value in over.items():
            if value is None:
                made.pop(key, None)
            elif key in made:
                made[key] = overlay(made[key], value, key)
            else:
                made[key] = without_nulls(value)
        return made
    if isinstance(base, list) and isinstance(over, list) and field in _KEYS:
        return _merged(base, over, field)
    return without_nulls(over)


def fresh(value: Any) -> Any:
    """Return a copy in which nothing is shared, also what was shared in itself (YAML aliases)."""
    match value:
        case dict():
            return {key: fresh(entry) for key, entry in value.items()}
        case list() | tuple():
            return [fresh(entry) for entry in value]
        case _:
            return value


def without_nulls(value: Any) -> Any:
    """Return plain data without the object fields that are null."""
    match value:
        case dict():
            return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
        case list():
            return [without_nulls(entry) for entry in value]
        case _:
            return value


def _merged(base: list[Any], over: list[Any], field: str) -> list[Any]:
    made = list(base)
    places = {_identity(entry, field): index for index, entry in enumerate(made)}
    for entry in over:
        identity = _identity(entry, field)
        index = places.get(identity)
        if index is None:
            places[identity] = len(made)
            made.append(without_nulls(entry))
        elif field in _REPLACED:
            made[index] = without_nulls(entry)
        else:
            made[index] = overlay(made[index], entry)
    return made


def _identity(entry: Any, field: str) -> Any:
    if not isinstance(entry, dict):
        return repr(entry)
    return tuple(entry.get(key, _DEFAULTS.get(key)) for key in _KEYS[field])
