"""Who leads: one Lease, several candidates, and at most one that believes it leads.

A machine without input and output: `next` says what to ask the API server for, and what came of
it is told back. Must not know HTTP. All times are seconds of this process's own monotonic clock.

The rule that is easy to break: nothing here reads a time that another process wrote. Whoever
leads believes so for `renew_deadline` after it *sent* its last successful write; everybody else
waits for `lease_duration` after it *saw* the Lease change, which is later. So clocks may differ
by any amount, and run at rates as different as these two times, without two leading at once.
(The rules of client-go's `leaderelection`. There and here a Lease that an administrator deletes
is a free one for a candidate that never saw it.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a Lease holds, in seconds; the defaults are client-go's.

    Raises ValueError unless `lease_duration` > `renew_deadline` > `retry_period` > 0.
    """

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_duration > self.renew_deadline > self.retry_period > 0:
            raise ValueError(
                "a Lease needs lease duration > renew deadline > retry period > 0, not "
                f"{self.lease_duration} s, {self.renew_deadline} s, {self.retry_period} s"
            )


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a Lease says: who holds it (empty: nobody) for how many seconds at which version."""

    holder: str
    duration: float
    version: str


class Get(msgspec.Struct, frozen=True):
    """Read the Lease, and tell `on_read`."""


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Write the Lease: create it for an empty `version`, else only if it still has that version.

    `acquired` says that the holder is new.
    """

    holder: str
    duration: float
    version: str
    acquired: bool = False


class Pause(msgspec.Struct, frozen=True):
    """Do nothing until then."""

    until: float


Step = Get | Put | Pause


class Election:
    """One candidate for one Lease."""

    def __init__(
        self, identity: str, timing: Timing, *, jitter: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`identity` is unique among all candidates; `jitter` returns 0 to 1."""
        self._identity: Final = identity
        self._timing: Final = timing
        self._jitter: Final = jitter
        self._lease: Held | None = None  # as last read or written; None: not known, or not there
        self._other: Held | None = None  # the last one that somebody else held
        self._other_at = 0.0  # when it was seen to change
        self._read = False  # whether the Lease was read in this round
        self._next_round = float("-inf")
        self._until = float("-inf")

    @property
    def until(self) -> float:
        """When the belief to lead ends unless the Lease is renewed before."""
        return self._until

    @property
    def holder(self) -> str:
        """Who holds the Lease as far as is known, empty for nobody."""
        return self._lease.holder if self._lease is not None else ""

    def leads(self, now: float) -> bool:
        """Whether this candidate may act as the leader at this moment."""
        return now < self._until

    def next(self, now: float) -> Step:
        """Return what to do now."""
        if now < self._next_round:
            return Pause(self._next_round)
        if self.leads(now) and self._lease is not None:
            return self._put(self._lease.version)
        if not self._read:
            return Get()
        self._read = False
        if self._lease is None or not self._lease.holder or self._mine:
            claim = self._lease.version if self._lease is not None else ""
            if self._lease is not None or self._expired(now):
                return self._put(claim, acquired=not self._mine)
        elif self._expired(now):
            return self._put(self._lease.version, acquired=True)
        self._rest(now)
        return Pause(self._next_round)

    def on_read(self, lease: Held | None, now: float) -> None:
        """The Lease was read; None when there is none."""
        self._read = True
        self._lease = lease
        if lease is not None and lease.holder and lease.holder != self._identity:
            self._until = float("-inf")
            if lease != self._other:
                self._other, self._other_at = lease, now
        elif lease is not None:
            self._other = None

    def on_written(self, lease: Held, *, asked: float, now: float) -> None:
        """A `Put` was done; `asked` is when it was sent."""
        self._read = False
        self._lease = lease
        self._other = None
        self._until = asked + self._timing.renew_deadline
        self._next_round = now + self._timing.retry_period

    def on_conflict(self, now: float) -> None:
        """A `Put` was refused, because the Lease is not as it was: somebody else wrote it."""
        self._read = False
        self._lease = None
        if not self.leads(now):
            self._rest(now)

    def on_failure(self, now: float) -> None:
        """Nothing came of a step, or nobody knows what."""
        self._read = False
        self._next_round = now + self._timing.retry_period

    def resign(self) -> Put | None:
        """Lead no more, for good; return the write that frees the Lease for others, if any."""
        self._until = float("-inf")
        if self._lease is None or not self._mine:
            return None
        return Put(holder="", duration=1.0, version=self._lease.version)

    @property
    def _mine(self) -> bool:
        return self._lease is not None and self._lease.holder == self._identity

    def _put(self, version: str, *, acquired: bool = False) -> Put:
        return Put(
            holder=self._identity,
            duration=self._timing.lease_duration,
            version=version,
            acquired=acquired,
        )

    def _expired(self, now: float) -> bool:
        """Whether nobody else can believe to lead, even when the Lease itself was deleted."""
        return self._other is None or now >= self._expiry(self._other)

    def _expiry(self, other: Held) -> float:
        return self._other_at + (other.duration or self._timing.lease_duration)

    def _rest(self, now: float) -> None:
        """Look again after the retry period, or at the moment when the Lease ends."""
        pause = self._timing.retry_period * (1.0 + 0.2 * self._jitter())
        if self._other is not None:
            pause = min(pause, max(0.0, self._expiry(self._other) - now))
        self._next_round = now + pause
