"""The certificate of the webhooks follows the Secret, and nobody is ready before it is known."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from controlplane.debug.metrics import Metrics
from controlplane.inject.certificate import now, serving_names
from controlplane.kubernetes.client import Client
from controlplane.leader import webhook_secret
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.shared_certificate import Shared, new_shared, to_data
from controlplane.leader.webhook_secret import SharedCertificate
from controlplane.model.snapshot import EMPTY
from controlplane.settings import Address, Settings
from controlplane.webhooks import Webhooks
from tests.unit.kubernetes.fake_server import PlainAccess, serving

NAMESPACE = "istio-system"
NAMES = serving_names(NAMESPACE)
PATIENCE = 20.0


class Api:
    """An API server with one Secret; `failures` are the statuses of its next answers."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.failures: list[int] = []
        self.down = False
        self.asked = 0

    def put(self, shared: Shared) -> None:
        """Let the Secret hold something."""
        self.secret = {"metadata": {"resourceVersion": "7"}, "data": to_data(shared)}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as an API server."""
        self.asked += 1
        status = self.failures.pop(0) if self.failures else 503 if self.down else 200
        if status != 200:
            return web.json_response({"kind": "Status", "code": status}, status=status)
        if request.method == "POST":
            self.secret = await request.json()
        if self.secret is None:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        return web.json_response(self.secret)


@asynccontextmanager
async def following(api: Api) -> AsyncIterator[SharedCertificate]:
    """Follow the Secret of an API server."""
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        shared = SharedCertificate(
            client,
            namespace=NAMESPACE,
            name="tls",
            names=NAMES,
            metrics=LeaderMetrics(CollectorRegistry()),
        )
        task = asyncio.create_task(shared.run())
        try:
            yield shared
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for knows no event
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds here."""
    monkeypatch.setattr(webhook_secret, "SOON", 0.02)


async def test_a_secret_is_read_soon_after_the_api_server_is_back() -> None:
    api, wanted = Api(), new_shared(NAMES, now)
    api.put(wanted)
    api.down = True
    async with following(api) as shared:
        await until(lambda: api.asked > 3)
        assert not shared.answered
        assert not shared.changed.is_set()
        api.down = False
        await until(lambda: shared.answered)
        assert shared() == wanted.serving()
        assert shared.changed.is_set()


async def test_a_secret_that_is_not_there_is_made() -> None:
    api = Api()
    async with following(api) as shared:
        await until(lambda: shared.answered)
        assert shared.settled
        assert api.secret is not None
        assert api.secret["kind"] == "Secret"


async def test_a_refusal_is_believed_when_it_is_repeated() -> None:
    """An API server that starts forbids everything until it has read its rules."""
    api, wanted = Api(), new_shared(NAMES, now)
    api.put(wanted)
    api.failures = [403] * (webhook_secret._DENIALS - 1)
    async with following(api) as shared:
        await until(lambda: shared.answered)
        assert shared() == wanted.serving()
        assert not shared.refusal

    api.failures = [403] * webhook_secret._DENIALS
    async with following(api) as shared:
        await until(lambda: shared.answered)
        assert "secrets" in shared.refusal
        assert shared() != wanted.serving()


async def test_a_missing_namespace_is_an_answer() -> None:
    api = Api()
    api.failures = [404, 404]
    async with following(api) as shared:
        await until(lambda: shared.answered)
        assert shared.refusal


async def test_webhooks_are_missing_until_they_serve_what_the_secret_holds() -> None:
    api, wanted = Api(), new_shared(NAMES, now)
    api.put(wanted)
    api.down = True
    trusting = ssl.create_default_context(cadata=wanted.bundle.decode())
    async with following(api) as shared:
        webhooks = Webhooks(
            Settings(), Metrics(version="test"), snapshot=lambda: EMPTY, shared=shared
        )
        async with webhooks.listening(Address("127.0.0.1", 0)) as runner:
            host, port = runner.addresses[0][:2]

            async def shake_hands() -> None:
                _, writer = await asyncio.open_connection(
                    host, port, ssl=trusting, server_hostname=NAMES[0]
                )
                writer.close()
                await writer.wait_closed()

            await until(lambda: api.asked > 2)
            assert webhooks.missing == ("the certificate of the webhooks",)
            with pytest.raises(ssl.SSLCertVerificationError):
                await shake_hands()
            api.down = False
            await until(lambda: not webhooks.missing)
            await shake_hands()


async def test_webhooks_that_may_not_read_the_secret_are_ready_with_a_warning() -> None:
    api = Api()
    api.failures = [403] * 1000
    async with following(api) as shared:
        webhooks = Webhooks(
            Settings(), Metrics(version="test"), snapshot=lambda: EMPTY, shared=shared
        )
        async with webhooks.listening(Address("127.0.0.1", 0)):
            await until(lambda: not webhooks.missing)
            assert "missing rule" in webhooks.warnings[0]
