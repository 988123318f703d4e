"""`pylot proxy-wait`: waits for a proxy that becomes ready, and not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

import pytest
import typer
from typer.testing import CliRunner

from controlplane.cli.proxy_wait import proxy_wait
from controlplane.errors import UsageError

app = typer.Typer()
app.command()(proxy_wait)
FAST: Final = ("--periodMillis", "10")


class Proxy(HTTPServer):
    """A proxy that is ready from a certain question on."""

    ready_at = 1
    asked = 0


class Handler(BaseHTTPRequestHandler):
    """Answers readiness."""

    server: Proxy

    def do_GET(self) -> None:
        """Say 503 until the time has come."""
        self.server.asked += 1
        ready = self.server.asked >= self.server.ready_at
        self.send_response(200 if ready else 503)
        self.end_headers()
        if not ready:
            self.wfile.write(b"no listeners yet")

    def log_message(self, *arguments: object) -> None:
        """Be silent."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Serve a proxy's health on a free port."""
    server = Proxy(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(proxy: Proxy) -> str:
    """Return the address of the proxy's health."""
    return f"http://127.0.0.1:{proxy.server_port}/healthz/ready"


def test_it_ends_when_the_proxy_has_become_ready(proxy: Proxy) -> None:
    proxy.ready_at = 4
    result = CliRunner().invoke(app, ["--url", url(proxy), *FAST])
    assert result.exit_code == 0, result.output
    assert proxy.asked == 4


def test_it_gives_up_with_the_reason(proxy: Proxy) -> None:
    proxy.ready_at = 1_000_000
    begin = time.monotonic()
    result = CliRunner().invoke(app, ["--url", url(proxy), *FAST, "--timeoutSeconds", "0.2"])
    assert result.exit_code == 1
    assert time.monotonic() - begin < 5
    assert "not ready after 0.2 s" in result.stderr
    assert "status 503 no listeners yet" in result.stderr


def test_nobody_listening_is_waited_for() -> None:
    arguments = ["--url", "http://127.0.0.1:1/healthz/ready", *FAST, "--timeoutSeconds", "0.1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "refused" in result.stderr


def test_an_address_that_is_none_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["--url", "nowhere"])
    assert isinstance(result.exception, UsageError)
