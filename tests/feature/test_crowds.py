"""Crowds of bad clients delay nobody: those that never read, reject everything, or come and go.

The clients are processes of their own that speak raw gRPC. Small counts with the same ratios
unless PYLOT_SOAK is set. The rule that is easy to break: a quiet mesh is measured on the same
machine in the same minute, because only the ratio means anything.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec
import pytest

from tests.bench import world
from tests.bench.bed import Bed, Size, bed
from tests.bench.fleet import Fleet
from tests.bench.loader import Played
from tests.bench.messages import EDS, RDS

SOAKING: Final = bool(os.environ.get("PYLOT_SOAK"))
SHARE: Final = 1.0 if SOAKING else 0.1
HEALTHY: Final = int(500 * SHARE)
STALLED: Final = int(200 * SHARE)
COMING_AND_GOING: Final = int(200 * SHARE)
REJECTING: Final = int(100 * SHARE)
CHANGES: Final = 100 if SOAKING else 30
FACTOR: Final = 2.0 if SOAKING else 4.0
# Seconds: of the few milliseconds of a small crowd a busy machine makes several times as many.
SLACK: Final = 0.0 if SOAKING else 0.05
BAD_MEMORY: Final = 512 * 1024  # bytes per bad client, at most
FLAT: Final = 12 * 1024 * 1024  # bytes: the journal and what is remembered still fill
SIZE: Final = Size(
    services=300 if SOAKING else 60,
    endpoints=5,
    namespaces=5,
    rules=60 if SOAKING else 20,
    sidecars=HEALTHY,
    classes=10 if SOAKING else 5,
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the clients need epoll"),
    pytest.mark.timeout(600 if SOAKING else 120),
]


class Measured(NamedTuple):
    """Seconds from a change to its acknowledgements by the healthy, and the server's memory."""

    p50: float
    p99: float
    worst: float
    memory: int


def measure(made: Bed, *, generation: int) -> Measured:
    """Change endpoints and routes in turn; each change is acknowledged before the next."""
    latencies: list[float] = []
    memories: list[int] = []
    made.fleet.collect()
    made.server.forget_seen()
    for index in range(CHANGES):
        number = index % SIZE.rules
        if index % 2:
            kind, change = (
                RDS,
                world.virtual_service(
                    number, namespaces=SIZE.namespaces, weight=(generation + index) % 99 + 1
                ),
            )
        else:
            kind, change = (
                EDS,
                world.endpoint_slice(
                    number,
                    endpoints=SIZE.endpoints,
                    namespaces=SIZE.namespaces,
                    generation=generation + index,
                ),
            )
        made.fleet.expect(kind, seconds=30.0)
        made.server.apply(change)
        seen = made.server.seen().seen
        ended = made.fleet.reached()
        assert not ended, f"healthy streams ended: {ended[:3]}"
        latencies += [sample.time - seen for sample in made.fleet.collect() if sample.type == kind]
        memories.append(made.server.memory().anonymous)
        time.sleep(0.12)  # past the interval of endpoint pushes, so that each goes at once
    latencies.sort()
    assert len(latencies) >= CHANGES * HEALTHY
    return Measured(
        p50=latencies[len(latencies) // 2],
        p99=latencies[len(latencies) * 99 // 100],
        worst=latencies[-1],
        memory=max(memories[-CHANGES // 4 :]),
    )


def numbered(first: int, count: int) -> list[Played]:
    """Sidecars of the same classes as the healthy ones, with numbers of their own."""
    found = world.sidecars(count, classes=SIZE.classes)
    return [played._replace(number=first + played.number) for played in found]


def wait_for_streams(made: Bed, count: int) -> None:
    """Wait until so many streams are connected; fail when bad clients are turned away."""
    deadline = time.monotonic() + 20
    connected = 0
    while connected < count:
        assert time.monotonic() < deadline, f"only {connected} of {count} streams are connected"
        time.sleep(0.1)
        status, body = made.server.get("/debug/connections")
        assert status == 200
        connected = msgspec.json.decode(body)["totalClients"]


@contextlib.contextmanager
def coming_and_going(fleet: Fleet) -> Iterator[list[int]]:
    """Sidecars that connect and break off, all of them twice a second; counts the rounds."""
    rounds: list[int] = []
    stopping = threading.Event()
    crowd = numbered(40_000, COMING_AND_GOING)

    def run() -> None:
        while not stopping.is_set():
            fleet.connect(crowd, wait=False)
            stopping.wait(0.5)
            fleet.disconnect()
            rounds.append(len(rounds))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield rounds
    finally:
        stopping.set()
        thread.join()


@pytest.mark.parametrize("protocol", ["delta", "sotw"])
def test_bad_clients_delay_nobody(
    protocol: str, record_property: Callable[[str, object], None]
) -> None:
    with (
        bed(SIZE, protocol) as made,
        Fleet(made.server.grpc, delta=protocol == "delta") as bad,
        Fleet(made.server.grpc, delta=protocol == "delta") as restless,
    ):
        made.fleet.connect(world.sidecars(HEALTHY, classes=SIZE.classes))
        made.server.quiet()
        measure(made, generation=1)  # warm up
        quiet = measure(made, generation=50)
        bad.connect(numbered(20_000, STALLED), stalls=True)
        bad.connect(numbered(30_000, REJECTING), rejects=True)
        # Later than this the server may end those that take nothing for a minute.
        wait_for_streams(made, HEALTHY + STALLED + REJECTING)
        with coming_and_going(restless) as rounds:
            time.sleep(1.0)
            crowded = measure(made, generation=100)
            again = measure(made, generation=150)
        assert len(rounds) > 4
        report = f"{protocol}: quiet {quiet}, crowded {crowded}, again {again}"
    record_property("crowds", report)
    print(report)  # noqa: T201  # the figures are the point of a long run
    for measured in (crowded, again):
        assert measured.p99 <= FACTOR * quiet.p99 + SLACK, report
    bad_clients = STALLED + REJECTING + COMING_AND_GOING
    assert crowded.memory - quiet.memory < bad_clients * BAD_MEMORY + FLAT, report
    assert again.memory - crowded.memory < FLAT, report
