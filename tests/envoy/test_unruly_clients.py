"""Clients that misbehave get a clear status, and the Envoys beside them notice nothing."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from envoy.service.discovery.v3 import discovery_pb2

from tests.envoy.harness import Bed, bed, eventually, troubles_of, virtual_hosts

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
NODE = "sidecar~127.0.0.1~twin.default~default.svc.cluster.local"
SECONDS = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Bed]:
    async with bed() as made:
        await made.sidecar()
        await made.settled()
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def channel(mesh: Bed) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(str(mesh.layout.grpc)) as made:
        yield made


def request(type_url: str = CLUSTER, *, node: str = NODE, names: tuple[str, ...] = ()) -> bytes:
    """A state-of-the-world request as bytes."""
    made = discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names)
    made.node.id = node
    data: bytes = made.SerializeToString()
    return data


def stream(channel: Any) -> Any:
    """A raw stream, on which bytes are sent and read as they are."""
    return channel.stream_stream(SOTW)()


async def answer(call: Any) -> discovery_pb2.DiscoveryResponse:
    """The next response of a stream."""
    data = await asyncio.wait_for(call.read(), SECONDS)
    assert isinstance(data, bytes), f"the stream ended: {await call.code()} {await call.details()}"
    return discovery_pb2.DiscoveryResponse.FromString(data)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ended."""
    return (
        await asyncio.wait_for(call.code(), SECONDS),
        await asyncio.wait_for(call.details(), SECONDS),
    )


async def others_are_served(mesh: Bed) -> None:
    """Prove it by a change that reaches the Envoy, and by its connection, which is still there."""
    sidecar = mesh.envoys["sidecar"]
    before = await virtual_hosts(sidecar)
    exercise = "reviews-v3" if "|v3|" not in str(before) else "all-v1"
    mesh.copy(f"virtual-service-{exercise}.yaml", "reviews.yaml")
    await eventually(lambda: virtual_hosts(sidecar), lambda now: now != before, what=exercise)
    await eventually(
        lambda: troubles_of(sidecar), lambda troubles: not troubles, what="a settled Envoy"
    )
    stats = await sidecar.admin.stats(r"^cluster\.xds-grpc;?\.upstream_rq_total$")
    assert sum(stats.values()) == 1, "the Envoy had to connect again"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("", "missing node"),
        ("nonsense", "nonsense"),
        ("sidecar~127.0.0.1~a.default", "TYPE~IP~ID~DNSDOMAIN"),
        ("toaster~127.0.0.1~a.default~default.svc.cluster.local", "toaster"),
        ("sidecar~no-address~a.default~default.svc.cluster.local", "IP address"),
    ],
)
async def test_a_malformed_node_is_an_invalid_argument(
    mesh: Bed, channel: Any, node: str, words: str
) -> None:
    call = stream(channel)
    await call.write(request(node=node))
    code, details = await status(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in details
    await others_are_served(mesh)


async def test_garbage_ends_its_own_stream_only(mesh: Bed, channel: Any) -> None:
    call = stream(channel)
    await call.write(b"\xff\xff\xff\xff garbage")
    code, _ = await status(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    again = stream(channel)
    await again.write(request())
    assert (await answer(again)).resources
    again.cancel()
    await others_are_served(mesh)


async def test_bytes_that_are_not_http2_are_hung_up_on(mesh: Bed) -> None:
    def talk() -> bytes:
        address = (mesh.layout.grpc.host, mesh.layout.grpc.port)
        with socket.create_connection(address, timeout=SECONDS) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x00" * 65536)
            received = b""
            try:
                while data := connection.recv(65536):
                    received += data
            except ConnectionError:
                pass
            return received

    await asyncio.wait_for(asyncio.to_thread(talk), SECONDS)
    await others_are_served(mesh)


async def test_one_node_may_connect_twice_and_either_may_go(mesh: Bed, channel: Any) -> None:
    first, second = stream(channel), stream(channel)
    for call in (first, second):
        await call.write(request())
        assert (await answer(call)).resources
    first.cancel()
    cluster = f"outbound|{mesh.layout.service_port}||reviews.default.svc.cluster.local"
    await second.write(request(ENDPOINTS, node="", names=(cluster,)))
    assert len((await answer(second)).resources) == 1
    second.cancel()
    await others_are_served(mesh)


async def test_a_half_closed_stream_ends_without_an_error(mesh: Bed, channel: Any) -> None:
    call = stream(channel)
    await call.write(request())
    await answer(call)
    await call.done_writing()
    code, _ = await status(call)
    assert code is grpc.StatusCode.OK
    await others_are_served(mesh)


async def test_a_megabyte_of_names_is_answered(mesh: Bed, channel: Any) -> None:
    call = stream(channel)
    names = tuple(f"outbound|{number}||nobody-{number:040d}.example.com" for number in range(16000))
    asked = request(ENDPOINTS, names=names)
    assert len(asked) > 1_000_000
    await call.write(asked)
    found = await answer(call)
    assert found.type_url == ENDPOINTS
    await others_are_served(mesh)
    call.cancel()


async def test_streams_that_ended_leave_nothing_behind(mesh: Bed, channel: Any) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{mesh.control_plane.pid}/fd").iterdir()))

    if sys.platform != "linux":
        pytest.skip("needs /proc")
    before = descriptors()
    for _ in range(30):
        async with grpc.aio.insecure_channel(str(mesh.layout.grpc)) as own:
            call = stream(own)
            await call.write(request())
            await answer(call)
            call.cancel()

    async def connected() -> list[str]:
        clients = (await mesh.debug("connections"))["clients"]
        return [client["connectionId"] for client in clients]

    await eventually(connected, lambda found: len(found) == 1, what="the Envoy's stream only")

    async def open_files() -> int:
        return descriptors()

    await eventually(open_files, lambda found: found <= before + 5, what="closed connections")
