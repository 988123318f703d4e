"""The line of a field, found again in the text of its file.

For findings that are made after parsing, when the positions are gone: reading the text once
more is cheaper than keeping every position. The rule that is easy to break: the text may have
changed meanwhile, so a place that is not found gives the line of the object, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from controlplane.model.kinds import Kind, find_kind
from controlplane.model.meta import DEFAULT_NAMESPACE, ObjectRef
from controlplane.model.schema import Path
from controlplane.sources.positions import Tree, json_tree, yaml_documents
from controlplane.sources.text import UnreadableError, decode_text, json_parts

_PART: Final = re.compile(r"([^.\[\]]+)|\[([^\]]*)\]")


def parse_path(field: str) -> Path:
    """Return the parts of a path such as `spec.http[0].headers[end-user]`."""
    return tuple(
        int(found[2]) if found[2] is not None and found[2].isdigit() else found[1] or found[2]
        for found in _PART.finditer(field)
    )


class Locator:
    """Finds lines in the text of one file; the text is read when first asked."""

    def __init__(self, file: str, data: bytes) -> None:
        self._file = file
        self._data = data
        self._trees: dict[ObjectRef, Tree] | None = None

    def line(self, ref: ObjectRef, field: str) -> int:
        """Return the line of a field of an object, 0 when the object is not in the text."""
        if self._trees is None:
            self._trees = {}
            for found, tree in _objects(self._file, self._data):
                self._trees.setdefault(found, tree)
        place = self._trees.get(ref)
        return 0 if place is None else place.locate(parse_path(field))


def _objects(file: str, data: bytes) -> Iterator[tuple[ObjectRef, Tree]]:
    try:
        if file.endswith(".json") or data.lstrip()[:1] == b"{":
            for part, line in json_parts(data):
                document = json_tree(decode_text(bytes(part)), first_line=line)
                yield from _named(document.value, document.tree)
        else:
            for document in yaml_documents(decode_text(data)):
                yield from _named(document.value, document.tree)
    except UnreadableError:
        return  # what stands before the broken place has been found


def _named(value: Any, tree: Tree) -> Iterator[tuple[ObjectRef, Tree]]:
    if not isinstance(value, dict):
        return
    items = value.get("items")
    if isinstance(items, list):
        for index, entry in enumerate(items):
            yield from _named(entry, tree.children["items"].children[index])
        return
    meta = value.get("metadata")
    kind = find_kind(str(value.get("apiVersion")), str(value.get("kind")))
    if isinstance(kind, Kind) and isinstance(meta, dict):
        namespace = str(meta.get("namespace") or DEFAULT_NAMESPACE) if kind.namespaced else ""
        yield ObjectRef(kind.qualified, namespace, str(meta.get("name"))), tree
