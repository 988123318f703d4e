"""The HTTP applications over real sockets: doors, status codes, readiness, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from controlplane.ads.status import ServingStatus
from controlplane.debug import http
from controlplane.debug.auth import Doors, Identity, TokenFile
from controlplane.debug.context import DebugContext, Readiness
from controlplane.debug.http import http_app, listen, monitoring_app
from controlplane.debug.metrics import Metrics
from controlplane.debug.views.request import Rendering, ViewRequest
from controlplane.debug.views.table import PAGES, Page
from controlplane.errors import OutsideError
from controlplane.model.snapshot import Snapshot
from tests.unit.debug.conftest import OneServiceGenerator, make_snapshot

READY = Readiness(ready=True)


def context(
    snapshot: Snapshot | None = None,
    serving: ServingStatus | None = None,
    *,
    doors: Doors | None = None,
    ready: Readiness = READY,
) -> DebugContext:
    """A context around fixed values."""
    return DebugContext(
        snapshot=lambda: snapshot or make_snapshot("10.0.0.1"),
        serving=lambda: serving or ServingStatus(),
        generator=OneServiceGenerator(),
        ready=lambda: ready,
        metrics=Metrics(version="0.1.0"),
        doors=doors or Doors(),
    )


class Caller:
    """Asks one application."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self.base = base

    async def get(
        self, path: str, *, method: str = "GET", **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        """Return status, body and headers."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, self.base + path, headers=sent) as answer:
            return answer.status, await answer.text(), dict(answer.headers)


@contextlib.asynccontextmanager
async def serving_at(app: web.Application) -> AsyncIterator[Caller]:
    """Serve an application on a free loopback port."""
    runner = await listen(app, "127.0.0.1", 0)
    try:
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session:
            yield Caller(session, f"http://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


def from_elsewhere(monkeypatch: pytest.MonkeyPatch, peer: str = "10.1.2.3") -> None:
    """Let every connection look as if it came from another machine."""
    monkeypatch.setattr(http, "_peer", lambda _request: peer)


async def test_json_is_compact_and_pretty_on_request() -> None:
    async with serving_at(http_app(context())) as caller:
        status, compact, headers = await caller.get("/debug/registryz")
        assert status == 200
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
        assert "\n" not in compact.rstrip("\n")
        _, pretty, _ = await caller.get("/debug/registryz?pretty")
        assert pretty.startswith('[\n  {\n    "Attributes"')


async def test_debug_answers_get_only_and_names_what_there_is() -> None:
    async with serving_at(http_app(context())) as caller:
        for method in ("POST", "PUT", "DELETE", "HEAD"):
            status, _, _ = await caller.get("/debug/configz", method=method)
            assert status == 405, method
        status, text, _ = await caller.get("/debug/nothing")
        assert status == 404
        assert "/debug/list" in text
        status, text, _ = await caller.get("/debug/list")
        assert '"/debug/syncz"' in text
        status, text, headers = await caller.get("/debug")
        assert status == 200
        assert headers["Content-Type"].startswith("text/html")


async def test_proxy_that_is_missing_or_unknown() -> None:
    async with serving_at(http_app(context())) as caller:
        status, _, _ = await caller.get("/debug/config_dump")
        assert status == 400
        status, text, _ = await caller.get("/debug/config_dump?proxyID=x")
        assert status == 404
        assert "Proxy not connected to this Pilot instance" in text


async def test_ready_says_what_is_missing_and_what_is_forbidden() -> None:
    missing = Readiness(ready=False, missing=("files in mesh/",), warnings=("nodes: forbidden",))
    async with serving_at(http_app(context(ready=missing))) as caller:
        status, text, _ = await caller.get("/ready")
        assert status == 503
        assert "files in mesh/" in text
        assert "warning: nodes: forbidden" in text
    async with serving_at(http_app(context())) as caller:
        assert (await caller.get("/ready"))[:2] == (200, "ready\n")
    ending = Readiness(ready=False, stopping=True)
    async with serving_at(http_app(context(ready=ending))) as caller:
        assert (await caller.get("/ready"))[:2] == (503, "not ready: stopping\n")


async def test_monitoring_has_metrics_version_and_debug(serving: ServingStatus) -> None:
    async with serving_at(monitoring_app(context(serving=serving))) as caller:
        status, text, headers = await caller.get("/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'pilot_info{version="0.1.0"} 1.0' in text
        assert "pilot_xds_rds_reject 1.0" in text
        status, text, _ = await caller.get("/version")
        assert '"version":"0.1.0"' in text
        assert (await caller.get("/debug/syncz"))[0] == 200
        assert (await caller.get("/ready"))[0] == 404


async def test_callers_from_elsewhere_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from_elsewhere(monkeypatch)
    async with serving_at(http_app(context())) as caller:
        for path in ("/debug", "/debug/", "/debug/configz", "/%64ebug/configz", "/debug/list"):
            status, text, headers = await caller.get(path)
            assert status == 401, path
            assert "--debug-token-file" in text
            assert headers["WWW-Authenticate"] == "Bearer"
        # Nothing that the caller writes makes it local.
        status, _, _ = await caller.get(
            "/debug/configz", X_Forwarded_For="127.0.0.1", Forwarded="for=127.0.0.1"
        )
        assert status == 401
        assert (await caller.get("/ready"))[0] == 200


async def test_token_of_the_file_opens_and_follows_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from_elsewhere(monkeypatch)
    file = tmp_path / "token"
    file.write_text("first-token\n")
    doors = Doors(authenticators=(TokenFile(file),))
    async with serving_at(http_app(context(doors=doors))) as caller:

        async def status(token: str) -> int:
            found, _, _ = await caller.get("/debug/syncz", Authorization=f"Bearer {token}")
            return found

        assert await status("first-token") == 200
        assert await status("first-toke") == 401
        assert await status("") == 401
        file.write_text("a-second-token")
        assert await status("first-token") == 401
        assert await status("a-second-token") == 200
        file.unlink()
        assert await status("a-second-token") == 401
        file.write_text("\n")
        assert await status("") == 401
        assert (await caller.get("/debug/syncz", Authorization="Basic eDp5"))[0] == 401


async def test_insecure_opens_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    from_elsewhere(monkeypatch)
    async with serving_at(http_app(context(doors=Doors(insecure=True)))) as caller:
        assert (await caller.get("/debug/configz"))[0] == 200


class OneToken:
    """An authenticator that knows one token of one namespace."""

    async def authenticate(self, token: str) -> Identity | None:
        """Return the identity of the token `pod`."""
        return Identity(name="sa", namespace="default") if token == "pod" else None


async def test_ordinary_identity_sees_its_own_proxies_only(
    monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, serving: ServingStatus
) -> None:
    from_elsewhere(monkeypatch)
    doors = Doors(authenticators=(OneToken(),))
    async with serving_at(http_app(context(snapshot, serving, doors=doors))) as caller:

        async def status(path: str) -> int:
            return (await caller.get(path, Authorization="bearer pod"))[0]

        assert await status("/debug/config_dump?proxyID=reviews-1") == 200
        assert await status("/debug/edsz?proxyID=reviews-1") == 200
        assert await status("/debug/config_dump?proxyID=web-1") == 403
        assert await status("/debug/edsz") == 403
        assert await status("/debug/configz") == 403
        assert await status("/debug") == 403


async def test_browser_page_with_its_own_name_is_refused_on_loopback(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("token")
    doors = Doors(authenticators=(TokenFile(file),))
    async with serving_at(http_app(context(doors=doors))) as caller:
        status, text, _ = await caller.get("/debug/configz", Host="attacker.example:8080")
        assert status == 403
        assert "Host" in text
        for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "pylot.localhost"):
            assert (await caller.get("/debug/configz", Host=host))[0] == 200, host
        status, _, _ = await caller.get(
            "/debug/configz", Host="istiod.istio-system:8080", Authorization="Bearer token"
        )
        assert status == 200


async def test_slow_dump_does_not_hold_up_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def slow(_request: ViewRequest) -> Rendering:
        def render() -> list[int]:
            assert let_go.wait(10)
            return [1]

        return render

    monkeypatch.setitem(PAGES, "edsz", Page(slow, "slow"))
    async with serving_at(http_app(context())) as caller:
        dump = asyncio.create_task(caller.get("/debug/edsz"))
        await asyncio.sleep(0.05)
        assert (await caller.get("/ready"))[0] == 200
        assert not dump.done()
        let_go.set()
        assert (await dump)[:2] == (200, "[1]\n")


async def test_address_in_use_is_one_sentence() -> None:
    app = http_app(context())
    runner = await listen(app, "127.0.0.1", 0)
    try:
        port = runner.addresses[0][1]
        with pytest.raises(OutsideError, match=f"cannot listen on 127.0.0.1:{port}: already in"):
            await listen(http_app(context()), "127.0.0.1", port)
    finally:
        await runner.cleanup()
