"""Probes and hooks of the application that the agent takes over.

Owns the rewriting of HTTP, TCP and gRPC probes to `/app-health/CONTAINER/{readyz,livez,startupz}`
and of HTTP and TCP hooks to `/app-lifecycle/CONTAINER/{prestopz,poststartz}` on the agent's port,
and the table by which the agent asks the application. Must not know templates. The rule that is
easy to break: a probe is rewritten only when the table has it, else the agent would answer for an
application that it cannot ask.

The kubelet's probes would be captured and refused by strict mutual TLS; the agent asks from
inside the pod. Rules: Istio's pkg/kube/inject/app_probe.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane.inject.names import PROXY

ENVIRONMENT: Final = "ISTIO_KUBE_APP_PROBERS"
_PROBES: Final = (
    ("readinessProbe", "readyz"),
    ("livenessProbe", "livez"),
    ("startupProbe", "startupz"),
)
_HOOKS: Final = (("preStop", "prestopz"), ("postStart", "poststartz"))
_ACTIONS: Final = ("httpGet", "tcpSocket", "grpc")


class Rewritten(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's spec with its probes rewritten, and the agent's table (path to action)."""

    spec: dict[str, Any]
    table: Mapping[str, dict[str, Any]]
    warnings: tuple[str, ...]

    @property
    def variable(self) -> dict[str, str]:
        """The environment variable that tells the agent."""
        return {"name": ENVIRONMENT, "value": msgspec.json.encode(self.table).decode()}


def rewrite(spec: Mapping[str, Any], port: int) -> Rewritten:
    """Return the spec with every probe that a sidecar would be in the way of sent to `port`."""
    made = dict(spec)
    table: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    for field in ("initContainers", "containers"):
        if spec.get(field):
            made[field] = [
                container
                if container["name"] == PROXY
                else _container(container, port, table, warnings)
                for container in spec[field]
            ]
    return Rewritten(spec=made, table=table, warnings=tuple(warnings))


def _container(
    container: Mapping[str, Any], port: int, table: dict[str, dict[str, Any]], warnings: list[str]
) -> dict[str, Any]:
    made = dict(container)
    name = container["name"]
    for field, word in _PROBES:
        path = f"/app-health/{name}/{word}"
        warning = _take_over(made, field, path=path, port=port, table=table)
        if warning:
            warnings.append(f"container {name}: {field}.{warning}")
    if container.get("lifecycle"):
        made["lifecycle"] = dict(container["lifecycle"])
        for field, word in _HOOKS:
            path = f"/app-lifecycle/{name}/{word}"
            warning = _take_over(
                made["lifecycle"], field, path=path, port=port, table=table, ports=container
            )
            if warning:
                warnings.append(f"container {name}: lifecycle.{field}.{warning}")
    return made


def _take_over(
    holder: dict[str, Any],
    field: str,
    *,
    path: str,
    port: int,
    table: dict[str, dict[str, Any]],
    ports: Mapping[str, Any] | None = None,
) -> str | None:
    """Rewrite one probe or hook of `holder`, or return why it is left as it is."""
    probe = holder.get(field)
    action = next((name for name in _ACTIONS if (probe or {}).get(name) is not None), None)
    if not probe or action is None:
        return None
    asked = dict(probe[action])
    if asked.get("host"):
        # It does not go to the pod, so the pod's agent has no part in it.
        return None
    number = _number(asked.get("port"), ports or holder)
    if number is None:
        return (
            f"{action}.port: there is no port {asked.get('port')!r} in the container; "
            "it is left as it is"
        )
    if number == port:
        return None
    table[path] = {action: {**asked, "port": number}}
    if "timeoutSeconds" in probe:
        table[path]["timeoutSeconds"] = probe["timeoutSeconds"]
    holder[field] = _rewritten(probe, action, path, port)
    return None


def _rewritten(probe: Mapping[str, Any], action: str, path: str, port: int) -> dict[str, Any]:
    get = {**probe[action]} if action == "httpGet" else {}
    get.update(path=path, port=port)
    if get.get("scheme") == "HTTPS":
        # The kubelet speaks HTTP to the agent, the agent HTTPS to the application.
        get["scheme"] = "HTTP"
    # In the place of the old action, so that a difference of the two pods stays small.
    return {
        ("httpGet" if key == action else key): (get if key == action else value)
        for key, value in probe.items()
    }


def _number(port: Any, container: Mapping[str, Any]) -> int | None:
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            number: int = entry["containerPort"]
            return number
    return int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else None
