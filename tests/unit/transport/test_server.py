"""The server on real sockets: addresses, slow and silent clients, TLS, and many of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.errors import OutsideError
from controlplane.transport.headers import StatusCode
from controlplane.transport.server import GrpcServer
from controlplane.transport.stream import Call
from tests.unit.transport.wire import (
    DATA,
    GOAWAY,
    PATH,
    PREFACE,
    call,
    data,
    message,
    payload_of,
    read,
    settings,
    window_update,
)

PATIENCE = 20.0
CONGESTION = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
KNOWN = set(CONGESTION.read_text().split()) if CONGESTION.exists() else set()  # its controls
WIDE = settings(_4=2**31 - 1) + window_update(0, 2**30)


class Echo:
    """Answers each message with itself, one after the other; `answer` makes it longer."""

    def __init__(self, made: Call, answer: Callable[[bytes], bytes]) -> None:
        self.call = made
        self._answer = answer
        self._queue: list[bytes] = []
        self._room = True
        self.ended: str | None = None

    def on_message(self, payload: bytes) -> None:
        self._queue.append(payload)
        self._write()

    def on_half_close(self) -> None:
        self.call.end(StatusCode.OK)

    def on_writable(self) -> None:
        self._room = True
        self._write()

    def on_end(self, reason: str) -> None:
        assert self.ended is None, "ended twice"
        self.ended = reason
        self._queue.clear()

    def _write(self) -> None:
        while self._room and self._queue and self.ended is None:
            self._room = self.call.send(self._answer(self._queue.pop(0)))


class Served:
    """A running server."""

    def __init__(self, server: GrpcServer, ports: tuple[int, ...], calls: list[Echo]) -> None:
        self.server = server
        self.ports = ports
        self.calls = calls

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  # there is no event for any condition
                await asyncio.sleep(0.01)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect by plain TCP."""
        return await asyncio.open_connection("127.0.0.1", self.ports[0])


