"""The floor: what grpc.aio costs alone when it sends ready bytes to as many streams.

Run as `python -m tests.bench.floor`, it is the server: it holds its streams and sends each line's
number of bytes from standard input as one response to all of them. No control plane that serves
through grpc.aio can be faster than this; the distance to it is what is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from tests.bench import world
from tests.bench.bed import Size
from tests.bench.fleet import Fleet
from tests.bench.messages import CDS, URLS, field
from tests.bench.process import cpu_seconds
from tests.bench.report import Row, progress
from tests.bench.server import HOST, free_port

_SIZES = (1_000, 100_000, 460_000, 1_250_000)


def floor(rows: list[Row], size: Size, *, quick: bool) -> None:
    """Add the rows of pushing bodies of several sizes to all sidecars."""
    port = free_port()
    words = [sys.executable, "-m", "tests.bench.floor", str(port)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        _wait(port)
        with Fleet((HOST, port), delta=False) as fleet:
            assert process.stdin is not None
            fleet.connect(world.sidecars(size.sidecars), wait=False)
            time.sleep(1.0 + size.sidecars / 500)
            for body in _SIZES:
                progress(f"floor, {size.sidecars} streams, {body:,} bytes")
                latencies: list[float] = []
                spent: list[float] = []
                for _ in range(2 if quick else 5):
                    cpu = cpu_seconds(process.pid)
                    fleet.collect()
                    fleet.expect(CDS)
                    since = time.monotonic()
                    process.stdin.write(f"{body}\n".encode())
                    process.stdin.flush()
                    fleet.reached()
                    latencies.append(max(sample.time for sample in fleet.collect()) - since)
                    time.sleep(0.3)
                    spent.append(cpu_seconds(process.pid) - cpu)
                rows.append(
                    Row(
                        scenario="floor",
                        protocol="sotw",
                        measure=f"{body / 1000:,.0f} kB to all",
                        unit="s",
                        value=statistics.median(latencies),
                        cpu=statistics.median(spent),
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


async def serve(port: int) -> None:
    """Serve until the process is ended."""
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
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"StreamAggregatedResources": handler}),)
    )
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
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
        for queue in writers:
            queue.put_nowait(response)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
