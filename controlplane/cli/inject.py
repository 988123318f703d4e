"""`pylot inject`: manifests with sidecars, from files.

Owns reading files and what goes to which stream. Must not know how injection works. The rule
that is easy to break: nothing is printed when anything is wrong, so that half of a mesh is never
piped into `kubectl apply`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def inject(
    file: Annotated[
        list[Path],
        typer.Option("--filename", "-f", help="File with manifests, - for stdin. Repeatable."),
    ],
    inject_config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with the template and the policy, in place of ours.",
        ),
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="File with values for the template, laid over ours."
        ),
    ] = None,
    mesh_config: Annotated[Path | None, typer.Option(help="File with Istio's MeshConfig.")] = None,
    namespace: Annotated[
        list[str],
        typer.Option(
            "--namespace",
            "-n",
            help="Inject only in this namespace; objects that name none are in the first one. "
            "Repeatable.",
        ),
    ] = [],
    revision: Annotated[str, typer.Option(help="Name of this control plane.")] = "default",
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say, as a comment, which rule decided on each workload."),
    ] = False,
) -> None:
    """Print manifests with the sidecar added to every workload.

    Objects that are no workloads, and workloads that get no sidecar, come out as they went in.
    Without Namespace objects in the files every workload is injected that does not refuse; with
    them their labels decide, as they do in a cluster.
    """
    from controlplane.inject.config_files import read_config
    from controlplane.inject.errors import InjectConfigError
    from controlplane.inject.files import FileInjector

    config = read_config(inject_config, values, revision=revision)
    injector = FileInjector(config, _mesh(mesh_config), namespaces=tuple(namespace))
    try:
        results = [
            injector.inject("stdin" if str(path) == "-" else str(path), _read(path, "--filename"))
            for path in file
        ]
    except InjectConfigError as error:
        raise InjectConfigError(f"{inject_config or 'the template'}: {error}") from None
    problems = [problem for result in results for problem in result.problems]
    for problem in problems:
        typer.echo(f"Error: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    pieces = [piece for result in results for piece in result.pieces]
    for number, piece in enumerate(pieces):
        text = piece.text
        if number and not text.startswith("---"):
            text = f"---\n{text}"
        for one in reversed(piece.explanations):
            if explain:
                text = _with_comment(text, f"# {one.subject}: {one.text}\n")
            elif not one.injected:
                typer.echo(f"{one.subject}: {one.text}", err=True)
        for warning in piece.warnings:
            typer.echo(f"Warning: {warning}", err=True)
        if number < len(pieces) - 1 and not text.endswith("\n"):
            text += "\n"
        typer.echo(text, nl=False)


def _with_comment(text: str, comment: str) -> str:
    """Put a comment in front of a document, behind its separator."""
    if text.startswith("---"):
        head, end, rest = text.partition("\n")
        # `--- # comment` and `--- value` stay: the comment goes in front of the separator.
        return f"{head}{end}{comment}{rest}" if head.strip() == "---" else f"{comment}{text}"
    return comment + text


def _mesh(path: Path | None):  # type: ignore[no-untyped-def]  # the type's import is heavy
    from controlplane.errors import PylotError
    from controlplane.model.diagnostics import Level
    from controlplane.model.mesh import MeshConfig
    from controlplane.sources.mesh_config import parse_mesh_config

    text = _text(path, "--mesh-config")
    if text is None:
        return MeshConfig()
    mesh, diagnostics = parse_mesh_config(str(path), text.encode())
    for diagnostic in diagnostics:
        if diagnostic.level is not Level.ERROR:
            typer.echo(f"{diagnostic.level}: {diagnostic}", err=True)
    if mesh is None:
        raise PylotError("; ".join(str(one) for one in diagnostics if one.level is Level.ERROR))
    return mesh


def _text(path: Path | None, flag: str) -> str | None:
    return None if path is None else _read(path, flag)


def _read(path: Path, flag: str) -> str:
    from controlplane.errors import PylotError, UsageError
    from controlplane.sources.text import UnreadableError, decode_text

    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{flag}: {path}: {error.strerror}") from None
    try:
        return decode_text(data)
    except UnreadableError as error:
        raise PylotError(f"{path}:{error.line}: {error}") from None
