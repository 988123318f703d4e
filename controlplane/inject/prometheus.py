"""The prometheus.io annotations of a pod, pointed at the agent that merges all metrics.

Owns which spellings Prometheus takes for the same annotation. The rule that is easy to break:
an application's own port and path must reach the agent before they are overwritten.

Rules: Istio's applyPrometheusMerge (pkg/kube/inject/webhook.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from controlplane.inject.annotations import FALSE

ENVIRONMENT: Final = "ISTIO_PROMETHEUS_ANNOTATIONS"
PATH: Final = "/stats/prometheus"
_FIELDS: Final = {
    "prometheus_io_scrape": "scrape",
    "prometheus_io_path": "path",
    "prometheus_io_port": "port",
}


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The new annotations, and the variable that tells the agent where the application is."""

    annotations: dict[str, str]
    variable: dict[str, str] | None


def merge(annotations: Mapping[str, str], port: int) -> Merged | None:
    """Return the annotations pointed at the agent, None when they are to stay as they are.

    They stay when scraping is switched off, or when they name the agent's port already.
    """
    said = {
        _FIELDS[spelling]: value
        for name, value in annotations.items()
        if (spelling := re.sub(r"[^a-zA-Z0-9_]", "_", name)) in _FIELDS
    }
    if said.get("scrape") in FALSE or said.get("port") == str(port):
        return None
    made = {
        name: value
        for name, value in annotations.items()
        if re.sub(r"[^a-zA-Z0-9_]", "_", name) not in _FIELDS
    }
    made["prometheus.io/port"] = str(port)
    made["prometheus.io/path"] = PATH
    made["prometheus.io/scrape"] = "true"
    variable = None
    if said:
        scrape = {field: said.get(field, "") for field in ("scrape", "path", "port")}
        variable = {"name": ENVIRONMENT, "value": msgspec.json.encode(scrape).decode()}
    return Merged(annotations=made, variable=variable)
