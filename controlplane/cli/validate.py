"""`pylot validate`: what is wrong with files, one line per problem.

The rule that is easy to break: the answer is the exit code (0 no Error, 1 an Error), so that
anything that keeps files from being looked at must end with 2 instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer

from controlplane.errors import UsageError
from controlplane.model.assemble import make_snapshot
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.meta import objects_of
from controlplane.sources.filetree import FileTree
from controlplane.sources.locate import Locator
from controlplane.sources.parse import parse_file

STDIN: Final = Path("-")
_STDIN_NAME: Final = "<stdin>"
_SEVERITY: Final = {Level.ERROR: 0, Level.WARNING: 1, Level.INFO: 2}


def validate(
    files: Annotated[
        list[Path],
        typer.Option(
            "--filename", "-f", help="File or directory; repeat for several. `-` reads stdin."
        ),
    ],
    mesh_config: Annotated[
        Path | None, typer.Option("--mesh-config", help="File with the MeshConfig to check.")
    ] = None,
    level: Annotated[
        Level, typer.Option("--level", case_sensitive=False, help="The least level to show.")
    ] = Level.WARNING,
) -> None:
    """Check configuration files. Exits with 0 when there is no Error, with 1 when there is."""
    try:
        found = check_files(files, mesh_config=mesh_config)
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    for diagnostic in found:
        if _SEVERITY[diagnostic.level] <= _SEVERITY[level]:
            typer.echo(line_of(diagnostic))
    raise typer.Exit(1 if any(entry.level is Level.ERROR for entry in found) else 0)


def line_of(diagnostic: Diagnostic) -> str:
    """Return `FILE:LINE Kind ns/name path: message`, with the level behind unless an Error."""
    text = str(diagnostic)
    return text if diagnostic.level is Level.ERROR else f"{text} [{diagnostic.level}]"


def check_files(
    files: Iterable[Path], *, mesh_config: Path | None = None
) -> tuple[Diagnostic, ...]:
    """Return everything that is wrong with files, alone and with each other, in file order.

    Raises UsageError when one of them does not exist or cannot be read.
    """
    paths = tuple(dict.fromkeys(files))
    for path in (*paths, *((mesh_config,) if mesh_config is not None else ())):
        if path != STDIN and not path.exists():
            raise UsageError(f"{path} does not exist")
    tree = FileTree(tuple(path for path in paths if path != STDIN), mesh_config=mesh_config)
    delta = tree.scan().delta
    found = list(delta.diagnostics or ())
    records = {record.ref: record for record in delta.upserts}
    texts: dict[str, bytes] = {}
    if STDIN in paths:
        texts[_STDIN_NAME] = sys.stdin.buffer.read()
        parsed = parse_file(_STDIN_NAME, texts[_STDIN_NAME])
        found += parsed.diagnostics
        records.update((record.ref, record) for record in parsed.objects)
    snapshot = make_snapshot(
        objects_of(records.values()),
        mesh=delta.mesh,
        provenance={ref: record.origin for ref, record in records.items()},
    )
    found += _with_lines(snapshot.diagnostics, texts)
    return tuple(sorted(set(found), key=order))


def _with_lines(diagnostics: Iterable[Diagnostic], texts: dict[str, bytes]) -> Iterable[Diagnostic]:
    """Yield diagnostics about several objects with the line of their field."""
    locators: dict[str, Locator] = {}
    for entry in diagnostics:
        if not entry.file or entry.ref is None:
            yield entry
            continue
        locator = locators.get(entry.file)
        if locator is None:
            data = texts.get(entry.file)
            locator = Locator(entry.file, Path(entry.file).read_bytes() if data is None else data)
            locators[entry.file] = locator
        yield Diagnostic(
            level=entry.level,
            code=entry.code,
            message=entry.message,
            ref=entry.ref,
            field=entry.field,
            file=entry.file,
            line=locator.line(entry.ref, entry.field) or entry.line,
        )
