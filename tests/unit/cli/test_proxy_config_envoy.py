"""`pylot proxy-config` against a real Envoy with a small static bootstrap."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.proxy_config import app

pytestmark = pytest.mark.envoy

CLUSTER = "outbound|80||a.default.svc.cluster.local"
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def bootstrap(admin: int, port: int) -> dict[str, object]:
    """One HTTP listener with inline routes to one static cluster."""

    def at(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    manager = {
        "@type": HCM + "HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "name": "80",
            "virtual_hosts": [
                {
                    "name": "a:80",
                    "domains": ["a", "a:80"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}],
                }
            ],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    hcm = "envoy.filters.network.http_connection_manager"
    return {
        "node": {"id": "sidecar~127.0.0.1~a.default~default.svc.cluster.local", "cluster": "a"},
        "admin": {"address": at(admin)},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": at(port),
                    "filter_chains": [{"filters": [{"name": hcm, "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": CLUSTER,
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": CLUSTER,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(9)}}]}],
                    },
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The admin address of a running Envoy."""
    beside = Path(sys.executable).with_name("envoy")
    program = str(beside) if beside.exists() else shutil.which("envoy")
    assert program is not None
    admin_port, port = free_ports(2)
    config = tmp_path_factory.mktemp("envoy") / "bootstrap.json"
    config.write_text(json.dumps(bootstrap(admin_port, port)))
    log = config.with_name("log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "-c", str(config), "--disable-hot-restart", "--concurrency", "1"],
            stdout=output,
            stderr=output,
        )
        try:
            base = f"http://127.0.0.1:{admin_port}"
            _wait(base, process, log)
            yield base
        finally:
            process.terminate()
            process.wait(10)


def _wait(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(base + "/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def run(*arguments: str) -> str:
    """Run a sub-command; it has to succeed."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None, result.exception
    return result.stdout


def test_live_envoy_shows_every_kind(admin: str) -> None:
    assert "a.default.svc.cluster.local   80     -        outbound    STATIC" in run(
        "cluster", "--admin", admin
    )
    assert "Inline Route: a/a:80 /*" in run("listener", "--admin", admin)
    route = run("route", "--admin", admin).splitlines()[1].split()
    assert route == ["80", "a:80", "a", "/*"]
    endpoint = run("endpoint", "--admin", admin, "--cluster", CLUSTER).splitlines()[1].split()
    assert endpoint == ["127.0.0.1:9", "HEALTHY", "OK", CLUSTER]
    assert "a.default~default.svc" in run("bootstrap", "--admin", admin, "-o", "short")


def test_saved_dump_of_an_envoy_says_the_same_as_the_live_one(admin: str, tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    with urllib.request.urlopen(f"{admin}/config_dump?include_eds", timeout=5) as answer:
        file.write_bytes(answer.read())
    for kind in ("cluster", "listener", "route", "secret"):
        assert run(kind, "--file", str(file)) == run(kind, "--admin", admin), kind
    saved = run("endpoint", "--file", str(file)).splitlines()[1].split()
    assert saved == ["127.0.0.1:9", "HEALTHY", "-", CLUSTER]
