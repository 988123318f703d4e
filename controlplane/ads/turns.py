"""Which streams may have something to do: each once, in the order in which they woke.

Owns when streams work. A change wakes a thousand of them. New streams cost a hundred times
as much as old ones, and may come by the hundred, and a client that rejects what it is sent is
never done: such streams defer to the others. They have a queue of their own, whose turn comes when
nobody else waits, or after the others have had several turns in a row. So nobody who is served
already waits for them, and they do not wait for ever.

A turn is a few milliseconds. While some wait who do not defer, or are still to be woken, turns
follow each other before the event loop reads again: what comes meanwhile are mostly
acknowledgements, and to take those can wait until everybody has been told.

Some dozens work before the first of them writes, and then they write one after the other. A large
response drives everything else out of the processor's caches: what the next stream works with,
and the body that it sends, when that is the same. The rule that is easy to break: an error of
one stream must not keep the others from their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

_TURN: Final = 0.005  # seconds
_UNREAD: Final = 0.1  # seconds of turns, before the event loop reads again
_PATIENCE: Final = 4  # turns in a row, before one that defers has its own
_TOGETHER: Final = 64  # that work before they write
_BYTES: Final = 16 * 1024 * 1024  # that they write then, about


class Worker(Protocol):
    """What gets turns."""

    awake: bool
    """Whether it waits for a turn; belongs to `Turns`."""

    @property
    def defers(self) -> bool:
        """Whether others go first."""
        ...

    def work(self) -> int:
        """Do what there is to do short of writing; return how many bytes it comes to, about."""
        ...

    def write(self) -> None:
        """Write what there is to write, if that is still so."""
        ...


class Turns:
    """The queues of those that are awake."""

    def __init__(self, wake_more: Callable[[], bool]) -> None:
        """`wake_more` wakes some in a few milliseconds and returns whether there are others."""
        self._wake_more: Final = wake_more
        self._more = False  # whether there is somebody for it to wake
        self._first: Final[deque[Worker]] = deque()
        self._second: Final[deque[Worker]] = deque()
        self._writers: Final[deque[Worker]] = deque()  # those that have worked
        self._scheduled = False
        self._waited = 0  # turns that the second queue has waited for

    def wake(self, worker: Worker) -> None:
        """Give a worker a turn, soon."""
        if worker.awake:
            return
        worker.awake = True
        (self._second if worker.defers else self._first).append(worker)
        self._schedule()

    def continue_waking(self) -> None:
        """There are some to wake: do it whenever nobody else waits who does not defer."""
        self._more = True
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        end = time.monotonic() + _UNREAD
        try:
            self._turn()
            while (self._first or self._more) and time.monotonic() < end:
                self._turn()
        finally:
            if self._first or self._second or self._writers or self._more:
                self._schedule()

    def _turn(self) -> None:
        if self._more and not self._first:
            self._more = False  # an error is not to be repeated for ever
            if self._wake_more():
                self._more = True
        end = time.monotonic() + _TURN
        while self._first or self._writers:
            self._together(end)
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
            self._write()
            if self._first or time.monotonic() >= end:
                break

    def _together(self, end: float) -> None:
        """Let some work, no longer than until `end`, and then all of them write."""
        size = 0
        while self._first and len(self._writers) < _TOGETHER and size < _BYTES:
            size += self._work(self._first)
            if time.monotonic() >= end:
                break
        self._write()

    def _work(self, queue: deque[Worker]) -> int:
        worker = queue.popleft()
        worker.awake = False
        size = worker.work()
        if size:
            self._writers.append(worker)
        return size

    def _write(self) -> None:
        writers = self._writers
        while writers:
            writers.popleft().write()
