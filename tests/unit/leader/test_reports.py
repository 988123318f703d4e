"""The ConfigMap in which replicas tell: who writes what, and what counts for how long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
from aiohttp import web

from controlplane.ads.outstanding import Outstanding
from controlplane.kubernetes.client import Client
from controlplane.leader import reports
from controlplane.leader.assess import Readers
from controlplane.leader.reports import Reports
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectRef, Provenance
from controlplane.model.snapshot import Snapshot
from tests.unit.kubernetes.fake_server import PlainAccess, serving

PATIENCE: Final = 20.0
REF: Final = ObjectRef("VirtualService", "default", "reviews")
SNAPSHOT: Final = Snapshot(provenance={REF: Provenance("kubernetes", generation=1)})
FINDING: Final = Diagnostic(level=Level.ERROR, code="RejectedByEnvoy", message="no", ref=REF)


class Api:
    """An API server with one ConfigMap."""

    def __init__(self) -> None:
        self.data: dict[str, str] | None = None
        self.requests: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.method)
        if request.method == "POST":
            if self.data is not None:
                return web.json_response({"code": 409}, status=409)
            self.data = (await request.json())["data"]
        elif self.data is None:
            return web.json_response({"code": 404}, status=404)
        elif request.method == "PATCH":
            for key, text in (await request.json())["data"].items():
                if text is None:
                    self.data.pop(key, None)
                else:
                    self.data[key] = text
        return web.json_response({"data": self.data})


class Replica:
    """A replica with findings of its own."""

    def __init__(self, client: Client, identity: str, *findings: Diagnostic) -> None:
        self.local = findings
        self.changes = 0
        self.reports = Reports(
            client,
            Readers(
                snapshot=lambda: SNAPSHOT,
                outstanding=Outstanding,
                findings=lambda: self.local,
            ),
            namespace="istio-system",
            identity=identity,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1


@contextlib.asynccontextmanager
async def client_of(api: Api) -> AsyncIterator[Client]:
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        yield client


@contextlib.asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in done), done


async def until(condition: Callable[[], bool]) -> None:
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while not condition():
        assert clock() < end, "it did not become true in time"
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "EVERY", 0.05)


async def test_a_finding_goes_from_one_replica_to_another_and_away_again() -> None:
    api = Api()
    async with client_of(api) as client:
        one, leader = Replica(client, "one", FINDING), Replica(client, "two")
        async with running(one.reports.tell(), leader.reports.collect(), leader.reports.tell()):
            await until(lambda: leader.reports.findings() == (FINDING,))
            assert leader.changes == 1
            one.local = ()
            await until(lambda: leader.reports.findings() == ())
            assert api.data == {}


async def test_nothing_to_tell_makes_nothing() -> None:
    api = Api()
    async with client_of(api) as client:
        replica = Replica(client, "one")
        async with running(replica.reports.tell()):
            await until(lambda: api.requests != [])
            await asyncio.sleep(0.3)
    assert api.data is None
    assert api.requests == ["PATCH"], "it asks once whether an earlier life has left something"


async def test_two_replicas_that_begin_at_once_both_tell() -> None:
    api = Api()
    async with client_of(api) as client:
        replicas = [Replica(client, name, FINDING) for name in ("one", "two")]
        async with running(*(replica.reports.tell() for replica in replicas)):
            await until(lambda: set(api.data or ()) == {"one", "two"})


async def test_a_report_that_holds_is_renewed_and_one_of_a_dead_replica_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, "RENEW", 0.2)
    monkeypatch.setattr(reports, "DROP_AFTER", 1.5)
    monkeypatch.setattr(reports, "DELETE_AFTER", 2.0)
    api = Api()
    async with client_of(api) as client:
        one, leader = Replica(client, "one", FINDING), Replica(client, "two")
        async with running(leader.reports.collect()):
            async with running(one.reports.tell()):
                await until(lambda: leader.reports.findings() == (FINDING,))
                first = (api.data or {})["one"]
                await until(lambda: (api.data or {})["one"] != first)
                await asyncio.sleep(2.0)
                assert leader.reports.findings() == (FINDING,), "a sign of life keeps it"
            await until(lambda: leader.reports.findings() == ())
            await until(lambda: api.data == {})


async def test_what_cannot_be_read_and_what_is_its_own_tells_a_leader_nothing() -> None:
    api = Api()
    async with client_of(api) as client:
        async with running(Replica(client, "one", FINDING).reports.tell()):
            await until(lambda: bool(api.data))
        good = (api.data or {})["one"]
        api.data = {"odd": "{", "list": "[]", "leader": good}
        leader = Replica(client, "leader")
        await leader.reports.look()
        assert leader.reports.findings() == ()
        api.data["another"] = good
        await leader.reports.look()
        assert leader.reports.findings() == (FINDING,)
