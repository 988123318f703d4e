"""The parent's handle on the processes that play sidecars.

Owns starting and ending them and putting their samples together. Must not know what is measured.
The rule that is easy to break: every wait has an end, and every process started is ended.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tests.bench.loader import (
    Collect,
    Collected,
    Command,
    Connect,
    Disconnect,
    Expect,
    Played,
    Reached,
    Stop,
    play,
)
from tests.bench.messages import TYPES

ENVOY_EXTENSIONS: Final = 516
_PATIENCE: Final = 150.0


class Sample(NamedTuple):
    """One acknowledgement."""

    time: float  # time.monotonic() of the machine
    sidecar: int
    type: str
    version: str
    size: int
    names: frozenset[str]  # of the resources, empty when the response was not looked into


class Fleet:
    """Some loader processes; sidecars are dealt to them in turn."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        delta: bool,
        full_frames: bool = True,
        processes: int = 1,
        extensions: int = ENVOY_EXTENSIONS,
    ) -> None:
        """With `full_frames` the server is one of ours; see `tests.bench.http2.Connection`."""
        self._delta: Final = delta
        context = multiprocessing.get_context("spawn")
        self._loaders: Final[list[tuple[Any, Pipe]]] = []
        self.cpu = 0.0
        for _ in range(processes):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=play,
                args=(theirs, address),
                kwargs={
                    "delta": delta,
                    "full_frames": full_frames,
                    "extensions": extensions,
                },
                daemon=True,
            )
            process.start()
            theirs.close()
            self._loaders.append((process, mine))
        self.collect()  # the processes have imported everything when they answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, pipe in self._loaders:
            if process.is_alive():
                pipe.send(Stop())
            process.join(5)
            if process.is_alive():
                process.kill()
            pipe.close()

    def connect(
        self,
        sidecars: Sequence[Played],
        *,
        rejects: bool = False,
        stalls: bool = False,
        acknowledge_after: float = 0.0,
        wait: bool = True,
    ) -> tuple[str, ...]:
        """Connect all at once and wait until each holds everything; return how streams ended.

        Those that reject or stall are not waited for, and nobody without `wait`.
        """
        wait = wait and not (rejects or stalls)
        count = len(self._loaders)
        for index, (_, pipe) in enumerate(self._loaders):
            mine = tuple(sidecars[index::count])
            pipe.send(Connect(mine, rejects, stalls, acknowledge_after, wait))
        return self.reached() if wait else ()

    def disconnect(self, numbers: Sequence[int] | None = None) -> None:
        """Close sockets, all of them when None."""
        self._send(Disconnect(None if numbers is None else tuple(numbers)))

    def expect(self, *types: str, seconds: float = 60.0, awake: bool = False) -> None:
        """Start to wait for an acknowledgement of each type by every healthy sidecar.

        With `awake` the loaders do not sleep meanwhile, so that nobody has to wake them.
        """
        self._send(Expect(types or TYPES, seconds, awake))
        for _, pipe in self._loaders:
            self._answer(pipe)

    def reached(self) -> tuple[str, ...]:
        """Wait for what was expected; return how streams ended meanwhile.

        Raises TimeoutError when acknowledgements are missing at the end.
        """
        answers = [self._answer(pipe) for _, pipe in self._loaders]
        missing = sum(answer.missing for answer in answers if isinstance(answer, Reached))
        ended = tuple(
            why for answer in answers if isinstance(answer, Reached) for why in answer.ended
        )
        if missing:
            raise TimeoutError(
                f"{missing} acknowledgements did not come; streams ended: {ended[:3]}"
            )
        return ended

    def collect(self) -> list[Sample]:
        """Return all samples since the last call, and take note of the CPU used."""
        self._send(Collect())
        samples: list[Sample] = []
        self.cpu = 0.0
        self.connected = 0
        nothing: frozenset[str] = frozenset()
        for _, pipe in self._loaders:
            answer = self._answer(pipe)
            if not isinstance(answer, Collected):
                raise AssertionError(f"a loader answered {type(answer).__name__} to Collect")
            self.cpu += answer.cpu
            self.connected += answer.connected
            columns = answer.samples
            for index, when in enumerate(columns.time):
                kind, version, size = answer.responses[columns.response[index]]
                names = answer.names.get((kind, version), nothing)
                sidecar = columns.sidecar[index]
                samples.append(Sample(when, sidecar, kind, version, size, names))
        return samples

    def _send(self, command: Command) -> None:
        for _, pipe in self._loaders:
            pipe.send(command)

    def _answer(self, pipe: Pipe) -> object:
        if not pipe.poll(_PATIENCE):
            raise TimeoutError("a loader does not answer")
        return pipe.recv()
