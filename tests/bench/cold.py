"""Cold start: from nothing to `/ready`, for meshes of several sizes as JSON and as YAML.

The program itself is started, as a user would. What an empty mesh costs (interpreter, imports,
listeners) is subtracted from the CPU time, and reported on its own. The rule that is easy to
break: the files are written before, and are in the page cache.
"""

from __future__ import annotations

import statistics

from tests.bench.bed import Size, mesh_directory
from tests.bench.report import Row, progress
from tests.bench.server import Server

MARKS = {1_000: 0.5, 10_000: 3.0}


def _start(size: Size, form: str, *, times: int) -> tuple[float, float, int]:
    """Return the medians of wall time, CPU time and memory at `/ready`."""
    wall: list[float] = []
    cpu: list[float] = []
    sizes: list[int] = []
    with mesh_directory(size, form=form) as directory:
        for _ in range(times):
            with Server(directory.objects, directory.mesh, measured=False) as server:
                wall.append(server.wait_ready())
                cpu.append(server.cpu())
                sizes.append(server.memory().anonymous)
    return statistics.median(wall), statistics.median(cpu), round(statistics.median(sizes))


def cold(rows: list[Row], *, quick: bool) -> None:
    """Add the rows of starts with 1,000 and 10,000 services."""
    progress("cold, empty")
    empty_wall, empty_cpu, empty_memory = _start(Size(services=0), "json", times=3)
    rows.append(
        Row(
            scenario="cold",
            protocol="empty",
            measure="CPU of imports and listeners",
            unit="CPU s",
            value=empty_cpu,
            memory=empty_memory,
            repetitions=3,
            details={"wall": empty_wall},
        )
    )
    for services, mark in MARKS.items():
        for form in ("json", "yaml"):
            if form == "yaml" and quick and services > 1_000:
                continue
            times = 3 if services == 1_000 or (form == "json" and not quick) else 1
            progress(f"cold, {services} services, {form}")
            size = Size(services=services, rules=services // 5)
            wall, cpu, memory = _start(size, form, times=times)
            rows.append(
                Row(
                    scenario="cold",
                    protocol=form,
                    measure=f"CPU to /ready, {services:,} services",
                    unit="CPU s",
                    value=cpu - empty_cpu,
                    mark=mark if form == "json" else None,
                    cpu=cpu,
                    memory=memory,
                    services=services,
                    repetitions=times,
                    details={"wall": wall, "per service": (memory - empty_memory) / services},
                )
            )
