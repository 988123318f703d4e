"""The floor: what the transport costs alone when it sends ready bytes to as many streams.

Run as `python -m tests.bench.floor`, it is the server: it holds its streams and sends each line's
number of bytes from standard input as responses to all of them, by our transport or, to compare,
by grpc.aio. As in a mesh with as many classes of sidecars, a part of the streams is sent the same
object, and the next part another one, which is new. A control plane cannot be faster than its
transport; the distance to it is what the engine takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final, TypeVar

from controlplane.ads.wire import SERVICE, SOTW_METHOD
from controlplane.transport.server import GrpcServer
from controlplane.transport.stream import Call
from tests.bench import world
from tests.bench.bed import Size
from tests.bench.fleet import Fleet
from tests.bench.messages import CDS, URLS, field
from tests.bench.process import cpu_seconds
from tests.bench.report import Row, progress
from tests.bench.server import HOST, free_port

_SIZES = (1_000, 100_000, 460_000, 1_250_000)
_CLASSES = Size().classes  # of streams that are sent the same response
_GROWING = 3  # responses of each size that are not measured: TCP's windows grow meanwhile


def floor(rows: list[Row], size: Size, *, quick: bool) -> None:
    """Add the rows of pushing bodies of several sizes to all sidecars, by each transport."""
    for transport in TRANSPORTS:
        _measure(rows, size, transport, quick=quick)


def _measure(rows: list[Row], size: Size, transport: str, *, quick: bool) -> None:
    port = free_port()
    words = [sys.executable, "-m", "tests.bench.floor", transport, str(port)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        _wait(port)
        with Fleet((HOST, port), delta=False, full_frames=transport == "ours") as fleet:
            assert process.stdin is not None
            fleet.connect(world.sidecars(size.sidecars), wait=False)
            time.sleep(1.0 + size.sidecars / 500)
            for body in _SIZES:
                progress(f"floor, {transport}, {size.sidecars} streams, {body:,} bytes")
                latencies: list[float] = []
                spent: list[float] = []
                loaders: list[float] = []
                for number in range(_GROWING + (2 if quick else 5)):
                    cpu = cpu_seconds(process.pid)
                    fleet.collect()
                    loader = fleet.cpu
                    fleet.expect(CDS, awake=True)
                    since = time.monotonic()
                    process.stdin.write(f"{body}\n".encode())
                    process.stdin.flush()
                    fleet.reached()
                    latency = max(sample.time for sample in fleet.collect()) - since
                    loader = fleet.cpu - loader
                    time.sleep(0.3)
                    if number >= _GROWING:
                        latencies.append(latency)
                        loaders.append(loader)
                        spent.append(cpu_seconds(process.pid) - cpu)
                rows.append(
                    Row(
                        scenario="floor",
                        protocol=transport,
                        measure=f"{body / 1000:,.0f} kB to all",
                        unit="s",
                        value=statistics.median(latencies),
                        cpu=statistics.median(spent),
                        loader_cpu=statistics.median(loaders),
                        sidecars=size.sidecars,
                        repetitions=len(spent),
                    )
                )
    finally:
        process.kill()
        process.wait(5)
        if process.stdin is not None:
            process.stdin.close()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("the floor's server does not listen")


_Stream = TypeVar("_Stream")


class _Held:
    """A stream that is held: only the newest response waits, as in the control plane."""

    def __init__(self, call: Call, streams: set[_Held]) -> None:
        self._call: Final = call
        self._streams: Final = streams
        self._room = True
        self._next: bytes | None = None
        streams.add(self)

    def push(self, response: bytes) -> None:
        """Send a response, now or when there is room."""
        if self._room:
            self._room = self._call.send(response)
        else:
            self._next = response

    def on_message(self, payload: bytes) -> None:
        """An acknowledgement needs no answer."""

    def on_half_close(self) -> None:
        """Nobody does that here."""

    def on_writable(self) -> None:
        """Send what waited."""
        self._room = True
        response, self._next = self._next, None
        if response is not None:
            self.push(response)

    def on_end(self, reason: str) -> None:
        """Forget the stream."""
        self._streams.discard(self)


async def serve(port: int) -> None:
    """Serve by our transport until the process is ended."""
    streams: set[_Held] = set()
    server = GrpcServer({f"/{SERVICE}/{SOTW_METHOD}": lambda call: _Held(call, streams)})
    await server.start(f"{HOST}:{port}")
    async for responses in _responses():
        for response, stream in _dealt(responses, tuple(streams)):
            stream.push(response)


async def serve_grpc(port: int) -> None:
    """Serve by grpc.aio until the process is ended."""
    import grpc
    import grpc.aio

    writers: set[asyncio.Queue[bytes]] = set()

    async def stream(_: Any, context: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        writers.add(queue)

        async def write() -> None:
            while True:
                await context.write(await queue.get())

        writer = asyncio.ensure_future(write())
        try:
            while await context.read() is not grpc.aio.EOF:
                pass
        finally:
            writer.cancel()
            writers.discard(queue)

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {SOTW_METHOD: handler}),)
    )
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    async for responses in _responses():
        for response, queue in _dealt(responses, tuple(writers)):
            queue.put_nowait(response)


def _dealt(
    responses: Sequence[bytes], streams: Sequence[_Stream]
) -> Iterator[tuple[bytes, _Stream]]:
    """Each stream with its response, those with the same one after the other."""
    for number, stream in enumerate(streams):
        yield responses[number * len(responses) // len(streams)], stream


async def _responses() -> AsyncIterator[Sequence[bytes]]:
    """A response of so many bytes for each class and line of standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    number = 0
    while line := await reader.readline():
        number += 1
        # The resource is an unknown field inside an Any, so that the sidecars find no names.
        response = (
            field(1, f"version-{number}".encode())
            + field(4, URLS[CDS].encode())
            + field(5, f"nonce-{number}".encode())
            + field(2, field(15, bytes(int(line))))
        )
        yield [b"".join((response[:1], response[1:])) for _ in range(_CLASSES)]


TRANSPORTS: Final = {"ours": serve, "grpc.aio": serve_grpc}


if __name__ == "__main__":
    asyncio.run(TRANSPORTS[sys.argv[1]](int(sys.argv[2])))
