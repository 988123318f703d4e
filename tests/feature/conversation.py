"""Talking to the server as an Envoy does: helpers that make a test read like a conversation.

async with mesh.sotw() as envoy:
    await envoy.asks(CDS)
    answer = await envoy.hears(CDS)
    await envoy.accepts(answer)
    await envoy.hears_nothing()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec

from controlplane.ads.reporter import Reporter
from controlplane.ads.server import AdsServer
from controlplane.ads.types import NDS, TypeInfo
from controlplane.ads.wire import DELTA_METHOD, SERVICE, SOTW_METHOD
from controlplane.model.diff import Change
from controlplane.model.names import Host
from controlplane.translate.envoy import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
)
from tests.feature.served import ServedWorld
from tests.feature.world import World

NODE = "sidecar~1.1.1.1~app.test~default.svc.cluster.local"
QUIET = 0.15
PATIENCE = 5.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A response, whichever the protocol."""

    type_url: str
    version: str
    nonce: str
    names: tuple[str, ...]
    resources: Mapping[str, bytes]
    versions: Mapping[str, str] = {}
    removed: tuple[str, ...] = ()
    any_urls: frozenset[str] = frozenset()
    at: float = 0.0


class Envoy:
    """One stream of one node."""

    def __init__(self, call: Any, node: str, *, agent: str, namespace: str) -> None:
        self._call = call
        self._node: Any = Node(id=node, user_agent_name=agent)
        self._node.metadata.update({"NAMESPACE": namespace})
        self.heard: list[Answer] = []

    async def _send(self, message: Any) -> None:
        if self._node is not None:
            message.node.CopyFrom(self._node)
            self._node = None
        await self._call.write(message.SerializeToString())

    async def sends_bytes(self, payload: bytes) -> None:
        """Write raw bytes."""
        await self._call.write(payload)

    async def half_closes(self) -> None:
        """Say that no more requests come."""
        await self._call.done_writing()

    async def hears_anything(self, patience: float = PATIENCE) -> Answer:
        """Return the next response of whatever type."""
        try:
            payload = await asyncio.wait_for(self._call.read(), patience)
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"the stream ended: {error.code()} {error.details()}") from None
        assert payload is not grpc.aio.EOF, "the stream ended"
        answer = self._decode(payload)
        assert len(set(answer.names)) == len(answer.names), "E2: a name appears twice"
        assert answer.nonce, "B1: a response has a nonce"
        assert answer.nonce not in {old.nonce for old in self.heard}, "B1: a nonce was used twice"
        assert answer.version, "B2: a response has a version"
        assert answer.any_urls <= {answer.type_url}, "B4: a resource has another type"
        self.heard.append(answer)
        return answer

    def _decode(self, payload: bytes) -> Answer:
        raise NotImplementedError

    async def hears(self, info: TypeInfo, patience: float = PATIENCE) -> Answer:
        """Return the next response, which must be of this type."""
        answer = await self.hears_anything(patience)
        assert answer.type_url == info.url, f"heard {answer.type_url}, expected {info.short}"
        return answer

    async def hears_nothing(self, seconds: float = QUIET) -> None:
        """Check that nothing comes. Keeps what was begun to be read for later."""
        pending = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait((pending,), timeout=seconds)
        if done:
            payload = pending.result()
            if payload is grpc.aio.EOF:
                raise AssertionError(f"the stream ended: {await self._call.code()}")
            answer = self._decode(payload)
            raise AssertionError(f"heard {answer.type_url} {answer.names} -{answer.removed}")
        call = self._call
        self._call = _Ahead(call, pending)

    async def is_refused(self) -> tuple[grpc.StatusCode, str]:
        """Return the status that the server ended the stream with."""
        try:
            while await asyncio.wait_for(self._call.read(), PATIENCE) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return await self._call.code(), await self._call.details()

    def leaves(self) -> None:
        """Break the stream off."""
        self._call.cancel()


