"""Scenarios on one bed: everybody connects, one thing changes, everything changes.

A repetition runs from the moment a source sees the change to the last acknowledgement, and the
server's CPU time is taken when it does nothing more, so that the handling of acknowledgements
counts. The rule that is easy to break: the sidecars are told to wait before the change is made.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.bench import world
from tests.bench.bed import Bed
from tests.bench.fleet import Sample
from tests.bench.messages import CDS, EDS, RDS, TYPES
from tests.bench.report import Row, progress

ENDPOINT_MARK: Final = 0.100
ENDPOINT_CPU_MARK: Final = 0.1
ROUTE_MARK: Final = 0.120
FULL_MARK: Final = 2.0
CONNECT_MARK: Final = 4.0
_PAUSE: Final = 0.5  # seconds between repetitions: the pacing of the one before is over

_generation: Final = itertools.count(1)


class Repetition:
    """What one repetition gave."""

    def __init__(self, *, latencies: list[float], cpu: float, loader_cpu: float) -> None:
        self.latencies: Final = sorted(latencies)
        self.cpu: Final = cpu
        self.loader_cpu: Final = loader_cpu

    @property
    def last(self) -> float:
        """Seconds until the last sidecar was done."""
        return self.latencies[-1]


def finished(samples: Sequence[Sample], types: Sequence[str], since: float) -> list[float]:
    """Return for each sidecar how long it took until it had acknowledged each type once."""
    first: dict[tuple[int, str], float] = {}
    for sample in samples:
        if sample.time >= since and sample.type in types:
            first.setdefault((sample.sidecar, sample.type), sample.time)
    done: dict[int, float] = {}
    for (sidecar, _), when in first.items():
        done[sidecar] = max(done.get(sidecar, 0.0), when - since)
    return list(done.values())


def repeat(
    bed: Bed, change: Callable[[int], float], *, types: Sequence[str], times: int
) -> list[Repetition]:
    """Make a change several times. `change` returns since when the latency counts."""
    made: list[Repetition] = []
    bed.server.quiet()
    bed.fleet.collect()
    for _ in range(times):
        time.sleep(_PAUSE)
        bed.server.forget_seen()
        cpu, loader = bed.server.cpu(), bed.fleet.cpu
        bed.fleet.expect(*types, awake=True)
        since = change(next(_generation))
        bed.fleet.reached()
        cpu = bed.server.quiet() - cpu
        samples = bed.fleet.collect()
        latencies = finished(samples, types, since)
        if len(latencies) != bed.fleet.connected:
            raise AssertionError(f"{len(latencies)} of {bed.fleet.connected} sidecars were told")
        made.append(Repetition(latencies=latencies, cpu=cpu, loader_cpu=bed.fleet.cpu - loader))
    return made


def row(
    bed: Bed, made: Sequence[Repetition], *, scenario: str, measure: str, mark: float | None
) -> Row:
    """Return the row of some repetitions."""
    every = sorted(latency for one in made for latency in one.latencies)
    return Row(
        scenario=scenario,
        protocol=bed.protocol,
        measure=measure,
        unit="s",
        value=statistics.median(one.last for one in made),
        mark=mark,
        p50=every[len(every) // 2],
        p99=every[min(len(every) - 1, len(every) * 99 // 100)],
        cpu=statistics.median(one.cpu for one in made),
        loader_cpu=statistics.median(one.loader_cpu for one in made),
        memory=bed.server.memory().anonymous,
        sidecars=bed.fleet.connected,
        services=bed.size.services,
        repetitions=len(made),
        details={"worst": max(one.last for one in made)},
    )


def connect(bed: Bed) -> list[Row]:
    """All sidecars connect at once and get everything; the server has served nobody before."""
    bed.fleet.collect()
    cpu, loader = bed.server.quiet(), bed.fleet.cpu
    since = time.monotonic()
    ended = bed.fleet.connect(world.sidecars(bed.size.sidecars, classes=bed.size.classes))
    cpu = bed.server.quiet() - cpu
    samples = bed.fleet.collect()
    one = Repetition(
        latencies=finished(samples, TYPES, since), cpu=cpu, loader_cpu=bed.fleet.cpu - loader
    )
    made = row(bed, [one], scenario="connect", measure="all hold everything", mark=CONNECT_MARK)
    made.details["streams ended by the server"] = len(ended)
    made.details["bytes received"] = sum(sample.size for sample in samples)
    return [made]


def endpoint(bed: Bed, times: int) -> list[Row]:
    """One endpoint of one service moves; a source that watches sees it."""

    def change(generation: int) -> float:
        number = (300 + generation % 100) % bed.size.services
        bed.server.apply(world.endpoint_slice(number, generation=generation, **_mesh(bed)))
        return bed.server.seen().seen

    made = repeat(bed, change, types=(EDS,), times=times)
    latency = row(bed, made, scenario="endpoint", measure="seen to last ACK", mark=ENDPOINT_MARK)
    cpu = Row(
        scenario="endpoint",
        protocol=bed.protocol,
        measure="server CPU",
        unit="CPU s",
        value=statistics.median(one.cpu for one in made),
        mark=ENDPOINT_CPU_MARK,
        sidecars=bed.fleet.connected,
        services=bed.size.services,
        repetitions=times,
    )
    return [latency, cpu]


def file(bed: Bed, times: int) -> list[Row]:
    """One endpoint moves in a file: from the file's replacement."""

    def change(generation: int) -> float:
        number = 450 % bed.size.services
        document = world.endpoint_slice(number, generation=generation, **_mesh(bed))
        since = time.monotonic()
        bed.directory.change_file(document)
        bed.server.seen()
        return since

    made = repeat(bed, change, types=(EDS,), times=times)
    return [row(bed, made, scenario="file", measure="file written to last ACK", mark=None)]


