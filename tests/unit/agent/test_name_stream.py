"""The agent's own stream for the name table, against a control plane of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from controlplane.agent import name_stream
from controlplane.agent.bootstrap import Bootstrap, EnvoyAddress, PipeAddress, SocketAddress
from controlplane.agent.name_stream import URL, NameStream, Table
from controlplane.model.base import freeze
from controlplane.model.proxy import ProxyType
from controlplane.translate.envoy import AnyMessage
from tests.unit.agent.fake_control_plane import PATIENCE, FakeControlPlane, table


def bootstrap(xds: EnvoyAddress) -> Bootstrap:
    return Bootstrap(
        proxy_type=ProxyType.SIDECAR,
        ip="10.0.0.7",
        name="web.default",
        xds=xds,
        admin=SocketAddress(host="127.0.0.1", port=15000),
        metadata=freeze({"NAMESPACE": "default", "DNS_CAPTURE": "true"}),
    )


@asynccontextmanager
async def running(
    address: EnvoyAddress,
) -> AsyncIterator[tuple[list[Table], Callable[[int], Any]]]:
    received: list[Table] = []
    news = asyncio.Event()

    def take(found: Table) -> None:
        received.append(found)
        news.set()

    async def until(count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(received) < count:
                news.clear()
                await news.wait()

    task = asyncio.create_task(NameStream(bootstrap(address), received=take).run())
    try:
        yield received, until
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def pipe(tmp_path: Path) -> PipeAddress:
    return PipeAddress(path=str(tmp_path / "xds"))


async def test_tables_are_taken_and_acknowledged(pipe: PipeAddress) -> None:
    plane = FakeControlPlane()
    async with plane.listening(str(pipe)), running(pipe) as (received, until):
        first = await plane.request()
        assert (first.type_url, list(first.resource_names)) == (URL, [])
        assert first.node.id == "sidecar~10.0.0.7~web.default~default.svc.cluster.local"
        assert first.node.metadata["DNS_CAPTURE"] == "true"
        assert first.node.user_agent_name == "pylot-agent"
        plane.send("1", table("a.example.com"))
        ack = await plane.request()
        assert (ack.version_info, ack.response_nonce) == ("v1", "1")
        assert not ack.HasField("error_detail")
        plane.send("2", table("b.example.com"))
        await until(2)
    assert [list(found) for found in received] == [["a.example.com"], ["b.example.com"]]
    assert received[0]["a.example.com"].ips == ("192.0.2.1",)


async def test_what_is_no_table_is_rejected_and_the_old_one_stays(pipe: PipeAddress) -> None:
    plane = FakeControlPlane()
    async with plane.listening(str(pipe)), running(pipe) as (received, until):
        await plane.request()
        plane.send("1", table("a.example.com"))
        await plane.request()
        plane.send("2", AnyMessage(type_url=URL, value=b"\xff\xff"))
        nack = await plane.request()
        assert (nack.version_info, nack.response_nonce) == ("", "2")
        assert "not a name table" in nack.error_detail.message
        plane.send("3", table("b.example.com"))
        await until(2)
    assert [list(found) for found in received] == [["a.example.com"], ["b.example.com"]]


async def test_an_absent_control_plane_is_said_once_and_waited_for(
    pipe: PipeAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_stream, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(name_stream, "LONGEST_PAUSE", 0.05)
    plane = FakeControlPlane()
    with capture_logs() as logs:
        async with running(pipe) as (received, until):
            async with asyncio.timeout(PATIENCE):
                while not logs:  # noqa: ASYNC110  # the log has no event to wait for
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            for round_ in (1, 2):
                async with plane.listening(str(pipe)):
                    await plane.request()
                    plane.send(str(round_), table(f"{round_}.example.com"))
                    await until(round_)
    events = [entry["event"] for entry in logs]
    # The second loss has its own line, and each recovery one.
    assert events[:2] == ["name_table_unavailable", "name_table_received_again"]
    assert events.count("name_table_unavailable") <= 3
    assert [list(found) for found in received] == [["1.example.com"], ["2.example.com"]]


async def test_a_silent_control_plane_is_no_error(pipe: PipeAddress) -> None:
    plane = FakeControlPlane()
    with capture_logs() as logs:
        async with plane.listening(str(pipe)), running(pipe) as (received, _):
            await plane.request()
            await asyncio.sleep(0.3)
            assert plane.requests.empty()
    assert (received, logs) == ([], [])