class _Ahead:
    """A call of which one read is under way already."""

    def __init__(self, call: Any, pending: asyncio.Future[Any]) -> None:
        self._call = call
        self._pending: asyncio.Future[Any] | None = pending

    async def read(self) -> Any:
        if self._pending is not None:
            try:
                return await asyncio.shield(self._pending)
            finally:
                if self._pending.done():
                    self._pending = None
        return await self._call.read()

    def cancel(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
        self._call.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class SotwEnvoy(Envoy):
    """Speaks state of the world."""

    async def asks(
        self,
        info: TypeInfo,
        *names: str,
        version: str = "",
        nonce: str = "",
        error: str | None = None,
    ) -> None:
        """Send a request."""
        message: Any = DiscoveryRequest(
            type_url=info.url, resource_names=names, version_info=version, response_nonce=nonce
        )
        if error is not None:
            message.error_detail.code = 13
            message.error_detail.message = error
        await self._send(message)

    async def accepts(self, answer: Answer, *names: str) -> None:
        """Acknowledge; for named types say the names again."""
        info = _info(answer)
        await self.asks(info, *names, version=answer.version, nonce=answer.nonce)

    async def rejects(
        self, answer: Answer, *names: str, error: str = "broken", version: str = ""
    ) -> None:
        """Reject a response."""
        await self.asks(_info(answer), *names, version=version, nonce=answer.nonce, error=error)

    async def asks_and_accepts(self, info: TypeInfo, *names: str) -> Answer:
        """Subscribe, hear, acknowledge."""
        await self.asks(info, *names)
        answer = await self.hears(info)
        await self.accepts(answer, *names)
        return answer

    def _decode(self, payload: bytes) -> Answer:
        message: Any = DiscoveryResponse.FromString(payload)
        resources = [(_name(entry), entry.value) for entry in message.resources]
        return Answer(
            type_url=message.type_url,
            version=message.version_info,
            nonce=message.nonce,
            names=tuple(name for name, _ in resources),
            resources=dict(resources),
            any_urls=frozenset(entry.type_url for entry in message.resources),
            at=time.monotonic(),
        )


class DeltaEnvoy(Envoy):
    """Speaks delta."""

    async def asks(
        self,
        info: TypeInfo,
        *names: str,
        unsubscribe: Iterable[str] = (),
        initial: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
        type_url: str = "",
    ) -> None:
        """Send a request."""
        message: Any = DeltaDiscoveryRequest(
            type_url=type_url or info.url,
            resource_names_subscribe=names,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=initial or {},
            response_nonce=nonce,
        )
        if error is not None:
            message.error_detail.code = 13
            message.error_detail.message = error
        await self._send(message)

    async def accepts(self, answer: Answer) -> None:
        """Acknowledge."""
        await self.asks(_info(answer), nonce=answer.nonce)

    async def rejects(self, answer: Answer, *, error: str = "broken") -> None:
        """Reject a response."""
        await self.asks(_info(answer), nonce=answer.nonce, error=error)

    async def asks_and_accepts(self, info: TypeInfo, *names: str) -> Answer:
        """Subscribe, hear, acknowledge."""
        await self.asks(info, *names)
        answer = await self.hears(info)
        await self.accepts(answer)
        return answer

    def _decode(self, payload: bytes) -> Answer:
        message: Any = DeltaDiscoveryResponse.FromString(payload)
        return Answer(
            type_url=message.type_url,
            version=message.system_version_info,
            nonce=message.nonce,
            names=tuple(entry.name for entry in message.resources),
            resources={entry.name: entry.resource.value for entry in message.resources},
            versions={entry.name: entry.version for entry in message.resources},
            removed=tuple(message.removed_resources),
            any_urls=frozenset(entry.resource.type_url for entry in message.resources),
            at=time.monotonic(),
        )


def _info(answer: Answer) -> TypeInfo:
    from controlplane.ads.types import TYPE_BY_URL

    return TYPE_BY_URL[answer.type_url]


def _name(entry: Any) -> str:
    """Return a packed resource's name; a name table has none."""
    from controlplane.translate.envoy import (
        Cluster,
        ClusterLoadAssignment,
        Listener,
        RouteConfiguration,
    )

    if entry.type_url == NDS.url:
        return ""
    kinds: tuple[Any, ...] = (Cluster, ClusterLoadAssignment, Listener, RouteConfiguration)
    for kind in kinds:
        if entry.type_url.endswith(kind.DESCRIPTOR.full_name):
            message = kind.FromString(entry.value)
            name: str = getattr(message, "name", "") or getattr(message, "cluster_name", "")
            return name
    raise AssertionError(f"unknown type {entry.type_url}")


class Mesh(ServedWorld):
    """A running server and the world that it serves."""

    def __init__(
        self,
        world: World,
        *,
        reporter: Reporter | None = None,
        ready: Callable[[], bool] = lambda: True,
        admitted_per_second: float = 400.0,
        patience: float = 10.0,
    ) -> None:
        super().__init__(world, clock=time.monotonic, epoch=time.time, reporter=reporter)
        self.server = AdsServer(
            self.pusher,
            ready=ready,
            reporter=reporter,
            admitted_per_second=admitted_per_second,
            patience=patience,
        )
        self.port = 0

    def scales(self, host: str, *addresses: str) -> None:
        """Change the endpoints of one service, and nothing else."""
        self.becomes(
            Change(endpoints=frozenset({Host(host)})),
            endpoints={**self.world.endpoints, host: addresses},
        )

    @asynccontextmanager
    async def sotw(
        self, node: str = NODE, *, agent: str = "envoy", namespace: str = "default"
    ) -> AsyncIterator[SotwEnvoy]:
        """Open a state-of-the-world stream."""
        async with self.call(SOTW_METHOD) as call:
            yield SotwEnvoy(call, node, agent=agent, namespace=namespace)

    @asynccontextmanager
    async def delta(
        self, node: str = NODE, *, agent: str = "envoy", namespace: str = "default"
    ) -> AsyncIterator[DeltaEnvoy]:
        """Open a delta stream."""
        async with self.call(DELTA_METHOD) as call:
            yield DeltaEnvoy(call, node, agent=agent, namespace=namespace)

    @asynccontextmanager
    async def call(self, method: str) -> AsyncIterator[Any]:
        """Open a stream of raw bytes on a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{method}")()
            try:
                yield call
            finally:
                call.cancel()

    async def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until something is true."""
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, "it did not become true in time"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(world: World, **options: Any) -> AsyncIterator[Mesh]:
    """Run a server for a world."""
    mesh = Mesh(world, **options)
    (mesh.port,) = await mesh.server.start("127.0.0.1:0")
    try:
        yield mesh
    finally:
        await mesh.server.stop(0.2)
