"""How commands print: tables that can be grepped, JSON, YAML.

Owns the width of columns and the look of tables. Must not know what is printed. The rule that
is easy to break: a table that goes into a pipe is plain text, one row per line, never cut.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import typer

_NAMED = 3  # names in one sentence
Format = Literal["short", "json", "yaml"]
_COLOURS = {
    "SYNCED": "green",
    "HEALTHY": "green",
    "STALE": "yellow",
    "DRAINING": "yellow",
    "NOT SENT": "yellow",
    "REJECTED": "red",
    "UNHEALTHY": "red",
}


def print_data(data: Any, output: str) -> None:
    """Print data as `json` (indented) or `yaml`."""
    if output == "yaml":
        import yaml

        typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
        return
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, colour: bool = False) -> str:
    """Return a table of fixed columns, three spaces apart; the last column is not padded."""
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = []
    for number, line in enumerate(lines):
        cells = [
            _styled(cell, width, bold=number == 0) if colour else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ]
        shown.append("   ".join(cells).rstrip())
    return "\n".join(shown)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; colours only where a person looks at it."""
    typer.echo(table(header, rows, colour=sys.stdout.isatty()))


def _styled(cell: str, width: int, *, bold: bool) -> str:
    padded = cell.ljust(width)
    if bold:
        return typer.style(padded, bold=True)
    colour = _COLOURS.get(cell)
    return typer.style(padded, fg=colour) if colour else padded


def some_of(names: Sequence[str]) -> str:
    """Return the first names and how many more there are, as part of a sentence."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
