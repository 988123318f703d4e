"""A file that holds the settings of the mesh: Istio's MeshConfig as one YAML document.

The rule that is easy to break: a file with any error gives no MeshConfig at all, never one with
defaults in place of what could not be read.
"""

from __future__ import annotations

from typing import Final

import msgspec

from controlplane.model.base import dec_hook
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.mesh import MeshConfig
from controlplane.model.schema import Path, format_path, mistakes, without_nulls
from controlplane.model.unsupported import unsupported
from controlplane.model.validation import validate_mesh
from controlplane.sources.objects import SCHEMA
from controlplane.sources.parse import unreadable
from controlplane.sources.positions import yaml_documents
from controlplane.sources.text import UnreadableError, decode_text

DEFAULT_ROOT: Final = MeshConfig().root_namespace


def parse_mesh_config(
    file: str, data: bytes, *, root_namespace: str = ""
) -> tuple[MeshConfig | None, tuple[Diagnostic, ...]]:
    """Return the MeshConfig of a file, None when it has an error, and what is wrong with it.

    `root_namespace` is the one that holds when the file names none.
    """
    found: list[Diagnostic] = []
    try:
        documents = [
            document
            for document in yaml_documents(decode_text(data))
            if document.value is not None or document.problems
        ]
        if len(documents) > 1:
            raise UnreadableError(documents[1].tree.line, "a mesh config is one document")
    except UnreadableError as error:
        return None, (unreadable(file, error),)
    if not documents:
        return MeshConfig(root_namespace=root_namespace or DEFAULT_ROOT), ()
    value, tree, problems = documents[0]

    def report(level: Level, code: str, path: Path, message: str) -> None:
        line = tree.locate(path)
        field = format_path(path)
        found.append(
            Diagnostic(level=level, code=code, message=message, field=field, file=file, line=line)
        )

    for mistake in (*problems, *mistakes(value, MeshConfig)):
        report(Level.ERROR, SCHEMA, mistake.path, mistake.message)
    if found:
        return None, tuple(sorted(found, key=order))
    plain = without_nulls(value)
    if root_namespace:
        plain.setdefault("rootNamespace", root_namespace)
    mesh = msgspec.convert(plain, MeshConfig, dec_hook=dec_hook)
    for finding in (*validate_mesh(mesh), *unsupported(mesh)):
        report(finding.level, finding.code, finding.path, finding.message)
    wrong = any(diagnostic.level is Level.ERROR for diagnostic in found)
    return None if wrong else mesh, tuple(sorted(found, key=order))
