"""Child processes that never outlive us: start, watch, stop.

Owns: how a child is started (own process group, killed by the kernel when we die, its output in a
file) and how it is stopped (SIGTERM, then SIGKILL, always by its own pid).
Must not know: what the child does.
Easy to break: the kernel's signal at the parent's death is tied to the thread that made the child,
so children are started from the main thread's event loop, and `setpriv` is the last program before
the child itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from controlplane.agent.identity import DEATH_SIGNAL, while_we_live
from controlplane.errors import OutsideError

SECONDS_TO_STOP: Final = 5.0
TAIL_BYTES: Final = 4096


class Process(Protocol):
    """What is needed of a process; asyncio's have it."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        ...

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        ...

    def send_signal(self, signal: int, /) -> None:
        """Send a signal; raises ProcessLookupError when it has ended."""
        ...


class Child:
    """One running program; made by `start_child`."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """The process id of the program."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; else its exit code, negative for a signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await self._process.wait()

    async def stop(self, *, seconds: float = SECONDS_TO_STOP) -> int:
        """End it and return its exit code: SIGTERM first, SIGKILL after `seconds`."""
        if self.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                return await asyncio.wait_for(self._process.wait(), seconds)
            except TimeoutError:
                self._signal(signal.SIGKILL)
        return await self._process.wait()

    def terminate(self) -> None:
        """Ask it to end, with SIGTERM, and do not wait."""
        self._signal(signal.SIGTERM)

    async def kill(self) -> int:
        """End it at once with SIGKILL, as a crash would."""
        self._signal(signal.SIGKILL)
        return await self._process.wait()

    def tail(self, *, lines: int = 5) -> str:
        """The last lines that it wrote, for an error message; empty when there are none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.rstrip().splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


async def start_child(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    network_namespace: str = "",
) -> Child:
    """Start a program with its output in `log`, in a named network namespace when one is given.

    `environment` is added to our own. Raises OutsideError when it cannot be started.
    """
    words = [
        *namespace_prefix(network_namespace),
        *pdeathsig_prefix(),
        *(str(word) for word in command),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                # A Ctrl-C of the terminal reaches only us: we stop the children in our order.
                start_new_session=True,
            )
    except OSError as error:
        raise OutsideError(f"{name} cannot be started: {error}") from error
    return Child(name, process, log)


def namespace_prefix(name: str) -> list[str]:
    """The words that run what follows in a network namespace of `ip netns`."""
    return ["ip", "netns", "exec", name] if name else []


def pdeathsig_prefix() -> list[str]:
    """The words that let the kernel kill what follows when its parent dies; Linux only."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, DEATH_SIGNAL, *while_we_live()] if setpriv else []
