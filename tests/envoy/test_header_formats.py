"""What is known of Envoy's format commands is what an Envoy says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controlplane.agent.envoy import find_envoy
from controlplane.translate.header_formats import COMMANDS, NEED_PARAMETERS, format_problem

pytestmark = pytest.mark.envoy

PARAMETERS = {
    "CEL": "request.path",
    "COALESCE": '{"operators": ["PROTOCOL"]}',
    "COMMON_DURATION": "DS_RX_BEG:DS_RX_END:ms",
    "METADATA": "ROUTE:a:b",
}
GOOD = [
    "plain", "100%%", "%START_TIME(%s)%", "%REQ(x)%%REQ(y?z):5%", "a %%REQ(x)%% b", "%PROTOCOL()%",
]  # fmt: skip
BAD = ["100%", "%%%", "%BOGUS%", "%req(x)%", "%REQ(x)", "%REQ%", "%REQ()%", "%REQ(x):y%"]


def refusal(values: list[str], directory: Path) -> str:
    """What Envoy says against header values, empty when it accepts them."""
    router = "envoy.filters.http.router"
    manager = "envoy.filters.network.http_connection_manager"
    types = "type.googleapis.com/envoy.extensions.filters"
    headers = [{"header": {"key": "x", "value": value}} for value in values]
    route: dict[str, Any] = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": headers,
    }
    config = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": router, "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": manager, "typed_config": config}]}],
    }
    file = directory / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-l", "error", "-c", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr


def test_envoy_knows_every_command(tmp_path: Path) -> None:
    values = [
        f"%{name}({PARAMETERS.get(name, 'a')})%" if name in NEED_PARAMETERS else f"%{name}%"
        for name in sorted(COMMANDS)
    ]
    assert refusal(values, tmp_path) == ""
    assert {value: format_problem(value) for value in values} == dict.fromkeys(values)


def test_what_envoy_takes_is_never_called_a_mistake(tmp_path: Path) -> None:
    assert refusal(GOOD, tmp_path) == ""
    assert {value: format_problem(value) for value in GOOD} == dict.fromkeys(GOOD)


@pytest.mark.parametrize("value", BAD)
def test_what_is_called_a_mistake_is_refused_by_envoy(value: str, tmp_path: Path) -> None:
    assert format_problem(value) is not None
    assert refusal([value], tmp_path) != ""
