"""Endpoints move all the time: latency, CPU and memory of a busy mesh.

Each change moves one endpoint of another service, so that a response says which change it
answers: the service is named in it. The rule that is easy to break: a service moves again only
after seconds, or two of its changes could not be told apart.
"""

from __future__ import annotations

import time
from typing import Final

from tests.bench import world
from tests.bench.bed import Bed
from tests.bench.messages import EDS
from tests.bench.report import Row, progress

RATE: Final = 100  # changes per second
P99_MARK: Final = 0.250
CPU_MARK: Final = 50.0  # percent of one core
GROWTH_MARK: Final = 5_000_000  # bytes between the first and the last tenth: "flat"
_TAIL: Final = 3.0  # seconds in which the last changes may still be acknowledged


def churn(bed: Bed, seconds: float) -> list[Row]:
    """Change endpoints steadily and see when each sidecar has acknowledged each change."""
    bed.fleet.connect(world.sidecars(bed.size.sidecars, classes=bed.size.classes))
    bed.server.quiet()
    bed.fleet.collect()
    bed.server.forget_seen()
    progress(f"churn, {bed.protocol}, {bed.size.sidecars} sidecars, {seconds:.0f} s")
    seen: list[float] = []
    services: list[int] = []
    memories: list[int] = []
    cpu, loader, began = bed.server.cpu(), bed.fleet.cpu, time.monotonic()
    count = int(seconds * RATE)
    for index in range(count):
        wait = began + index / RATE - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        number = index % bed.size.services
        bed.server.apply(
            world.endpoint_slice(
                number,
                generation=1 + index // bed.size.services,
                endpoints=bed.size.endpoints,
                namespaces=bed.size.namespaces,
            )
        )
        services.append(number)
        if index % RATE == 0:
            memories.append(bed.server.memory().anonymous)
            seen += bed.server.drain()
    took = time.monotonic() - began
    cpu = bed.server.cpu() - cpu
    time.sleep(_TAIL)
    seen += bed.server.drain()
    memories.append(bed.server.memory().anonymous)
    latencies, missing = _latencies(bed, services, seen)
    latencies.sort()
    tenth = max(1, len(memories) // 10)
    before = sum(memories[tenth : 2 * tenth]) / tenth
    after = sum(memories[-tenth:]) / tenth
    return [
        Row(
            scenario="churn",
            protocol=bed.protocol,
            measure="p99 from change to ACK",
            unit="s",
            value=latencies[len(latencies) * 99 // 100],
            mark=P99_MARK,
            p50=latencies[len(latencies) // 2],
            p99=latencies[len(latencies) * 99 // 100],
            cpu=cpu,
            loader_cpu=bed.fleet.cpu - loader,
            memory=memories[-1],
            details={"worst": latencies[-1], "unacknowledged": missing, "seconds": took},
            sidecars=bed.size.sidecars,
            services=bed.size.services,
        ),
        Row(
            scenario="churn",
            protocol=bed.protocol,
            measure="share of one core",
            unit="%",
            value=100 * cpu / took,
            mark=CPU_MARK,
            sidecars=bed.size.sidecars,
            services=bed.size.services,
        ),
        Row(
            scenario="churn",
            protocol=bed.protocol,
            measure="growth of memory",
            unit="B",
            value=after - before,
            mark=GROWTH_MARK,
            sidecars=bed.size.sidecars,
            services=bed.size.services,
        ),
    ]


def _latencies(bed: Bed, services: list[int], seen: list[float]) -> tuple[list[float], int]:
    """Return the seconds from each change to each acknowledgement, and how many are missing."""
    if len(seen) != len(services):
        raise AssertionError(f"{len(services)} changes were made and {len(seen)} seen")
    changes: dict[str, list[float]] = {}
    for number, when in zip(services, seen, strict=True):
        host = f"svc-{number}.ns-{number % bed.size.namespaces}.svc.{world.DOMAIN}"
        changes.setdefault(f"|{host}", []).append(when)
    done: dict[tuple[int, str], int] = {}
    latencies: list[float] = []
    for sample in sorted(bed.fleet.collect()):
        if sample.type != EDS:
            continue
        # A service with subsets has three clusters; they come together.
        for host in {name[name.rindex("|") :] for name in sample.names}:
            times = changes.get(host, ())
            index = done.get((sample.sidecar, host), 0)
            while index < len(times) and times[index] <= sample.time:
                latencies.append(sample.time - times[index])
                index += 1
            done[sample.sidecar, host] = index
    return latencies, len(services) * bed.size.sidecars - len(latencies)
