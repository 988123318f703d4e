"""Which streams may have something to do: each once, in the order in which they woke.

Owns when streams work. A change wakes a thousand of them; they are served a few milliseconds at
a time, so that acknowledgements and new streams come in between. New streams cost a hundred times
as much as old ones, and may come by the hundred: they have a queue of their own, whose turn comes
when no old stream waits, or after old ones have had several turns in a row. So nobody who is
served already waits for them, and they do not wait for ever. The rule that is easy to break: an
error of one stream must not keep the others from their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

_TURN: Final = 0.005  # seconds
_PATIENCE: Final = 4  # turns of old streams in a row, before one new stream has its own


class Worker(Protocol):
    """What gets turns."""

    awake: bool
    """Whether it waits for a turn; belongs to `Turns`."""

    @property
    def new(self) -> bool:
        """Whether it queues with the new ones."""
        ...

    def work(self) -> None:
        """Do what there is to do."""
        ...


class Turns:
    """The queues of those that are awake."""

    def __init__(self) -> None:
        self._old: Final[deque[Worker]] = deque()
        self._new: Final[deque[Worker]] = deque()
        self._scheduled = False
        self._waited = 0  # turns that the new ones have waited for

    def wake(self, worker: Worker) -> None:
        """Give a worker a turn, soon."""
        if worker.awake:
            return
        worker.awake = True
        (self._new if worker.new else self._old).append(worker)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        try:
            end = time.monotonic() + _TURN
            while self._old:
                self._work(self._old)
                if time.monotonic() >= end:
                    break
            if not self._new:
                return
            if self._old and self._waited < _PATIENCE:
                self._waited += 1
                return
            self._waited = 0
            while self._new:
                self._work(self._new)
                if self._old or time.monotonic() >= end:
                    break
        finally:
            if self._old or self._new:
                self._schedule()

    def _work(self, queue: deque[Worker]) -> None:
        worker = queue.popleft()
        worker.awake = False
        worker.work()
