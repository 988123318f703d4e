"""Which streams may have something to do: each once, in the order in which they woke.

Owns when streams work. A change wakes a thousand of them; they are served a few milliseconds at
a time, so that acknowledgements and new streams come in between. New streams cost a hundred times
as much as old ones, and may come by the hundred, and a client that rejects what it is sent is
never done: such streams defer to the others. They have a queue of their own, whose turn comes when
nobody else waits, or after the others have had several turns in a row. So nobody who is served
already waits for them, and they do not wait for ever. The rule that is easy to break: an error of
one stream must not keep the others from their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

_TURN: Final = 0.005  # seconds
_PATIENCE: Final = 4  # turns in a row, before one that defers has its own


class Worker(Protocol):
    """What gets turns."""

    awake: bool
    """Whether it waits for a turn; belongs to `Turns`."""

    @property
    def defers(self) -> bool:
        """Whether others go first."""
        ...

    def work(self) -> None:
        """Do what there is to do."""
        ...


class Turns:
    """The queues of those that are awake."""

    def __init__(self) -> None:
        self._first: Final[deque[Worker]] = deque()
        self._second: Final[deque[Worker]] = deque()
        self._scheduled = False
        self._waited = 0  # turns that the second queue has waited for

    def wake(self, worker: Worker) -> None:
        """Give a worker a turn, soon."""
        if worker.awake:
            return
        worker.awake = True
        (self._second if worker.defers else self._first).append(worker)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        try:
            end = time.monotonic() + _TURN
            while self._first:
                self._work(self._first)
                if time.monotonic() >= end:
                    break
            if not self._second:
                return
            if self._first and self._waited < _PATIENCE:
                self._waited += 1
                return
            self._waited = 0
            while self._second:
                self._work(self._second)
                if self._first or time.monotonic() >= end:
                    break
        finally:
            if self._first or self._second:
                self._schedule()

    def _work(self, queue: deque[Worker]) -> None:
        worker = queue.popleft()
        worker.awake = False
        worker.work()
