"""A control plane that says what a test tells it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from controlplane.agent.name_stream import METHOD, URL
from controlplane.translate.envoy import DiscoveryRequest, DiscoveryResponse, NameTable, pack

PATIENCE: Final = 10.0


class FakeControlPlane:
    """Answers streams with what a test puts in; remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.responses: asyncio.Queue[Any] = asyncio.Queue()

    async def stream(self, requests: Any, _context: Any) -> AsyncIterator[Any]:
        async def read() -> None:
            async for request in requests:
                self.requests.put_nowait(request)

        reader = asyncio.create_task(read())
        try:
            while True:
                yield await self.responses.get()
        finally:
            reader.cancel()

    async def request(self) -> Any:
        return await asyncio.wait_for(self.requests.get(), PATIENCE)

    def send(self, nonce: str, *resources: Any) -> None:
        self.responses.put_nowait(
            DiscoveryResponse(
                version_info=f"v{nonce}", type_url=URL, nonce=nonce, resources=resources
            )
        )

    @asynccontextmanager
    async def listening(self, target: str) -> AsyncIterator[None]:
        plane = self

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
            def service(self, details: Any) -> Any:
                assert details.method == METHOD
                return grpc.stream_stream_rpc_method_handler(
                    plane.stream,
                    request_deserializer=DiscoveryRequest.FromString,
                    response_serializer=DiscoveryResponse.SerializeToString,
                )

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Handler(),))
        server.add_insecure_port(target)
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)


def table(*hosts: str) -> Any:
    made = NameTable()
    for host in hosts:
        made.table[host].ips.append("192.0.2.1")
    return pack(made)