def route(bed: Bed, times: int) -> list[Row]:
    """The weights of one VirtualService change.

    A response holds the services of one port: all of them, or a part where they are spread.
    """

    def change(generation: int) -> float:
        bed.server.apply(
            world.virtual_service(5, namespaces=bed.size.namespaces, weight=10 + generation % 80)
        )
        return bed.server.seen().seen

    made = repeat(bed, change, types=(RDS,), times=times)
    ports = "one port" if bed.size.ports == 1 else f"{bed.size.ports} ports"
    measure = f"seen to last ACK, services on {ports}"
    return [row(bed, made, scenario="route", measure=measure, mark=ROUTE_MARK)]


def rule(bed: Bed, times: int) -> list[Row]:
    """The limits of one DestinationRule change, and with them three clusters."""

    def change(generation: int) -> float:
        bed.server.apply(
            world.destination_rule(
                6, namespaces=bed.size.namespaces, connections=200 + generation % 800
            )
        )
        return bed.server.seen().seen

    made = repeat(bed, change, types=(CDS, EDS), times=times)
    return [row(bed, made, scenario="rule", measure="seen to last ACK", mark=None)]


def service(bed: Bed, times: int) -> list[Row]:
    """The protocol of one Service's port changes, back and forth, and with it a cluster."""
    protocols = itertools.cycle(("kubernetes.io/h2c", "http"))

    def change(_generation: int) -> float:
        bed.server.apply(
            world.service(
                bed.size.services - 1,
                namespaces=bed.size.namespaces,
                ports=bed.size.ports,
                app_protocol=next(protocols),
            )
        )
        return bed.server.seen().seen

    made = repeat(bed, change, types=(CDS, EDS), times=times)
    return [row(bed, made, scenario="service", measure="seen to last ACK", mark=None)]


def full(bed: Bed, times: int) -> list[Row]:
    """The settings of the mesh change, and with them every cluster, listener and route."""

    def change(generation: int) -> float:
        bed.directory.change_mesh(generation)
        return bed.server.seen().seen

    made = repeat(bed, change, types=TYPES, times=times)
    return [row(bed, made, scenario="full", measure="seen to last ACK", mark=FULL_MARK)]


def everything(rows: list[Row], bed: Bed, chosen: Sequence[str], *, quick: bool) -> None:
    """Add the rows of the chosen scenarios of this module; connecting is always part of it."""
    few, many = (2, 5) if quick else (5, 20)

    def run(name: str, scenario: Callable[[], list[Row]]) -> None:
        if name in chosen:
            progress(f"{name}, {bed.protocol}, {bed.size.sidecars} sidecars")
            rows.extend(scenario())

    progress(f"connect, {bed.protocol}, {bed.size.sidecars} sidecars")
    connected = connect(bed)
    if "connect" in chosen:
        rows += connected
    run("endpoint", lambda: endpoint(bed, many))
    run("file", lambda: file(bed, few))
    run("route", lambda: route(bed, few if quick else 10))
    run("rule", lambda: rule(bed, few if quick else 10))
    run("service", lambda: service(bed, few if quick else 10))
    run("full", lambda: full(bed, few))


def _mesh(bed: Bed) -> dict[str, int]:
    return {"endpoints": bed.size.endpoints, "namespaces": bed.size.namespaces}