@contextlib.asynccontextmanager
async def serving(
    *addresses: str,
    answer: Callable[[bytes], bytes] = lambda payload: payload,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """A server of echoes."""
    calls: list[Echo] = []

    def serve(made: Call) -> Echo:
        calls.append(Echo(made, answer))
        return calls[-1]

    server = GrpcServer({PATH: serve}, ssl=tls)
    ports = await server.start(*(addresses or ("127.0.0.1:0",)))
    try:
        yield Served(server, ports, calls)
    finally:
        await server.stop(0.0)
    assert all(served.ended is not None for served in calls)


@contextlib.asynccontextmanager
async def channel(target: str, credentials: Any = None) -> AsyncIterator[Any]:
    """A gRPC client."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    options += [("grpc.enable_http_proxy", 0)]
    if credentials is None:
        made = grpc.aio.insecure_channel(target, options=options)
    else:
        made = grpc.aio.secure_channel(target, credentials, options=options)
    async with made as opened:
        yield opened


async def echoes(opened: Any, payload: bytes = b"hello") -> bytes:
    """Send one message on a new call; return what comes back."""
    made = opened.stream_stream(PATH)()
    await made.write(payload)
    answer: bytes = await asyncio.wait_for(made.read(), PATIENCE)
    await made.done_writing()
    assert await asyncio.wait_for(made.read(), PATIENCE) is grpc.aio.EOF
    assert await made.code() is grpc.StatusCode.OK
    return answer


@pytest.mark.parametrize("address", ["127.0.0.1:0", ":0", "[::]:0", "0.0.0.0:0"])
async def test_a_client_of_ipv4_is_served(address: str) -> None:
    async with serving(address) as served, channel(f"127.0.0.1:{served.ports[0]}") as opened:
        assert await echoes(opened) == b"hello"
        assert served.calls[0].call.peer.startswith("ipv4:127.0.0.1:")


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="Linux alone tells")
@pytest.mark.parametrize(("found", "expected"), [("bbr", "cubic"), ("reno", "reno")])
async def test_bursts_are_not_paced(
    found: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not {found, expected} <= KNOWN:
        pytest.skip(f"the kernel knows only {KNOWN}")
    create, listeners = socket.create_server, []

    def created(*args: Any, **options: Any) -> socket.socket:
        listener = create(*args, **options)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, found.encode())
        listeners.append(listener)
        return listener

    monkeypatch.setattr(socket, "create_server", created)
    async with serving("127.0.0.1:0") as served, channel(f"127.0.0.1:{served.ports[0]}") as opened:
        assert await echoes(opened) == b"hello"
        used = listeners[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert used.rstrip(b"\0").decode() == expected


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6")
@pytest.mark.parametrize("address", [":0", "[::1]:0"])
async def test_a_client_of_ipv6_is_served(address: str) -> None:
    async with serving(address) as served, channel(f"[::1]:{served.ports[0]}") as opened:
        assert await echoes(opened) == b"hello"
        assert served.calls[0].call.peer.startswith("ipv6:[::1]:")


async def test_a_client_of_a_unix_socket_is_served_even_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    async with serving(f"unix:{path}") as served, channel(f"unix:{path}") as opened:
        assert served.ports == (0,)
        assert await echoes(opened) == b"hello"
        with pytest.raises(OutsideError, match="cannot be bound"):
            await GrpcServer({}).start(f"unix:{path}")


async def test_an_address_in_use_is_an_error() -> None:
    async with serving() as served:
        address = f"127.0.0.1:{served.ports[0]}"
        sentence = f"the address {address} cannot be bound: Address already in use"
        with pytest.raises(OutsideError, match=f"^{sentence}$"):
            await GrpcServer({}).start("127.0.0.1:0", address)


@pytest.mark.parametrize("address", ["nowhere.invalid:1", "127.0.0.1:70000", "unix:/none/such"])
async def test_an_address_that_is_none_is_an_error(address: str) -> None:
    with pytest.raises(OutsideError, match="cannot be bound"):
        await GrpcServer({}).start(address)


async def test_large_messages_pass_both_ways() -> None:
    body = bytes(range(256)) * 15_000
    async with (
        serving(answer=lambda payload: payload * 5) as served,
        channel(f"127.0.0.1:{served.ports[0]}") as opened,
    ):
        assert await echoes(opened, body) == body * 5


async def test_an_unknown_method_is_told_so() -> None:
    async with serving() as served, channel(f"127.0.0.1:{served.ports[0]}") as opened:
        made = opened.stream_stream("/test.Service/Other")()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asyncio.wait_for(made.read(), PATIENCE)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_thousand_calls_on_one_connection_are_served() -> None:
    async with serving() as served, channel(f"127.0.0.1:{served.ports[0]}") as opened:
        calls = [opened.stream_stream(PATH)() for _ in range(1000)]

        async def speaks(number: int) -> None:
            for text in (f"first {number}".encode(), f"second {number}".encode()):
                await calls[number].write(text)
                assert await asyncio.wait_for(calls[number].read(), PATIENCE) == text

        await asyncio.gather(*map(speaks, range(1000)))
        assert served.server.connection_count == 1
        for one in calls:
            one.cancel()
        await served.until(lambda: all(one.ended is not None for one in served.calls))
        assert await echoes(opened) == b"hello", "so many cancellations are no attack"


async def test_a_thousand_connections_are_served() -> None:
    async with serving() as served:
        streams = await asyncio.gather(*(served.connect() for _ in range(1000)))
        for number, (_, writer) in enumerate(streams):
            text = message(f"number {number}".encode())
            writer.write(PREFACE + settings() + call(1) + data(1, text))
        for number, (reader, _) in enumerate(streams):
            await asyncio.wait_for(reader.readuntil(f"number {number}".encode()), PATIENCE)
        assert served.server.connection_count == 1000
        for _, writer in streams:
            writer.close()
        await served.until(lambda: served.server.connection_count == 0)


async def test_whoever_reads_slowly_gets_everything_and_costs_one_response() -> None:
    body = bytes(range(256)) * 65_536  # 16 MiB, more than any socket holds
    async with serving(answer=lambda _: body) as served:
        reader, writer = await served.connect()
        transport = writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(PREFACE + WIDE + call(1) + data(1, message(b"1") + message(b"2")))
        await served.until(lambda: bool(served.calls and served.calls[0]._queue))
        await asyncio.sleep(0.1)
        assert len(served.calls[0]._queue) == 1, "the second answer waits for the first"
        async with channel(f"127.0.0.1:{served.ports[0]}") as opened:
            assert await echoes(opened) == body, "others are served meanwhile"
        transport.resume_reading()  # type: ignore[attr-defined]
        expected = message(body) * 2
        received, left = bytearray(), len(expected)
        pending = b""
        while left:
            pending += await asyncio.wait_for(reader.read(1 << 20), PATIENCE)
            end = 0
            while len(pending) - end >= 9:
                size = int.from_bytes(pending[end : end + 3], "big")
                if end + 9 + size > len(pending):
                    break
                if pending[end + 3] == DATA:
                    received += pending[end + 9 : end + 9 + size]
                    left -= size
                end += 9 + size
            pending = pending[end:]
        assert received == expected
        writer.close()
        await served.until(lambda: served.calls[0].ended is not None)


async def test_whoever_vanishes_in_a_response_is_forgotten() -> None:
    async with serving(answer=lambda _: bytes(1 << 24)) as served:
        _, writer = await served.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(PREFACE + WIDE + call(1) + data(1, message(b"1")))
        await served.until(lambda: bool(served.calls))
        writer.transport.abort()
        await served.until(lambda: served.calls[0].ended is not None)
        assert served.server.connection_count == 0


async def test_whoever_stops_sending_is_closed() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(PREFACE + settings() + call(1))
        await served.until(lambda: bool(served.calls))
        writer.write_eof()
        await asyncio.wait_for(reader.read(), PATIENCE)
        assert served.calls[0].ended is not None
        writer.close()


async def test_whoever_speaks_something_else_is_told_and_closed() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        said = list(read(await asyncio.wait_for(reader.read(), PATIENCE)))
        assert said[-1].kind == GOAWAY
        writer.close()


async def test_a_window_of_one_byte_reaches_the_socket() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(PREFACE + settings(_4=0) + call(1) + data(1, message(b"slow")))
        received = b""
        for _ in message(b"slow"):
            writer.write(window_update(1, 1))
            while not (found := payload_of(read(await _whole(reader)), 1)):
                pass
            assert len(found) == 1
            received += found
        assert received == message(b"slow")
        writer.close()


async def _whole(reader: asyncio.StreamReader) -> bytes:
    """Read one frame."""
    async with asyncio.timeout(PATIENCE):
        header = await reader.readexactly(9)
        return header + await reader.readexactly(int.from_bytes(header[:3], "big"))


async def test_connections_over_the_limit_are_closed() -> None:
    async with serving() as served:
        served.server._shared.limit = 2
        streams = [await served.connect() for _ in range(3)]
        assert await asyncio.wait_for(streams[2][0].read(), PATIENCE) == b""
        assert served.server.connection_count == 2
        for _, writer in streams:
            writer.close()


async def test_stopping_waits_for_calls_but_not_longer_than_told() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(PREFACE + settings() + call(1))
        await served.until(lambda: bool(served.calls))
        loop = asyncio.get_running_loop()
        since = loop.time()
        stopping = asyncio.ensure_future(served.server.stop(30.0))
        while next(iter(read(await _whole(reader)))).kind != GOAWAY:
            pass
        with pytest.raises(OSError, match="Connect call failed"):
            await served.connect()
        served.calls[0].call.end(StatusCode.OK)
        await stopping
        assert loop.time() - since < 10
        writer.close()
    async with serving() as served:
        _, writer = await served.connect()
        writer.write(PREFACE + settings() + call(1))
        await served.until(lambda: bool(served.calls))
        await asyncio.wait_for(served.server.stop(0.1), 10)
        assert served.calls[0].ended is not None
        writer.close()


def certificate(directory: Path) -> tuple[ssl.SSLContext, bytes]:
    """A server's TLS context for `localhost`, and what clients have to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    chain = directory / "chain.pem"
    chain.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["h2"])
    return context, pem


async def test_tls_is_spoken_with_whoever_offers_http2(tmp_path: Path) -> None:
    context, trusted = certificate(tmp_path)
    body = bytes(range(256)) * 10_000
    credentials = grpc.ssl_channel_credentials(trusted)
    async with serving(tls=context) as served:
        async with channel(f"localhost:{served.ports[0]}", credentials) as opened:
            assert await echoes(opened, body) == body
        client = ssl.create_default_context(cadata=trusted.decode())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.ports[0], ssl=client, server_hostname="localhost"
        )
        with contextlib.suppress(OSError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
