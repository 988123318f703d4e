"""Candidates for one Lease, with any delays, failures, crashes and clocks: never two that lead."""

from __future__ import annotations

import heapq
import itertools
import os
import random
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.leader.election import Election, Get, Held, Pause, Put, Timing

TIMING: Final = Timing()
TIMEOUT: Final = 5.0  # seconds of the client's clock
CHAOS: Final = 150.0  # seconds of real time
CALM: Final = 60.0


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong, and how often."""

    seed: int
    candidates: int
    loss: float  # of a request or of its answer
    delay: float  # seconds at most, each way
    crashes: float  # per candidate and step
    cuts: float  # of a candidate's network for a while, per step
    rates: tuple[float, ...]
    offsets: tuple[float, ...]


# Rates as different as 10 s and 15 s allow: a believer's clock may be slow and another's fast.
WORLDS: Final = st.builds(
    World,
    seed=st.integers(0, 2**32),
    candidates=st.integers(2, 3),
    loss=st.sampled_from((0.0, 0.1, 0.5)),
    delay=st.sampled_from((0.01, 1.0, 2.5, 4.0, 12.0)),
    crashes=st.sampled_from((0.0, 0.01, 0.05)),
    cuts=st.sampled_from((0.0, 0.05, 0.2)),
    rates=st.tuples(*[st.sampled_from((0.85, 1.0, 1.25))] * 3),
    offsets=st.tuples(*[st.floats(-1e6, 1e6)] * 3),
)


class Server:
    """A Lease behind optimistic concurrency, as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: Held | None = None
        self._versions = itertools.count(1)

    def put(self, put: Put) -> Held | None:
        """Return the Lease after the write, None when it is refused."""
        if (self.lease.version if self.lease is not None else "") != put.version:
            return None
        self.lease = Held(
            holder=put.holder, duration=put.duration, version=str(next(self._versions))
        )
        return self.lease


class Candidate:
    """A process: a clock and an election; a crash makes it a new one after a while."""

    def __init__(self, number: int, world: World) -> None:
        self._names = (f"pod-{number}-{life}" for life in itertools.count())
        self._rate = world.rates[number]
        self._offset = world.offsets[number]
        self.random = random.Random(world.seed + number)
        self.cut_until = 0.0  # real time
        self.life = 0
        self.election = self._new()

    def _new(self) -> Election:
        return Election(next(self._names), TIMING, jitter=self.random.random)

    def restart(self) -> None:
        self.life += 1
        self.election = self._new()

    def clock(self, real: float) -> float:
        return real * self._rate + self._offset

    def real(self, local: float) -> float:
        return (local - self._offset) / self._rate


class Simulation:
    """Events in the order of real time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self.server = Server()
        self.candidates = [Candidate(number, world) for number in range(world.candidates)]
        self.terms = 0
        self._random = random.Random(world.seed)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        for candidate in self.candidates:
            self._later(self._random.random(), partial(self._step, candidate))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
            assert len(self.leaders()) <= 1, f"two lead at {self.now}"
        self.now = until

    def leaders(self) -> list[Candidate]:
        return [
            candidate
            for candidate in self.candidates
            if candidate.election.leads(candidate.clock(self.now))
        ]

    @property
    def _calm(self) -> bool:
        return self.now >= CHAOS

    def _later(self, delay: float, event: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def _lost(self, candidate: Candidate) -> bool:
        if self._calm:
            return False
        return self.now < candidate.cut_until or self._random.random() < self.world.loss

    def _delay(self) -> float:
        return self._random.random() * (0.01 if self._calm else self.world.delay)

    def _step(self, candidate: Candidate) -> None:
        if not self._calm and self._random.random() < self.world.crashes:
            self._crash(candidate)
            return
        if self._random.random() < self.world.cuts:
            candidate.cut_until = self.now + self._random.random() * 30
        step = candidate.election.next(candidate.clock(self.now))
        match step:
            case Pause():
                delay = max(1e-6, candidate.real(step.until) - self.now)
                self._later(delay, lambda: self._alive(candidate, candidate.life))
            case Get() | Put():
                self._ask(candidate, step)

    def _alive(self, candidate: Candidate, life: int) -> None:
        if candidate.life == life:
            self._step(candidate)

    def _crash(self, candidate: Candidate) -> None:
        """Half of the time in order, with a release that may be lost; half of the time not."""
        release = candidate.election.resign() if self._random.random() < 0.5 else None
        if release is not None and not self._lost(candidate):
            self._later(self._delay(), partial(self.server.put, release))
        candidate.restart()
        self._later(self._random.random() * 10, lambda: self._step(candidate))

    def _ask(self, candidate: Candidate, step: Get | Put) -> None:
        election, life = candidate.election, candidate.life
        asked = self.now
        answered = False

        def give_up() -> None:
            nonlocal answered
            if answered or candidate.life != life:
                return
            answered = True
            election.on_failure(candidate.clock(self.now))
            self._step(candidate)

        def answer(found: Held | None) -> None:
            nonlocal answered
            if answered or candidate.life != life:
                return
            answered = True
            now = candidate.clock(self.now)
            if isinstance(step, Get):
                election.on_read(found, now)
            elif found is None:
                election.on_conflict(now)
            else:
                self.terms += step.acquired
                election.on_written(found, asked=candidate.clock(asked), now=now)
            self._step(candidate)

        def reach() -> None:
            found = self.server.lease if isinstance(step, Get) else self.server.put(step)
            if not self._lost(candidate):
                self._later(self._delay(), lambda: answer(found))

        if not self._lost(candidate):
            self._later(self._delay(), reach)
        self._later(candidate.real(candidate.clock(asked) + TIMEOUT) - self.now, give_up)


@settings(max_examples=int(500 * float(os.environ.get("PYLOT_SOAK") or 1)))
@given(WORLDS)
def test_never_two_lead_and_always_one_in_the_end(world: World) -> None:
    """Whatever happens, at most one leads; when it is over, one does and stays."""
    simulation = Simulation(world)
    simulation.run(CHAOS + CALM)
    (leader,) = simulation.leaders()
    terms = simulation.terms
    simulation.run(CHAOS + 2 * CALM)
    assert simulation.leaders() == [leader]
    assert simulation.terms == terms, "the Lease changed hands without a reason"
