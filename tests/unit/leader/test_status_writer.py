"""How statuses are written when the API server is slow, refuses, or lacks something."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from controlplane.ads.outstanding import Outstanding
from controlplane.kubernetes.client import Client
from controlplane.leader import status_writer
from controlplane.leader.assess import Readers
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.status_writer import StatusWriter
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectMeta, ObjectRef, Provenance
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import VirtualService
from tests.unit.kubernetes.fake_server import PlainAccess, serving

PATIENCE: Final = 20.0
GROUP: Final = "networking.istio.io"


class Api:
    """An API server with VirtualServices; a test says what happens to a write."""

    def __init__(self, *names: str) -> None:
        self.items = {name: self._new(name) for name in names}
        self.writes: Counter[str] = Counter()
        self.lists = 0
        self.before_write: Callable[[str], Any] = lambda name: None

    def _new(self, name: str, generation: int = 1) -> dict[str, Any]:
        return {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": name,
                "generation": generation,
                "resourceVersion": "1",
            }
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if request.path == "/apis":
            return web.json_response({"kind": "APIGroupDiscoveryList", "items": [_discovered()]})
        if parts[-1] == "virtualservices":
            self.lists += 1
            return web.json_response({"metadata": {}, "items": list(self.items.values())})
        name = parts[-2] if parts[-1] == "status" else parts[-1]
        item = self.items.get(name)
        if item is None:
            return refusal(404)
        if request.method == "PATCH":
            answer = self.before_write(name)
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer is not None:
                return web.json_response(**answer)
            patch = await request.json()
            assert patch["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]
            self.writes[name] += 1
            item["metadata"]["resourceVersion"] += "1"
            item.setdefault("status", {}).update(patch["status"])
        return web.json_response(item)

    def messages(self, name: str) -> list[str]:
        conditions = self.items[name].get("status", {}).get("conditions", ())
        return [entry["message"] for entry in conditions if entry["message"]]


def _discovered() -> dict[str, Any]:
    version = {"version": "v1", "resources": [{"resource": "virtualservices"}]}
    return {"metadata": {"name": GROUP}, "versions": [version]}


def refusal(code: int) -> web.Response:
    return web.json_response(refused(code)["data"], status=code)


def refused(code: int) -> dict[str, Any]:
    return {"data": {"kind": "Status", "code": code, "message": "a reason"}, "status": code}


class Mesh:
    """A writer with everything around it."""

    def __init__(self, client: Client, api: Api, **options: Any) -> None:
        self.findings: tuple[Diagnostic, ...] = ()
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self.names = list(api.items)
        self.writer = StatusWriter(
            client,
            Readers(
                snapshot=self._snapshot,
                outstanding=Outstanding,
                findings=lambda: self.findings,
            ),
            leads=lambda: True,
            metrics=LeaderMetrics(CollectorRegistry()),
            **options,
        )

    def _snapshot(self) -> Snapshot:
        items = [
            VirtualService(metadata=ObjectMeta(name=name, namespace="default"))
            for name in self.names
        ]
        return Snapshot(
            objects={item.ref: item for item in items},
            provenance={
                item.ref: Provenance("kubernetes", generation=1, uid=item.metadata.name)
                for item in items
            },
            diagnostics=self.diagnostics,
        )

    def finds(self, name: str, message: str) -> None:
        ref = ObjectRef("VirtualService", "default", name)
        self.findings = (Diagnostic(level=Level.ERROR, code="IST0101", message=message, ref=ref),)
        self.writer.changed()


@contextlib.asynccontextmanager
async def writing(api: Api, **options: Any) -> AsyncIterator[Mesh]:
    """Run a writer for an API server."""
    async with serving(api.answer) as url, Client(PlainAccess(url)) as client:
        mesh = Mesh(client, api, **options)
        task = asyncio.create_task(mesh.writer.run())
        try:
            yield mesh
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled(), task


async def until(condition: Callable[[], bool]) -> None:
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while not condition():
        assert clock() < end, "it did not become true in time"
        await asyncio.sleep(0.01)


async def test_writes_keep_to_their_rate() -> None:
    api = Api(*(f"vs-{number}" for number in range(6)))
    clock = asyncio.get_running_loop().time
    since = clock()
    async with writing(api, rate=5.0, burst=2):
        await until(lambda: api.writes.total() == 6)
    assert clock() - since >= 4 / 5.0


async def test_an_object_that_changes_while_it_waits_is_written_once_with_the_newest() -> None:
    api = Api("a", "b")
    goes_on = asyncio.Event()

    async def hold(name: str) -> None:
        if name == "a":
            await goes_on.wait()

    api.before_write = hold
    async with writing(api) as mesh:
        for message in ("first", "second", "third"):
            mesh.finds("b", message)
            await asyncio.sleep(0.05)
        goes_on.set()
        await until(lambda: api.messages("b") == ["third"])
    assert api.writes["b"] <= 2, "at most the state before the first look, and the newest"
    assert api.writes["a"] == 1


async def test_one_object_that_cannot_be_written_holds_up_no_other() -> None:
    api = Api("a", "bad", "c")
    api.before_write = lambda name: refused(500) if name == "bad" else None
    with capture_logs() as logs:
        async with writing(api) as mesh:
            await until(lambda: api.writes["c"] == 1)
            mesh.finds("c", "news")
            await until(lambda: api.messages("c") == ["news"])
    told = [entry for entry in logs if entry["event"] == "status.refused"]
    assert [entry["object"] for entry in told] == ["VirtualService default/bad"]


async def test_an_api_server_that_is_busy_is_asked_again_later() -> None:
    api = Api("a")
    tries = 0

    def busy(name: str) -> dict[str, Any] | None:
        nonlocal tries
        tries += 1
        return refused(429) if tries < 3 else None

    api.before_write = busy
    async with writing(api):
        await until(lambda: api.writes["a"] == 1)
    assert tries == 3


async def test_a_kind_without_the_subresource_is_left_alone() -> None:
    api = Api("a", "b", "c")
    tries: list[str] = []

    def missing(name: str) -> dict[str, Any]:
        tries.append(name)
        return refused(404)

    api.before_write = missing
    with capture_logs() as logs:
        async with writing(api) as mesh:
            await until(lambda: bool(tries))
            mesh.writer.changed()
            await asyncio.sleep(2 * status_writer.LOOK)
    assert len(tries) == 1
    (told,) = [entry for entry in logs if entry["event"] == "status.not_writable"]
    assert "subresource" in told["reason"]


async def test_what_stands_there_already_costs_one_list_and_no_request_each() -> None:
    api = Api(*(f"vs-{number}" for number in range(20)))
    async with writing(api, burst=100):
        await until(lambda: api.writes.total() == 20)
    api.writes.clear()
    api.lists = 0
    async with writing(api) as mesh:
        await until(lambda: api.lists == 1)
        mesh.finds("vs-7", "news")
        await until(lambda: api.messages("vs-7") == ["news"])
    assert api.writes == {"vs-7": 1}


class DeepApi(Api):
    """One whose objects have a spec that is nested deeper than any decoder goes."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = await super().answer(request)
        assert isinstance(response, web.Response)
        assert response.text is not None
        deep = '{"a":' * 9000 + "1" + "}" * 9000
        return web.json_response(text=response.text.replace('"deep"', deep))


async def test_an_object_that_is_nested_too_deeply_gets_its_status_like_others() -> None:
    api = DeepApi("hostile", "other")
    api.items["hostile"]["spec"] = "deep"
    async with writing(api) as mesh:
        mesh.finds("hostile", "it is nested too deeply")
        await until(lambda: api.messages("hostile") != [] and api.writes["other"] == 1)


async def test_an_object_that_is_left_out_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody knows its generation, so nobody notices when it gets another one."""
    monkeypatch.setattr(status_writer, "RECHECK", 0.2)
    api = Api("refused")
    ref = ObjectRef("VirtualService", "default", "refused")
    bad = Diagnostic(level=Level.ERROR, code="IST0106", message="no", ref=ref)
    async with writing(api) as mesh:
        mesh.names = []
        mesh.diagnostics = (bad,)
        mesh.writer.changed()
        await until(lambda: api.messages("refused") != [])
        api.items["refused"]["metadata"]["generation"] = 2
        await until(lambda: api.items["refused"]["status"]["observedGeneration"] == 2)
