"""Starts `pylot` commands from an interpreter that has imported everything already.

Owns the conversation with that interpreter (`warm_server`). Must not know the commands.
Easy to break: the processes are children of the interpreter, not ours, so signals and exit codes
go through it; a pod's agent starts in some 20 ms that way and not in half a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from controlplane.agent.processes import Child, pdeathsig_prefix
from controlplane.demo.warm_server import Ended, News, Ready, Request, Signal, Start, Started
from controlplane.errors import OutsideError

SECONDS_TO_WARM: Final = 30.0


class ForkedProcess:
    """One process of a warm interpreter, with what `Child` needs of a process."""

    def __init__(self, pid: int, owner: WarmInterpreter) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._owner = owner

    @property
    def returncode(self) -> int | None:
        """None while it runs; else its exit code, negative for a signal."""
        return self.ended.result() if self.ended.done() else None

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await asyncio.shield(self.ended)

    def send_signal(self, number: int) -> None:
        """Send a signal; raises ProcessLookupError when it is known to have ended."""
        if self.ended.done():
            raise ProcessLookupError(self.pid)
        self._owner.tell(Signal(self.pid, number))


class WarmInterpreter:
    """The interpreter; everything that it started ends with `close`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: Path,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._log = log
        self._numbers = itertools.count(1)
        self._starting: dict[int, asyncio.Future[ForkedProcess]] = {}
        self._running: dict[int, ForkedProcess] = {}
        self._decoder = msgspec.json.Decoder(News)
        self._ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def launch(cls, log: Path) -> WarmInterpreter:
        """Start one; it may still be importing. Raises OutsideError."""
        ours, theirs = socket.socketpair()
        words = (*pdeathsig_prefix(), sys.executable, "-m", "controlplane.demo.warm_server")
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with theirs, log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=theirs.fileno(),
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise OutsideError(f"{sys.executable} cannot be started: {error}") from error
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer, log)

    async def __aenter__(self) -> WarmInterpreter:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def ready(self) -> None:
        """Wait until everything is imported; raises OutsideError."""
        try:
            await asyncio.wait_for(self._ready.wait(), SECONDS_TO_WARM)
        except TimeoutError as error:
            raise OutsideError(f"the warm interpreter is not ready; see {self._log}") from error

    async def start(
        self,
        name: str,
        *words: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        network_namespace: str = "",
    ) -> Child:
        """Start `pylot` with these words; raises OutsideError when the interpreter is gone."""
        await self.ready()
        number = next(self._numbers)
        future: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
        self._starting[number] = future
        make_log(log)
        self.tell(
            Start(
                number=number,
                words=words,
                environment={**os.environ, **(environment or {})},
                log=str(log),
                namespace=network_namespace,
            )
        )
        return Child(name, await future, log)

    async def run(self, name: str, *words: str, log: Path, network_namespace: str = "") -> None:
        """Run `pylot` to its end; raises OutsideError with its last words when it fails."""
        child = await self.start(name, *words, log=log, network_namespace=network_namespace)
        if await child.wait():
            raise OutsideError(f"`pylot {words[0]}` failed for {name}: {child.tail()}")

    def tell(self, request: Request) -> None:
        """Send a request; raises OutsideError when the interpreter is gone."""
        if self._listening.done():
            raise OutsideError(f"the warm interpreter has ended; see {self._log}")
        self._writer.write(msgspec.json.encode(request) + b"\n")

    async def close(self) -> None:
        """End the interpreter, and with it every process that it started."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                self._take(self._decoder.decode(line))
        self._ready.set()
        for process in self._running.values():
            process.ended.set_result(-9)
        self._running.clear()
        gone = OutsideError(f"the warm interpreter has ended; see {self._log}")
        for future in self._starting.values():
            future.set_exception(gone)

    def _take(self, news: News) -> None:
        match news:
            case Ready():
                self._ready.set()
            case Started(number=number, pid=pid):
                self._running[pid] = process = ForkedProcess(pid, self)
                future = self._starting.pop(number)
                if not future.cancelled():
                    future.set_result(process)
            case Ended(pid=pid, code=code):
                self._running.pop(pid).ended.set_result(code)


def make_log(log: Path) -> None:
    """Make an empty log unless there is one: who reads it is quicker than a new process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
