"""The leader's work begins and ends with the Lease, whatever the API server does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from controlplane.kubernetes.client import Client
from controlplane.leader import lease
from controlplane.leader.election import Timing
from controlplane.leader.lease import Leadership, LeaseStore, make_identity
from controlplane.leader.metrics import LeaderMetrics
from tests.unit.kubernetes.fake_server import PlainAccess, serving

TIMING = Timing(lease_duration=3.0, renew_deadline=1.0, retry_period=0.1)
PATIENCE = 20.0


class Api:
    """An API server that knows one Lease, and that a test can break."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        self.release = asyncio.Event()  # ends the requests that hang

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.broken is not None:
            answer = await self.broken(request)
            if answer is not None:
                return answer
        if request.method == "POST":
            if self.lease is not None:
                return _status(409, "AlreadyExists")
            return self._store(await request.json())
        if self.lease is None:
            return _status(404, "NotFound")
        if request.method == "PATCH":
            patch = await request.json()
            if patch["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return _status(409, "Conflict")
            return self._store(self.lease | {"spec": self.lease["spec"] | patch["spec"]})
        return web.json_response(self.lease)

    async def hang(self, request: web.Request) -> None:
        """Take requests and do not answer before the test ends."""
        del request
        await self.release.wait()

    async def forbid(self, request: web.Request) -> web.StreamResponse:
        """Refuse everything."""
        del request
        return _status(403, "Forbidden")

    @property
    def holder(self) -> str:
        return "" if self.lease is None else self.lease["spec"]["holderIdentity"]

    def _store(self, lease: dict[str, Any]) -> web.Response:
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.lease = lease
        return web.json_response(lease)


def _status(code: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason}, status=code)


class Worker:
    """Work that a test can see."""

    def __init__(self) -> None:
        self.running = False
        self.begun = 0

    async def __call__(self) -> None:
        self.running = True
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False


async def until(condition: Callable[[], bool]) -> None:
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while not condition():
        assert clock() < end, "it did not become true in time"
        await asyncio.sleep(0.01)


def leadership(client: Client, identity: str, metrics: LeaderMetrics | None = None) -> Leadership:
    store = LeaseStore(client, namespace="istio-system", name="istio-leader")
    metrics = metrics or LeaderMetrics(CollectorRegistry())
    return Leadership(store, identity=identity, timing=TIMING, metrics=metrics)


async def test_the_work_ends_when_the_api_server_answers_no_more() -> None:
    api, worker = Api(), Worker()
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        one = leadership(client, "one")
        task = asyncio.create_task(one.run(worker))
        await until(lambda: worker.running)
        assert api.holder == "one"
        api.broken = api.hang
        clock = asyncio.get_running_loop().time
        since = clock()
        await until(lambda: not worker.running)
        assert not one.leads()
        assert clock() - since < PATIENCE / 2, "nobody waits for an answer to stop"
        api.broken = None
        api.release.set()
        await until(lambda: worker.running)
        assert worker.begun == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert api.holder == ""


async def test_a_lease_that_cannot_be_given_away_holds_nobody_up_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "RELEASE_LIMIT", 0.1)
    api, worker = Api(), Worker()
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        task = asyncio.create_task(leadership(client, "one").run(worker))
        await until(lambda: worker.running)
        api.broken = api.hang
        with capture_logs() as logs:
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
        api.release.set()
    assert task.cancelled()
    (told,) = (entry for entry in logs if entry["event"] == "leader.not_released")
    assert told["reason"] == "no answer within 0.1 s"


async def test_a_replica_that_ends_gives_the_lease_away_after_its_work() -> None:
    api = Api()
    first, second = Worker(), Worker()
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        one = asyncio.create_task(leadership(client, "one").run(first))
        await until(lambda: first.running)
        two = asyncio.create_task(leadership(client, "two").run(second))
        running_at_release: list[bool] = []

        async def notice(request: web.Request) -> None:
            if request.method == "PATCH" and not (await request.json())["spec"]["holderIdentity"]:
                running_at_release.append(first.running)

        api.broken = notice
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        clock = asyncio.get_running_loop().time
        since = clock()
        await until(lambda: second.running)
        assert api.holder == "two"
        assert running_at_release == [False]
        assert clock() - since < TIMING.lease_duration, "it waited for the Lease to run out"
        two.cancel()
        await asyncio.gather(two, return_exceptions=True)


async def test_a_missing_rule_is_told_once_and_tried_again() -> None:
    api, worker = Api(), Worker()
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        requests = 0

        async def forbid(request: web.Request) -> web.StreamResponse:
            nonlocal requests
            requests += 1
            return await api.forbid(request)

        api.broken = forbid
        with capture_logs() as logs:
            task = asyncio.create_task(leadership(client, "one").run(worker))
            await until(lambda: requests >= 3)
            api.broken = None
            await until(lambda: worker.running)
        failures = [entry for entry in logs if entry["event"] == "leader.lease_failed"]
        assert len(failures) == 1
        assert 'resources: ["leases"]' in failures[0]["reason"]
        assert failures[0]["log_level"] == "error"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_missing_namespace_is_told_once_although_reading_goes_well() -> None:
    """A Lease that is not there can be read; to make it fails each time."""
    api = Api()
    refusals = 0

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        nonlocal refusals
        if request.method != "POST":
            return None
        refusals += 1
        return _status(404, "NotFound")

    api.broken = refuse
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        with capture_logs() as logs:
            task = asyncio.create_task(leadership(client, "one").run(Worker()))
            await until(lambda: refusals >= 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [entry["event"] for entry in logs].count("leader.lease_failed") == 1


async def test_a_mistake_in_the_work_is_not_hidden_and_frees_the_lease() -> None:
    api = Api()

    async def fails() -> None:
        raise LookupError("a mistake of ours")

    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(LookupError, match="a mistake of ours"):
            async with asyncio.timeout(PATIENCE):
                await leadership(client, "one").run(fails)
    assert api.holder == ""


async def test_who_leads_is_counted() -> None:
    api, worker, registry = Api(), Worker(), CollectorRegistry()
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        one = leadership(client, "one", LeaderMetrics(registry))
        task = asyncio.create_task(one.run(worker))
        await until(lambda: worker.running)
        labels = {"lease": "istio-leader"}
        assert registry.get_sample_value("pylot_leader", labels) == 1.0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert registry.get_sample_value("pylot_leader", labels) == 0.0


def test_an_identity_is_the_pod_s_or_unique() -> None:
    assert make_identity({"POD_NAME": "istiod-1"}) == "istiod-1"
    assert make_identity({}) != make_identity({})
