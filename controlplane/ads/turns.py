"""Which streams may have something to write: each once, in the order in which they woke.

Owns when streams write. A change wakes a thousand of them; they are served a few milliseconds at
a time, so that acknowledgements and new streams come in between. The rule that is easy to break:
an error of one stream must not keep the others from their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

_TURN: Final = 0.005  # seconds


class Writer(Protocol):
    """What gets turns."""

    awake: bool
    """Whether it waits for a turn; belongs to `Turns`."""

    def write(self) -> None:
        """Write what there is to write."""
        ...


class Turns:
    """The queue of those that are awake."""

    def __init__(self) -> None:
        self._queue: Final[deque[Writer]] = deque()
        self._scheduled = False

    def wake(self, writer: Writer) -> None:
        """Give a writer a turn, soon."""
        if writer.awake:
            return
        writer.awake = True
        self._queue.append(writer)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        queue, end = self._queue, time.monotonic() + _TURN
        try:
            while queue:
                writer = queue.popleft()
                writer.awake = False
                writer.write()
                if time.monotonic() >= end:
                    break
        finally:
            if queue:
                self._schedule()
