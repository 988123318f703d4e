"""What was measured: rows, their table and their JSON file.

Must not know how anything is measured. The rule that is easy to break: a ratio above 1 misses the
mark whatever the unit, so every mark is an upper bound.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.process import load_average

_UNITS = {"s": ("ms", 1e3), "CPU s": ("CPU s", 1.0), "B": ("kB", 1e-3), "%": ("%", 1.0)}


class Row(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One measured value beside its mark, in seconds, bytes or percent.

    `p50` and `p99` are over all sidecars and repetitions, `value` is what the mark speaks of:
    for latencies the last acknowledgement, the median of the repetitions.
    """

    scenario: str
    protocol: str = ""
    measure: str
    unit: str  # "s", "CPU s", "B" or "%"
    value: float
    mark: float | None = None
    p50: float | None = None
    p99: float | None = None
    cpu: float | None = None  # seconds of the server, the median of the repetitions
    loader_cpu: float | None = None  # seconds of the load generator, likewise
    memory: int | None = None  # anonymous memory of the server afterwards, bytes
    sidecars: int = 0
    services: int = 0
    repetitions: int = 1
    load_average: float = msgspec.field(default_factory=load_average)
    details: dict[str, float] = {}

    @property
    def ratio(self) -> float | None:
        """The value over its mark: above 1 the mark is missed."""
        return None if self.mark is None else self.value / self.mark


class Report(msgspec.Struct, kw_only=True):
    """All rows of a run, and on what they were measured."""

    rows: list[Row]
    quick: bool = False
    started: float = msgspec.field(default_factory=time.time)  # since 1970
    cores: int = msgspec.field(default_factory=lambda: os.cpu_count() or 1)
    python: str = msgspec.field(default_factory=platform.python_version)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def read_report(path: Path) -> Report:
    """Return a report that was written; raises msgspec.MsgspecError when it is none."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


_COLUMNS = "scenario|protocol|measure|value|mark|ratio|p50|p99|server CPU|loader CPU|server MB|load"


def _cells(row: Row) -> tuple[str, ...]:
    name, factor = _UNITS[row.unit]

    def shown(value: float | None) -> str:
        return "" if value is None else f"{_rounded(value * factor)} {name}"

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.3f} s"

    return (
        row.scenario,
        row.protocol,
        row.measure,
        shown(row.value),
        shown(row.mark),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        shown(row.p50),
        shown(row.p99),
        seconds(row.cpu),
        seconds(row.loader_cpu),
        "" if row.memory is None else f"{row.memory / 1e6:.0f}",
        f"{row.load_average:.1f}",
    )


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(rows: Sequence[Row]) -> None:
    """Print rows: in colours on a terminal, as plain columns elsewhere."""
    header = tuple(_COLUMNS.split("|"))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*header, title="Measured")
        for row in rows:
            style = None if row.ratio is None else "green" if row.ratio <= 1 else "red"
            table.add_row(*_cells(row), style=style)
        Console().print(table)
        return
    lines = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def markdown(report: Report) -> str:
    """Return the rows that are no part of a curve as a table for people."""
    header = _COLUMNS.split("|")
    lines = [
        f"Measured on {time.strftime('%Y-%m-%d', time.gmtime(report.started))}: "
        f"{report.cores} cores shared by server and sidecars, Python {report.python}"
        f"{', short runs' if report.quick else ''}. "
        "`load` is the machine's load average at the end of the row's run.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
    ]
    rows = (row for row in report.rows if not row.scenario.startswith("growth "))
    lines += ("| " + " | ".join(_cells(row)) + " |" for row in rows)
    return "\n".join(lines) + "\n"


def progress(text: str) -> None:
    """Say on standard error what is going on."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
