"""How latency, CPU and memory grow with the number of sidecars."""

from __future__ import annotations

from tests.bench.bed import Size, bed
from tests.bench.process import memory_available
from tests.bench.pushes import everything
from tests.bench.report import Row, progress

COUNTS = (100, 300, 1000, 3000)
_NEEDED = 2_500_000  # bytes of memory per sidecar while all of them connect at once
SCENARIOS = ("connect", "endpoint", "route", "full")


def growth(rows: list[Row], size: Size, protocol: str) -> None:
    """Add the rows of the pushes for each number of sidecars that there is memory for."""
    for count in COUNTS:
        if count * _NEEDED > memory_available():
            progress(f"growth: not enough memory for {count} sidecars")
            continue
        found: list[Row] = []
        with bed(size._replace(sidecars=count), protocol) as made:
            everything(found, made, SCENARIOS, quick=True)
        for row in found:
            # The marks hold for one size only.
            row.mark = None
            row.scenario = f"growth {row.scenario}"
        rows += found
