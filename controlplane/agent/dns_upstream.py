"""Asks the real DNS servers what the mesh does not know.

Owns resolv.conf, the order in which servers are asked, time limits, the way from UDP to TCP.
Must not know names of the mesh.
Easy to break: nothing is remembered of an answer, only of a server that did not answer, so that a
dead one costs its time limit once and not with every query.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from controlplane.agent.dns_wire import MAX_MESSAGE, TRUNCATED, Code, Message, WireError, decode
from controlplane.errors import PylotError

SECONDS_FOR_ONE: Final = 1.5
SECONDS_FOR_ALL: Final = 4.5  # a resolver waits 5 s before it asks again
SECONDS_OF_MISTRUST: Final = 10.0
NOT_AN_ANSWER: Final = frozenset({Code.SERVFAIL, Code.REFUSED, Code.NOTIMP})
DNS_PORT: Final = 53


class UpstreamError(PylotError):
    """No server answered."""


class Server(NamedTuple):
    """A DNS server."""

    host: str
    port: int = DNS_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ResolvConf(NamedTuple):
    """What the agent reads of a resolv.conf."""

    servers: tuple[Server, ...] = ()
    search: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Return servers and search list; what cannot be understood is left out (resolv.conf(5)).

    The last `search` or `domain` line counts.
    """
    servers: list[Server] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.partition("#")[0].partition(";")[0].split()
        match words:
            case ["nameserver", address, *_]:
                try:
                    ipaddress.ip_address(address.partition("%")[0])
                except ValueError:
                    continue
                servers.append(Server(address))
            case ["search", *domains]:
                search = tuple(domain.strip(".").lower() for domain in domains)
            case ["domain", domain]:
                search = (domain.strip(".").lower(),)
    return ResolvConf(tuple(dict.fromkeys(servers)), tuple(filter(None, search)))


def read_resolv_conf(path: Path = Path("/etc/resolv.conf")) -> ResolvConf:
    """Return what the file says, nothing when it cannot be read."""
    try:
        return parse_resolv_conf(path.read_text("utf-8", "replace"))
    except OSError:
        return ResolvConf()


class Upstream:
    """The servers behind the DNS proxy.

    They are asked in turn (round robin); one that is silent or refuses is passed over for the
    next one, and is asked last for 10 s.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)
        self.requests = 0
        self.failures = 0
        self.seconds = 0.0
        self._next = 0
        self._mistrusted: dict[Server, float] = {}

    async def ask(self, query: bytes, *, tcp: bool) -> bytes:
        """Return a server's answer to a query, with the query's id.

        Over UDP first unless `tcp`; an answer that was cut off is asked for again over TCP.
        Raises UpstreamError when no server gives one. An answer that says "I cannot" (SERVFAIL,
        REFUSED) is returned only when no other server does better.
        """
        self.requests += 1
        started = time.monotonic()
        poor: bytes | None = None
        try:
            async with asyncio.timeout(SECONDS_FOR_ALL):
                for server in self._order():
                    answer = await self._try(server, query, tcp=tcp)
                    if answer is None:
                        continue
                    if decode_code(answer) not in NOT_AN_ANSWER:
                        return answer
                    poor = poor or answer
        except TimeoutError:
            pass
        finally:
            self.seconds += time.monotonic() - started
        if poor is not None:
            return poor
        self.failures += 1
        asked = ", ".join(map(str, self.servers)) or "there is none"
        raise UpstreamError(f"no DNS server answers ({asked})")

    def _order(self) -> list[Server]:
        if not self.servers:
            return []
        now = time.monotonic()
        first = self._next % len(self.servers)
        self._next += 1
        turned = (*self.servers[first:], *self.servers[:first])
        return sorted(turned, key=lambda server: self._mistrusted.get(server, 0.0) > now)

    async def _try(self, server: Server, query: bytes, *, tcp: bool) -> bytes | None:
        try:
            async with asyncio.timeout(SECONDS_FOR_ONE):
                answer = await self._exchange(server, query, tcp=tcp)
        except (OSError, TimeoutError, WireError, asyncio.IncompleteReadError):
            self._mistrusted[server] = time.monotonic() + SECONDS_OF_MISTRUST
            return None
        self._mistrusted.pop(server, None)
        return answer

    async def _exchange(self, server: Server, query: bytes, *, tcp: bool) -> bytes:
        # An id and a port that nobody can guess: the defence against forged answers.
        own = secrets.token_bytes(2)
        asked = own + query[2:]
        if not tcp:
            answer = await over_udp(server, asked)
            if not int.from_bytes(answer[2:4], "big") & TRUNCATED:
                return query[:2] + answer[2:]
        answer = await over_tcp(server, asked)
        if not answers(asked, answer):
            raise WireError("the answer belongs to another question")
        return query[:2] + answer[2:]


async def over_udp(server: Server, query: bytes) -> bytes:
    """Return the first datagram from the server that answers the query; raises OSError."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Exchange(query, loop.create_future()), remote_addr=(server.host, server.port)
    )
    try:
        transport.sendto(query)
        return await protocol.answer
    finally:
        transport.close()


async def over_tcp(server: Server, query: bytes) -> bytes:
    """Return the server's answer over a new connection; raises OSError, IncompleteReadError."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        await writer.drain()
        size = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(min(size, MAX_MESSAGE))
    finally:
        writer.close()


def answers(query: bytes, answer: bytes) -> bool:
    """Whether an answer has the id and the question of a query, and can be read."""
    try:
        asked, said = decode(query), decode(answer)
    except WireError:
        return False
    return said.id == asked.id and bool(said.flags & 0x8000) and _same_question(asked, said)


def _same_question(asked: Message, said: Message) -> bool:
    if not said.questions:
        # Some servers leave the question out of an error.
        return said.code != Code.NOERROR
    return [(tuple(map(bytes.lower, q.name)), q.type, q.klass) for q in said.questions] == [
        (tuple(map(bytes.lower, q.name)), q.type, q.klass) for q in asked.questions
    ]


def decode_code(answer: bytes) -> int:
    """The response code of an answer that was read already."""
    return answer[3] & 0xF


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the datagram that answers one query; others are ignored."""

    def __init__(self, query: bytes, answer: asyncio.Future[bytes]) -> None:
        self.query = query
        self.answer = answer

    def datagram_received(self, data: bytes, _address: object) -> None:
        if not self.answer.done() and answers(self.query, data):
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.cancel()
