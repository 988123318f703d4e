"""Gets the name table from the control plane, over an ADS stream of the agent's own.

Owns the stream: its first request, its acknowledgements, its end and its new beginning.
Must not know DNS.
Easy to break: a control plane that does not serve name tables is silent, which is no error, and one
that is gone takes nothing away: the last table stays.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from controlplane.agent.bootstrap import Bootstrap, EnvoyAddress, PipeAddress, thawed
from controlplane.agent.dns_table import NameEntry
from controlplane.model.base import FrozenDict
from controlplane.translate.envoy import DiscoveryRequest, DiscoveryResponse, NameTable, Node
from controlplane.translate.resources import ResourceType

URL: Final = ResourceType.NAME_TABLE.url
METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
USER_AGENT: Final = "pylot-agent"
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
INVALID_ARGUMENT: Final = 3
OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", -1),
    # Each attempt is a new channel, and no attempt waits for the failures of another.
    ("grpc.use_local_subchannel_pool", 1),
)

Table = FrozenDict[str, NameEntry]

log = structlog.get_logger()


class NameStream:
    """Keeps one stream open for as long as `run` is awaited."""

    def __init__(self, bootstrap: Bootstrap, *, received: Callable[[Table], None]) -> None:
        """`received` is called with every new table."""
        self._bootstrap = bootstrap
        self._received = received
        self._reported = ""

    async def run(self) -> None:
        """Ask for the name table, for ever; returns only by being cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                answered = await self._stream()
            except grpc.aio.AioRpcError as error:
                answered = False
                self._report(f"{error.code().name}: {error.details()}")
            if answered:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _stream(self) -> bool:
        """One stream until it ends; return whether it brought a table."""
        requests: asyncio.Queue[Any] = asyncio.Queue()
        requests.put_nowait(DiscoveryRequest(type_url=URL, node=node_of(self._bootstrap)))
        answered = False
        target = channel_target(self._bootstrap.xds)
        async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
            call = channel.stream_stream(
                METHOD,
                request_serializer=DiscoveryRequest.SerializeToString,
                response_deserializer=DiscoveryResponse.FromString,
            )(_drain(requests))
            async for response in call:
                if response.type_url != URL:
                    continue
                reason = self._take(response)
                answered = answered or not reason
                requests.put_nowait(acknowledgement(response, reason))
        return answered

    def _take(self, response: Any) -> str:
        """Take a response, and return why it cannot be taken, an empty text when it can."""
        try:
            table = parse_table(response)
        except DecodeError as error:
            log.error("name_table_rejected", reason=str(error))
            return f"not a name table: {error}"
        if self._reported:
            log.info("name_table_received_again", names=len(table))
            self._reported = ""
        self._received(table)
        return ""

    def _report(self, reason: str) -> None:
        """Say once why there is no name table; the next time after there was one."""
        if not self._reported:
            log.warning("name_table_unavailable", reason=reason)
        self._reported = reason


def node_of(bootstrap: Bootstrap) -> Any:
    """The node of the agent: its Envoy's, with another user agent to tell them apart."""
    node = Node(id=bootstrap.node_id, cluster=bootstrap.cluster, user_agent_name=USER_AGENT)
    node.metadata.update(thawed(bootstrap.metadata))
    return node


def channel_target(address: EnvoyAddress) -> str:
    """The name that gRPC understands for an address."""
    return str(address) if isinstance(address, PipeAddress) else f"dns:///{address}"


def parse_table(response: Any) -> Table:
    """Return the hosts of a response; raises DecodeError. No resource means no host."""
    found: dict[str, NameEntry] = {}
    for resource in response.resources:
        for host, entry in NameTable.FromString(resource.value).table.items():
            found[host] = NameEntry(
                ips=tuple(entry.ips),
                registry=entry.registry,
                shortname=entry.shortname,
                namespace=entry.namespace,
            )
    return Table(found)


def acknowledgement(response: Any, reason: str) -> Any:
    """The ACK of a response, or its NACK when there is a reason."""
    request = DiscoveryRequest(type_url=URL, response_nonce=response.nonce)
    if reason:
        request.error_detail.code = INVALID_ARGUMENT
        request.error_detail.message = reason
    else:
        request.version_info = response.version_info
    return request


async def _drain(requests: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while True:
        yield await requests.get()
