"""Pictures and a table of reports: how things grow with the number of sidecars, and the marks.

Run as `python -m tests.bench.plot REPORT.json... DIRECTORY`; the pictures and results.md in
docs/benchmarks are made by it. Both axes are logarithmic: a cost per sidecar is a straight line.
Written by hand because a plotting library is a large dependency for a few polylines.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.report import Row, markdown, read_report

Series = Mapping[str, list[tuple[float, float]]]

_WIDTH: Final = 720
_HEIGHT: Final = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 40, 50
# Colours that stay apart for colour-blind readers (Okabe and Ito), dashes for the other protocol.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


class Axis:
    """A logarithmic axis from values to pixels."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        known = [value for value in values if value > 0]
        self.low: Final = math.floor(math.log10(min(known)))
        self.high: Final = max(self.low + 1, math.ceil(math.log10(max(known))))
        self._start: Final = start
        self._scale: Final = (end - start) / (self.high - self.low)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self._start + (math.log10(value) - self.low) * self._scale

    def ticks(self) -> list[float]:
        """Powers of ten, and in between where there is room."""
        steps = (1, 3) if self.high - self.low <= 4 else (1,)
        found = [step * 10.0**power for power in range(self.low, self.high + 1) for step in steps]
        return [value for value in found if value <= 10.0**self.high * 1.001]


def draw(title: str, unit: str, series: Series) -> str:
    """Return the picture of some series over the number of sidecars."""
    points = [point for line in series.values() for point in line]
    x = Axis((point[0] for point in points), _LEFT, _WIDTH - _RIGHT)
    y = Axis((point[1] for point in points), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{title}</text>',
    ]
    for value in x.ticks():
        parts.append(_line(x.at(value), _TOP, x.at(value), _HEIGHT - _BOTTOM))
        parts.append(_text(x.at(value), _HEIGHT - _BOTTOM + 18, f"{value:,.0f}", "middle"))
    for value in y.ticks():
        parts.append(_line(_LEFT, y.at(value), _WIDTH - _RIGHT, y.at(value)))
        parts.append(_text(_LEFT - 6, y.at(value) + 4, f"{value:,g}", "end"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, "sidecars", "middle"))
    parts.append(_text(_LEFT - 6, _TOP - 8, unit, "end"))
    names = sorted({name.partition(",")[0] for name in series})
    for index, (name, line) in enumerate(sorted(series.items())):
        colour = _COLOURS[names.index(name.partition(",")[0]) % len(_COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name.endswith("sotw") else ""
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in sorted(line))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts += (
            f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>'
            for a, b in line
        )
        row = _TOP + 14 + index * 20
        left = _WIDTH - _RIGHT + 14
        parts.append(
            f'<line x1="{left}" y1="{row - 4}" x2="{left + 26}" y2="{row - 4}" '
            f'stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts.append(_text(left + 32, row, name, "start"))
    return "\n".join([*parts, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def series(rows: Iterable[Row], value: Callable[[Row], float | None]) -> Series:
    """Return one line for each scenario and protocol that was measured at several sizes."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        measured = value(row)
        if row.scenario.startswith("growth ") and row.unit == "s" and measured:
            name = f"{row.scenario.removeprefix('growth ')}, {row.protocol}"
            lines.setdefault(name, []).append((row.sidecars, measured))
    return lines


def main(arguments: Sequence[str]) -> None:
    """Write the pictures of reports, and the table of the rows that have marks."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.plot",
        description="Draw what `python -m tests.bench --json` wrote.",
    )
    parser.add_argument("report", nargs="+", type=Path, help="file with the rows of a run")
    parser.add_argument("directory", type=Path, help="where the pictures and results.md go")
    chosen = parser.parse_args(arguments)
    if not chosen.directory.is_dir():
        parser.error(f"{chosen.directory} is not a directory")
    reports = []
    for file in chosen.report:
        try:
            reports.append(read_report(file))
        except (OSError, msgspec.MsgspecError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            parser.error(f"{file} is no report: {reason}")
    rows = [row for report in reports for row in report.rows]
    pictures: tuple[tuple[str, str, str, Callable[[Row], float | None]], ...] = (
        ("latency", "From change to last acknowledgement", "ms", lambda row: row.value * 1e3),
        ("cpu", "CPU time of the server", "s", lambda row: row.cpu),
        ("memory", "Memory of the server afterwards", "MB", lambda row: (row.memory or 0) / 1e6),
    )
    for name, title, unit, value in pictures:
        lines = series(rows, value)
        if lines:
            (chosen.directory / f"{name}.svg").write_text(draw(title, unit, lines))
    tables = [
        markdown(report)
        for report in reports
        if any(not row.scenario.startswith("growth ") for row in report.rows)
    ]
    if tables:
        (chosen.directory / "results.md").write_text("# Results\n\n" + "\n".join(tables))


if __name__ == "__main__":
    main(sys.argv[1:])
