"""Whether the API server can be reached, as all kinds together know it.

Owns the waiting that depends on it. Must not know kinds. The rules that are easy to break: whoever
gets through first is the sign for all others, whose pauses have grown meanwhile; and what was asked
before that may still fail, which is old news.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from controlplane.kubernetes.errors import KubernetesError, UnauthorizedError, UnavailableError
from controlplane.sources.kubernetes.reporter import Reporter

SOONEST: Final = 1.0  # seconds until a kind that failed is tried again, at the least


class Contact:
    """One API server. Begins as one that can be reached."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float]) -> None:
        self._reporter: Final = reporter
        self._clock: Final = clock
        self._away_since: float | None = None
        self._answered_at = clock()
        self._reached: Final = asyncio.Event()
        self._look_again: Final = asyncio.Event()

    @property
    def away(self) -> float:
        """For how many seconds it cannot be reached."""
        return 0.0 if self._away_since is None else self._clock() - self._away_since

    def note_back(self) -> None:
        """Take note of an answer."""
        self._answered_at = self._clock()
        if self._away_since is not None:
            self._reporter.back(self.away)
            self._away_since = None
            self._reached.set()

    def note_away(self, error: KubernetesError, *, asked: float) -> None:
        """Take note that there is none to what was asked at that time."""
        if self._away_since is None and asked >= self._answered_at:
            self._away_since = self._clock()
            self._reached.clear()
            self.look_again()  # looks come often while it is away, and find it when it is back
            self._reporter.away(error)

    def note_failure(self, error: KubernetesError, *, asked: float) -> None:
        """Take note of what a failure says about it; a watch that breaks off is news of now."""
        match error:
            case UnavailableError(status=0) | UnauthorizedError():
                self.note_away(error, asked=asked)  # without credentials there is as little news
            case UnavailableError():
                pass
            case _:
                self.note_back()

    def look_again(self) -> None:
        """End the pause between two looks."""
        self._look_again.set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until somebody asks for a look."""
        try:
            async with asyncio.timeout(seconds):
                await self._look_again.wait()
        except TimeoutError:
            return
        self._look_again.clear()
        await asyncio.sleep(1.0)  # what asks for a look does so for each failure

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until it is back from being away."""
        soon = min(seconds, SOONEST)
        await asyncio.sleep(soon)
        if self._away_since is None:
            await asyncio.sleep(seconds - soon)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - soon):
                await self._reached.wait()
