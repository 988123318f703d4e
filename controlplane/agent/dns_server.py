"""The DNS proxy: UDP and TCP listeners of the agent for a pod's captured queries.

Owns the listeners and what is done with a query: answered from the mesh's names, or passed on.
Must not know where the names come from.
Easy to break: it listens on the loopback addresses, not on "all": the redirection leads there, and
an answer from any other address would not find its way back through it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from controlplane.agent.dns_table import Found, NameIndex
from controlplane.agent.dns_upstream import Upstream, UpstreamError
from controlplane.agent.dns_wire import (
    HEADER,
    IN,
    OPCODE,
    RESPONSE,
    Code,
    Message,
    Name,
    Question,
    Record,
    RecordType,
    WireError,
    answer_to,
    decode,
    encode,
    fit,
    lowered,
    name_bytes,
)
from controlplane.errors import OutsideError

LOOPBACKS: Final = ("127.0.0.1", "::1")
AGENT_DNS_PORT: Final = 15053
TIME_TO_LIVE: Final = 30  # seconds, as Istio's agent says
SECONDS_OF_IDLENESS: Final = 10.0
MOST_CONNECTIONS: Final = 256
MOST_PENDING: Final = 2048

_FAMILIES: Final = frozenset({RecordType.A, RecordType.AAAA})


class DnsProxy:
    """Answers queries; made once, started with `start`, ended with `close`."""

    def __init__(self, upstream: Upstream, names: Callable[[], NameIndex]) -> None:
        self.upstream = upstream
        self.names = names
        self.requests = 0
        self._endpoints: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def start(
        self, *, hosts: Sequence[str] = LOOPBACKS, port: int = AGENT_DNS_PORT
    ) -> tuple[str, ...]:
        """Listen on UDP and TCP, and return the addresses; one that the machine lacks is left out.

        Raises OutsideError when none can be had.
        """
        loop = asyncio.get_running_loop()
        bound: list[str] = []
        reason = ""
        for host in hosts:
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Udp(self), local_addr=(host, port)
                )
            except OSError as error:
                reason = f"{host}:{port}: {error.strerror or error}"
                continue
            try:
                server = await asyncio.start_server(self._serve_tcp, host, port)
            except OSError as error:
                transport.close()
                reason = f"{host}:{port}: {error.strerror or error}"
                continue
            self._endpoints.append(transport)
            self._servers.append(server)
            bound.append(host)
        if not bound:
            await self.close()
            raise OutsideError(f"the DNS proxy cannot listen: {reason}")
        return tuple(bound)

    async def close(self) -> None:
        """Stop listening and give up what is under way."""
        for transport in self._endpoints:
            transport.close()
        for server in self._servers:
            server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._endpoints.clear()
        self._servers.clear()

    def receive(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """Take a UDP query; `send` is called with the answer, at once or later."""
        if len(self._tasks) >= MOST_PENDING:
            return
        task = asyncio.get_running_loop().create_task(self._answer_udp(data, send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        """Return the answer to a query, None for what deserves none."""
        self.requests += 1
        try:
            query = decode(data)
        except WireError:
            return _malformed(data)
        if query.flags & RESPONSE:
            return None
        size = 0xFFFF if tcp else query.udp_size
        if query.flags & OPCODE:
            return fit(answer_to(query, Code.NOTIMP), size)
        if len(query.questions) != 1:
            return fit(answer_to(query, Code.FORMERR), size)
        question = query.questions[0]
        found = self.names().lookup(lowered(question.name)) if question.klass == IN else None
        if found is not None and question.type in _FAMILIES:
            records = records_of(question, found)
            return fit(answer_to(query, Code.NOERROR, answers=records, authoritative=True), size)
        try:
            passed = await self.upstream.ask(data, tcp=tcp)
        except UpstreamError:
            # A name of the mesh exists, whatever else nobody can say of it.
            code = Code.SERVFAIL if found is None else Code.NOERROR
            return fit(answer_to(query, code), size)
        return passed if len(passed) <= size else fit(decode(passed), size)

    async def _answer_udp(self, data: bytes, send: Callable[[bytes], None]) -> None:
        answer = await self.answer(data, tcp=False)
        if answer is not None:
            send(answer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        try:
            while self._connections <= MOST_CONNECTIONS:
                async with asyncio.timeout(SECONDS_OF_IDLENESS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                answer = await self.answer(data, tcp=True)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections -= 1
            self._tasks.discard(task)
            writer.close()


def records_of(question: Question, found: Found) -> tuple[Record, ...]:
    """Return the records that answer a question for addresses, in an order drawn by lot.

    No record when the name has no address of the family: not even the CNAME, as in Istio.
    """
    texts = found.ipv4 if question.type == RecordType.A else found.ipv6
    if not texts:
        return ()
    owner: Name = question.name
    records: list[Record] = []
    if found.canonical:
        # The beginning of the question as it was written: it is echoed letter for letter.
        owner = question.name[: found.canonical.count(".") + 1]
        records.append(Record(question.name, RecordType.CNAME, TIME_TO_LIVE, name_bytes(owner)))
    for text in random.sample(texts, len(texts)):
        data = ipaddress.ip_address(text).packed
        records.append(Record(owner, question.type, TIME_TO_LIVE, data))
    return tuple(records)


def _malformed(data: bytes) -> bytes | None:
    """Answer what cannot be read, as far as its header can."""
    if len(data) < HEADER.size or data[2] & 0x80:
        return None
    identity, flags, *_ = HEADER.unpack_from(data)
    return encode(answer_to(Message(identity, flags), Code.FORMERR))


class _Udp(asyncio.DatagramProtocol):
    """One UDP listener."""

    def __init__(self, proxy: DnsProxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        transport = self._transport
        if transport is not None:
            self._proxy.receive(data, lambda answer: transport.sendto(answer, address))
