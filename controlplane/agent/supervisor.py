"""Keeps one Envoy running: starts it, starts it again when it dies, ends it.

Owns Envoy's process, the pauses between restarts, and the reaping of what the kernel gives us.
Must not know readiness, drains or the control plane.
Easy to break: the kernel's signal at our death is tied to the thread that made Envoy, so `run` must
be awaited in the main thread's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from controlplane.agent.identity import Identity, can_reach, identity_words
from controlplane.agent.output import Output
from controlplane.errors import OutsideError

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
SECONDS_OF_GOOD_LIFE: Final = 10.0
SECONDS_TO_STOP: Final = 5.0

log = structlog.get_logger()


class EnvoyCommand(msgspec.Struct, frozen=True, kw_only=True):
    """What is started: the program, its arguments, and as whom."""

    binary: Path
    arguments: tuple[str, ...]
    identity: Identity | None = None


class Supervisor:
    """One Envoy and its successors."""

    def __init__(self, command: EnvoyCommand, *, restarted: Callable[[], None]) -> None:
        """`restarted` is called whenever a new Envoy was started."""
        self._command = command
        self._restarted = restarted
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()
        self._starting = False
        self.restarts = 0

    @property
    def pid(self) -> int:
        """The process id of Envoy, 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def run(self) -> None:
        """Keep Envoy running until `stop` is called; raises OutsideError when it cannot start."""
        pause = FIRST_PAUSE
        output = Output(self._command.identity)
        try:
            while not self._ending.is_set():
                started = time.monotonic()
                process = await self._start(output)
                if self._ending.is_set():
                    return  # `stop` came while it was started, and did not see it
                self._restarted()
                code = await process.wait()
                if self._ending.is_set():
                    return
                if time.monotonic() - started >= SECONDS_OF_GOOD_LIFE:
                    pause = FIRST_PAUSE
                self.restarts += 1
                log.error("envoy_ended", code=code, restart_in_seconds=pause)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            await self._kill()
            output.close()

    async def stop(self, *, seconds: float = SECONDS_TO_STOP) -> None:
        """End Envoy: SIGTERM, then SIGKILL after `seconds`; `run` returns."""
        self._ending.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            log.warning("envoy_killed", pid=process.pid)
            await self._kill()

    def reap(self) -> None:
        """Take leave of ended processes that are not ours: as process 1 we inherit them."""
        while not self._starting:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or (self._process is not None and ended.si_pid == self._process.pid):
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(ended.si_pid, os.WNOHANG)

    async def _start(self, output: Output) -> asyncio.subprocess.Process:
        command = self._command
        self._starting = True
        try:
            with program_of(command) as (program, kept):
                self._process = await asyncio.create_subprocess_exec(
                    *identity_words(command.identity),
                    program,
                    *command.arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output.stdout,
                    stderr=output.stderr,
                    pass_fds=kept,
                    # Signals of a terminal reach only us: Envoy is drained first.
                    start_new_session=True,
                )
        except OSError as error:
            raise OutsideError(f"Envoy cannot be started: {error}") from error
        finally:
            self._starting = False
        log.info("envoy_started", pid=self._process.pid)
        return self._process

    async def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()


@contextlib.contextmanager
def program_of(command: EnvoyCommand) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the word that starts the program, and the descriptors that it needs for that.

    A program in a directory that Envoy's user may not search (a virtual environment in root's
    home) is opened by us and started by its descriptor.
    """
    if can_reach(command.binary, command.identity, wanted=stat.S_IXOTH):
        yield str(command.binary), ()
        return
    descriptor = os.open(command.binary, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)
