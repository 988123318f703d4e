"""The DNS proxy over real sockets: own names, foreign names, dead and silent servers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from controlplane.agent import dns_upstream
from controlplane.agent.dns_server import DnsProxy
from controlplane.agent.dns_table import NameEntry, NameIndex, Place
from controlplane.agent.dns_upstream import Server, Upstream, parse_resolv_conf
from controlplane.agent.dns_wire import (
    AUTHORITATIVE,
    RECURSION_DESIRED,
    TRUNCATED,
    Code,
    Message,
    Question,
    Record,
    RecordType,
    answer_to,
    decode,
    encode,
    name_bytes,
    parse_name,
)
from controlplane.errors import OutsideError

NAMES: Final = NameIndex(
    {
        "reviews.default.svc.cluster.local": NameEntry(
            ips=("10.96.0.1",), registry="Kubernetes", shortname="reviews", namespace="default"
        ),
        "api.example.com": NameEntry(ips=("192.0.2.1", "2001:db8::1"), registry="External"),
        "many.example.com": NameEntry(ips=tuple(f"192.0.2.{n}" for n in range(90))),
    },
    Place(namespace="default", search=("default.svc.cluster.local", "svc.cluster.local")),
)
Answer = Callable[[Message], Message | None]


def query(name: str, kind: int = RecordType.A, *, identity: int = 77) -> bytes:
    return encode(Message(identity, RECURSION_DESIRED, (Question(parse_name(name), kind),)))


def a_record(message: Message, *ips: str) -> Message:
    records = tuple(
        Record(message.questions[0].name, RecordType.A, 5, socket.inet_aton(ip)) for ip in ips
    )
    return answer_to(message, Code.NOERROR, answers=records)


class FakeServer(asyncio.DatagramProtocol):
    """A DNS server of the outside world."""

    def __init__(self, answer: Answer, *, cut_off_udp: bool = False) -> None:
        self.make = answer
        self.cut_off_udp = cut_off_udp
        self.seen: list[tuple[str, Message]] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        message = decode(data)
        self.seen.append(("udp", message))
        answer = self.make(message)
        if answer is not None:
            if self.cut_off_udp:
                answer = answer._replace(flags=answer.flags | TRUNCATED, answers=())
            self.transport.sendto(encode(answer), address)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        message = decode(await reader.readexactly(size))
        self.seen.append(("tcp", message))
        answer = self.make(message)
        if answer is not None:
            data = encode(answer)
            writer.write(struct.pack("!H", len(data)) + data)
        writer.close()


@asynccontextmanager
async def fake_server(answer: Answer, *, cut_off_udp: bool = False) -> AsyncIterator[Any]:
    fake = FakeServer(answer, cut_off_udp=cut_off_udp)
    loop = asyncio.get_running_loop()
    port = dead_port()
    tcp = await asyncio.start_server(fake.serve_tcp, "127.0.0.1", port)
    udp, _ = await loop.create_datagram_endpoint(lambda: fake, local_addr=("127.0.0.1", port))
    try:
        yield fake, Server("127.0.0.1", port)
    finally:
        udp.close()
        tcp.close()


def dead_port() -> int:
    """A port that nobody listens on, below those of outgoing connections."""
    while True:
        port = random.SystemRandom().randint(20000, 32000)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            contextlib.suppress(OSError),
        ):
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
            return port


@asynccontextmanager
async def proxy(*servers: Server) -> AsyncIterator[tuple[DnsProxy, Server]]:
    made = DnsProxy(Upstream(servers), lambda: NAMES)
    port = dead_port()
    await made.start(hosts=("127.0.0.1",), port=port)
    try:
        yield made, Server("127.0.0.1", port)
    finally:
        await made.close()


async def ask(server: Server, name: str, kind: int = RecordType.A) -> Message:
    return decode(await asyncio.wait_for(dns_upstream.over_udp(server, query(name, kind)), 6))


async def ask_tcp(server: Server, name: str, kind: int = RecordType.A) -> Message:
    return decode(await asyncio.wait_for(dns_upstream.over_tcp(server, query(name, kind)), 6))


def ips(message: Message) -> list[str]:
    return sorted(
        socket.inet_ntop(
            socket.AF_INET if record.type == RecordType.A else socket.AF_INET6, record.data
        )
        for record in message.answers
        if record.type in (RecordType.A, RecordType.AAAA)
    )


@pytest.mark.parametrize("how", [ask, ask_tcp])
async def test_names_of_the_mesh_are_answered(how: Any) -> None:
    async with proxy() as (_, server):
        answer = await how(server, "ReViews.default.svc.cluster.local")
        assert ips(answer) == ["10.96.0.1"]
        assert answer.flags & AUTHORITATIVE
        assert answer.answers[0].ttl == 30
        assert answer.questions[0].name[0] == b"ReViews"
        assert ips(await how(server, "api.example.com", RecordType.AAAA)) == ["2001:db8::1"]


async def test_a_family_without_address_is_no_data_and_not_passed_on() -> None:
    async with (
        fake_server(lambda message: a_record(message, "203.0.113.9")) as (fake, real),
        proxy(real) as (_, server),
    ):
        answer = await ask(server, "reviews.default.svc.cluster.local", RecordType.AAAA)
    assert (answer.code, answer.answers) == (Code.NOERROR, ())
    assert fake.seen == []


async def test_a_name_made_by_the_search_list_is_an_alias() -> None:
    async with proxy() as (_, server):
        answer = await ask(server, "api.example.com.default.svc.cluster.local")
    alias, address = answer.answers
    assert (alias.type, alias.data) == (RecordType.CNAME, name_bytes(parse_name("api.example.com")))
    assert address.name == parse_name("api.example.com")
    assert ips(answer) == ["192.0.2.1"]


async def test_other_names_are_passed_on_with_their_answers() -> None:
    async with (
        fake_server(lambda message: a_record(message, "203.0.113.9")) as (fake, real),
        proxy(real) as (_, server),
    ):
        answer = await ask(server, "www.example.org")
    assert ips(answer) == ["203.0.113.9"]
    assert answer.id == 77
    assert [how for how, _ in fake.seen] == ["udp"]
    assert fake.seen[0][1].questions == answer.questions


async def test_nothing_is_cached() -> None:
    answers = iter(["203.0.113.1", "203.0.113.2"])
    async with (
        fake_server(lambda message: a_record(message, next(answers))) as (_, real),
        proxy(real) as (_, server),
    ):
        first = ips(await ask(server, "www.example.org"))
        second = ips(await ask(server, "www.example.org"))
    assert (first, second) == (["203.0.113.1"], ["203.0.113.2"])


async def test_an_unknown_name_stays_unknown() -> None:
    async with (
        fake_server(lambda message: answer_to(message, Code.NXDOMAIN)) as (_, real),
        proxy(real) as (_, server),
    ):
        assert (await ask(server, "nobody.example.org")).code == Code.NXDOMAIN


async def test_a_cut_off_answer_is_fetched_over_tcp() -> None:
    many = [f"203.0.113.{n}" for n in range(60)]
    async with (
        fake_server(lambda m: a_record(m, *many), cut_off_udp=True) as (fake, real),
        proxy(real) as (_, server),
    ):
        over_udp = await ask(server, "www.example.org")
        over_tcp = await ask_tcp(server, "www.example.org")
    assert over_udp.flags & TRUNCATED  # 60 addresses do not fit into 512 bytes
    assert len(ips(over_tcp)) == 60
    assert [how for how, _ in fake.seen] == ["udp", "tcp", "tcp"]


async def test_own_names_that_do_not_fit_are_cut_off_for_udp_only() -> None:
    async with proxy() as (_, server):
        assert (await ask(server, "many.example.com")).flags & TRUNCATED
        assert len(ips(await ask_tcp(server, "many.example.com"))) == 90


async def test_a_dead_server_is_passed_over_and_asked_last_afterwards() -> None:
    dead = Server("127.0.0.1", dead_port())
    async with (
        fake_server(lambda message: a_record(message, "203.0.113.9")) as (fake, real),
        proxy(dead, real) as (_, server),
    ):
        for _ in range(4):
            assert ips(await ask(server, "www.example.org")) == ["203.0.113.9"]
    assert len(fake.seen) == 4


async def test_a_silent_server_costs_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_upstream, "SECONDS_FOR_ONE", 0.2)
    async with (
        fake_server(lambda message: None) as (silent, first),
        fake_server(lambda message: a_record(message, "203.0.113.9")) as (_, second),
        proxy(first, second) as (_, server),
    ):
        for _ in range(4):
            assert ips(await ask(server, "www.example.org")) == ["203.0.113.9"]
    assert len(silent.seen) == 1


async def test_without_any_server_the_mesh_still_answers() -> None:
    async with proxy(Server("127.0.0.1", dead_port())) as (made, server):
        assert (await ask(server, "www.example.org")).code == Code.SERVFAIL
        assert ips(await ask(server, "reviews")) == ["10.96.0.1"]
        # HTTPS records (65) of a name that exists: nothing is known, which is no failure.
        other = await ask(server, "reviews", 65)
    assert (other.code, other.answers) == (Code.NOERROR, ())
    assert made.upstream.failures == 2


async def test_a_server_that_refuses_is_passed_over() -> None:
    async with (
        fake_server(lambda message: answer_to(message, Code.REFUSED)) as (_, first),
        fake_server(lambda message: a_record(message, "203.0.113.9")) as (_, second),
        proxy(first, second) as (_, server),
    ):
        for _ in range(2):
            assert ips(await ask(server, "www.example.org")) == ["203.0.113.9"]


async def test_servers_take_turns() -> None:
    async with (
        fake_server(lambda message: a_record(message, "203.0.113.1")) as (one, first),
        fake_server(lambda message: a_record(message, "203.0.113.2")) as (two, second),
        proxy(first, second) as (_, server),
    ):
        for _ in range(4):
            await ask(server, "www.example.org")
    assert (len(one.seen), len(two.seen)) == (2, 2)


async def test_a_forged_answer_is_ignored() -> None:
    def forge(message: Message) -> Message:
        return a_record(message, "203.0.113.66")._replace(id=message.id ^ 1)

    upstream = Upstream(())
    async with fake_server(forge) as (_, real):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dns_upstream.over_udp(real, query("www.example.org")), 0.2)
    assert upstream.servers == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes.fromhex("0007 0100 0001 0000 0000 0000") + b"\xc0\x0c", Code.FORMERR),
        (bytes.fromhex("0007 2800 0000 0000 0000 0000"), Code.NOTIMP),
        (bytes.fromhex("0007 0100 0000 0000 0000 0000"), Code.FORMERR),
    ],
)
async def test_what_is_no_query_gets_its_error(data: bytes, code: Code) -> None:
    answer = await DnsProxy(Upstream(()), lambda: NAMES).answer(data, tcp=False)
    assert answer is not None
    assert (decode(answer).id, decode(answer).code) == (7, code)


@pytest.mark.parametrize("data", [b"", b"short", bytes.fromhex("0007 8100 0000 0000 0000 0000")])
async def test_answers_and_scraps_get_no_answer(data: bytes) -> None:
    assert await DnsProxy(Upstream(()), lambda: NAMES).answer(data, tcp=False) is None


def test_resolv_conf_is_read_leniently() -> None:
    read = parse_resolv_conf(
        "# comment\nnameserver 10.96.0.10\nnameserver nonsense\nnameserver fd00::10 ; second\n"
        "search a.example B.Example.\noptions ndots:5\n"
    )
    assert read.servers == (Server("10.96.0.10"), Server("fd00::10"))
    assert read.search == ("a.example", "b.example")
    assert str(read.servers[1]) == "[fd00::10]:53"


async def test_a_port_that_is_taken_is_one_sentence_and_leaves_nothing_behind() -> None:
    port = dead_port()
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    made = DnsProxy(Upstream(()), lambda: NAMES)
    try:
        with pytest.raises(OutsideError, match=str(port)):
            await made.start(hosts=("127.0.0.1",), port=port)
        await asyncio.sleep(0)  # a transport closes at the loop's next turn
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))
    finally:
        taken.close()
        await made.close()
