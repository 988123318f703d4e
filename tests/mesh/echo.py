"""A program that tells who called it: `echo.py NAME PORT...`.

A request of HTTP is answered with JSON, any other line with `NAME PEER`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys


async def answer(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection until it ends."""
    peer = writer.get_extra_info("peername")[0]
    port = writer.get_extra_info("sockname")[1]
    try:
        while line := await reader.readline():
            if b" HTTP/1." not in line:
                writer.write(f"{name} {peer}\n".encode())
                continue
            headers = {}
            while (header := await reader.readline()).strip():
                key, _, value = header.decode().partition(":")
                headers[key.lower()] = value.strip()
            said = {"name": name, "peer": peer, "port": port, "host": headers.get("host")}
            body = json.dumps(said).encode()
            head = f"HTTP/1.1 200 OK\r\nx-app: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            if headers.get("connection") == "close":
                break
    except OSError:
        pass
    finally:
        writer.close()


async def serve(name: str, ports: list[int]) -> None:
    """Listen until SIGTERM."""
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    for port in ports:
        await asyncio.start_server(lambda r, w: answer(name, r, w), "0.0.0.0", port)
    await ending.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], [int(word) for word in sys.argv[2:]]))
