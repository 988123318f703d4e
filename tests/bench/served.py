"""The control plane as a child of the benchmark: `pylot serve` with one more source.

Run as `python -m tests.bench.served DIRECTORY MESH_CONFIG GRPC_PORT HTTP_PORT`. Everything is the
program's own; beside the files there is a source that reads JSON objects from standard input,
one per line, as a Kubernetes watch would, and the moment at which a source delivers something is
written to standard output. That moment is "the change was seen". The rule that is easy to break:
both moments come from the same clock as the sidecars', CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from controlplane import app
from controlplane.logs import LogLevel, configure
from controlplane.model.meta import Provenance, Record, objects_of
from controlplane.settings import Address, Settings
from controlplane.sources.base import Deliver, Delta, Source
from controlplane.sources.parse import parse_file

_LINE_LIMIT: Final = 4 * 1024 * 1024


def note(**fields: object) -> None:
    """Tell the parent something, as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stdout.flush()


class Tapped:
    """A source whose deliveries are noted."""

    def __init__(self, source: Source) -> None:
        self._source: Final = source

    @property
    def name(self) -> str:
        """The name of the source behind."""
        return self._source.name

    async def run(self, deliver: Deliver) -> None:
        """Run the source behind."""

        def tapped(delta: Delta) -> None:
            seen = time.monotonic()
            deliver(delta)
            note(source=self.name, seen=seen, objects=len(delta.upserts))

        await self._source.run(tapped)


class LineSource:
    """Delivers each object that comes in as a line of JSON."""

    name: Final = "lines"

    async def run(self, deliver: Deliver) -> None:
        """Deliver until cancelled."""
        reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        deliver(Delta(synced=True))
        origin = Provenance(self.name)
        while line := await reader.readline():
            seen = time.monotonic()
            parsed = parse_file("line.json", line)
            if not parsed.objects:
                raise AssertionError(f"an object is refused: {parsed.diagnostics}")
            deliver(
                Delta(upserts=tuple(Record.of(item, origin) for item in objects_of(parsed.objects)))
            )
            note(source=self.name, seen=seen, objects=len(parsed.objects))


def main(directory: str, mesh_config: str, grpc_port: str, http_port: str) -> None:
    """Serve until the parent ends the process."""
    configure(msgspec.convert(os.environ.get("PYLOT_LOG_LEVEL", "info"), LogLevel), "console")
    from_settings = app._sources

    def sources(settings: Settings) -> tuple[Source, ...]:
        # Of two objects with one reference the first source's counts.
        return (LineSource(), *(Tapped(source) for source in from_settings(settings)))

    app._sources = sources
    settings = Settings(
        config_dirs=(Path(directory),),
        mesh_config=Path(mesh_config),
        grpc_addr=Address("127.0.0.1", int(grpc_port)),
        http_addr=Address("127.0.0.1", int(http_port)),
        monitoring_addr=None,
        https_addr=None,
        secure_grpc_addr=None,
    )
    asyncio.run(app.run(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
