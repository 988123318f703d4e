"""An Envoy's config dump as plain values: what is active, by kind.

Owns the shape of Envoy's `/config_dump` (envoy.admin.v3). Must not know how it is printed. The
rule that is easy to break: a dump may come from an older or newer Envoy, so what is absent or
unknown is skipped, never an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.debug.redact import redact
from controlplane.errors import OutsideError, UsageError

Message = Mapping[str, Any]
"""One of Envoy's messages as JSON data with proto field names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret of the dump; `status` is ACTIVE or WARMING."""

    name: str
    status: str
    body: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyDump:
    """Everything that one Envoy runs. Private keys have been taken out.

    `statuses` is the answer of `/clusters?format=json`, absent for a dump from a file.
    """

    bootstrap: Message = field(default_factory=dict)
    listeners: tuple[Message, ...] = ()
    clusters: tuple[Message, ...] = ()
    routes: tuple[Message, ...] = ()
    endpoints: tuple[Message, ...] = ()
    secrets: tuple[Secret, ...] = ()
    statuses: tuple[Message, ...] | None = None


def parse_dump(data: Any, *, where: str, statuses: Any = None) -> EnvoyDump:
    """Return the dump that JSON data holds; raises OutsideError when it is no dump at all.

    `where` names the file or address in the error.
    """
    configs = data.get("configs") if isinstance(data, Mapping) else None
    if not isinstance(configs, list):
        raise OutsideError(f"{where} is not an Envoy config dump: it has no list `configs`")
    sections = {
        str(section.get("@type", "")).rpartition(".")[2]: section
        for section in redact(configs)
        if isinstance(section, Mapping)
    }
    clusters = sections.get("ClustersConfigDump", {})
    listeners = sections.get("ListenersConfigDump", {})
    routes = sections.get("RoutesConfigDump", {})
    endpoints = sections.get("EndpointsConfigDump", {})
    return EnvoyDump(
        bootstrap=sections.get("BootstrapConfigDump", {}).get("bootstrap", {}),
        listeners=(
            *_dynamic_listeners(listeners),
            *_each(listeners, "static_listeners", "listener"),
        ),
        clusters=(
            *_each(clusters, "dynamic_active_clusters", "cluster"),
            *_each(clusters, "static_clusters", "cluster"),
        ),
        routes=(
            *_each(routes, "dynamic_route_configs", "route_config"),
            *_each(routes, "static_route_configs", "route_config"),
        ),
        endpoints=(
            *_each(endpoints, "dynamic_endpoint_configs", "endpoint_config"),
            *_each(endpoints, "static_endpoint_configs", "endpoint_config"),
        ),
        secrets=tuple(_secrets(sections.get("SecretsConfigDump", {}))),
        statuses=_statuses(statuses),
    )


def read_dump(path: str) -> EnvoyDump:
    """Return the dump in a file, or on standard input for `-`.

    Raises UsageError when the file cannot be read, OutsideError when it is no dump.
    """
    where = "standard input" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--file: {where} cannot be read: {reason}") from None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise OutsideError(f"{where} is not JSON: {error}") from None
    return parse_dump(data, where=where)


def _each(section: Message, group: str, name: str) -> Iterator[Message]:
    for entry in section.get(group, ()):
        message = entry.get(name)
        if isinstance(message, Mapping):
            yield message


def _dynamic_listeners(section: Message) -> Iterator[Message]:
    for entry in section.get("dynamic_listeners", ()):
        message = entry.get("active_state", {}).get("listener")
        if isinstance(message, Mapping):
            yield message


def _secrets(section: Message) -> Iterator[Secret]:
    for group, status in (
        ("static_secrets", "ACTIVE"),
        ("dynamic_active_secrets", "ACTIVE"),
        ("dynamic_warming_secrets", "WARMING"),
    ):
        for entry in section.get(group, ()):
            body = entry.get("secret", {})
            yield Secret(name=entry.get("name") or body.get("name", ""), status=status, body=body)


def _statuses(data: Any) -> tuple[Message, ...] | None:
    found = data.get("cluster_statuses") if isinstance(data, Mapping) else None
    return tuple(found) if isinstance(found, list) else None
