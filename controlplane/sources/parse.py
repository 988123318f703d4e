"""The bytes of one file as model objects, with everything that is wrong with them.

Owns the way from text to checked objects: JSON goes straight to structs, YAML by plain data;
only when something does not fit does the slow pass look for every mistake and its line. Must
not know directories or watching. The rule that is easy to break: what is wrong with one object
stays with that object; only text that cannot be read at all spoils the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.kinds import Foreign, Kind, Unknown, Untranslated, find_kind
from controlplane.model.meta import DEFAULT_NAMESPACE, Object, ObjectRef, Provenance, Record
from controlplane.model.schema import (
    Path,
    format_path,
    mistakes,
)
from controlplane.sources.objects import SCHEMA, UNREADABLE, decode_flawless, read_value
from controlplane.sources.positions import Document, json_tree, yaml_documents
from controlplane.sources.text import UnreadableError, decode_text, json_parts

MAX_FILE_SIZE: Final = 256 * 1024 * 1024


class ParsedFile(NamedTuple):
    """What one file says.

    `broken` means that the text as a whole cannot be read: `objects` are then those before the
    place where reading stopped. `unidentified` means that some object does not even say what it
    is. `rejected` are the objects that were left out because of an error.
    """

    file: str
    objects: tuple[Record, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    rejected: frozenset[ObjectRef] = frozenset()
    broken: bool = False
    unidentified: bool = False


class _Header(msgspec.Struct, rename="camel"):
    """Enough of an object to know what it is."""

    api_version: str = ""
    kind: str = ""
    items: msgspec.Raw = msgspec.Raw()


def parse_file(file: str, data: bytes) -> ParsedFile:
    """Return the objects and diagnostics of a file's content; never raises for what is in it."""
    return _FileParser(file).parse(data)


class _FileParser:
    """Collects the objects and diagnostics of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.objects: dict[ObjectRef, Record] = {}
        self.diagnostics: list[Diagnostic] = []
        self.rejected: set[ObjectRef] = set()
        self.unidentified = False
        self._last = Provenance("file", file, 0)

    def parse(self, data: bytes) -> ParsedFile:
        broken = False
        try:
            if len(data) > MAX_FILE_SIZE:
                raise UnreadableError(1, f"larger than {MAX_FILE_SIZE} bytes")
            if self.file.endswith(".json"):
                self._json(data)
            elif data.lstrip()[:1] == b"{":
                self._json_or_yaml(data)
            else:
                self._yaml(decode_text(data))
        except UnreadableError as error:
            broken = True
            self.diagnostics.append(unreadable(self.file, error))
        return ParsedFile(
            self.file,
            tuple(self.objects.values()),
            tuple(sorted(self.diagnostics, key=order)),
            frozenset(self.rejected),
            broken,
            self.unidentified,
        )

    def _json_or_yaml(self, data: bytes) -> None:
        try:
            parts = list(json_parts(data))
        except UnreadableError:
            self._yaml(decode_text(data))  # a YAML flow mapping also begins with a brace
            return
        self._json_objects(parts)

    def _json(self, data: bytes) -> None:
        parts = []
        try:
            for part in json_parts(data):
                parts.append(part)
        finally:
            self._json_objects(parts)

    def _json_objects(self, parts: Iterable[tuple[bytes | memoryview, int]]) -> None:
        for part, line in parts:
            self._json_object(part, line)

    def _json_object(self, data: bytes | memoryview, line: int) -> None:
        try:
            header = _HEADER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._slow_json(data, line)
            return
        if header.kind.endswith("List") and bytes(header.items):
            self._json_list(data, header.items, line)
            return
        found = find_kind(header.api_version, header.kind)
        item = None
        if isinstance(found, Kind) and found.model is not Untranslated:
            item = decode_flawless(data, found)
        if item is None:
            self._slow_json(data, line)
        else:
            self._accept(item, line)

    def _json_list(self, data: bytes | memoryview, items: msgspec.Raw, line: int) -> None:
        try:
            parts = msgspec.json.decode(items, type=list[msgspec.Raw])
        except msgspec.ValidationError:
            self._slow_json(data, line)
            return
        text = bytes(data)
        at = 0
        for part in parts:
            entry = bytes(part)
            begin = text.index(entry, at)
            line += text.count(b"\n", at, begin)
            self._json_object(entry, line)
            line += entry.count(b"\n")
            at = begin + len(entry)

    def _slow_json(self, data: bytes | memoryview, line: int) -> None:
        self._document(json_tree(decode_text(bytes(data)), first_line=line))

    def _yaml(self, text: str) -> None:
        for document in yaml_documents(text):
            if document.value is None and not document.problems:
                continue  # an empty document, or one of comments
            if not isinstance(document.value, dict):
                raise UnreadableError(document.tree.line, "a document must be an object")
            self._document(document)

    def _document(self, document: Document) -> None:
        value = document.value
        if not isinstance(value, dict):
            self._unknown(document, (), "must be an object")
            return
        items = value.get("items")
        kind = value.get("kind")
        if isinstance(items, list) and isinstance(kind, str) and kind.endswith("List"):
            tree = document.tree.children["items"]
            for index, entry in enumerate(items):
                problems = tuple(
                    problem._replace(path=problem.path[2:])
                    for problem in document.problems
                    if problem.path[:2] == ("items", index)
                )
                self._document(Document(entry, tree.children[index], problems))
            return
        for field in ("apiVersion", "kind"):
            if not isinstance(value.get(field), str):
                self._missing_identity(document, field)
                return
        found = find_kind(value["apiVersion"], value["kind"])
        match found:
            case Unknown():
                self._unknown(document, (found.field,), found.reason)
            case Foreign():
                self._report(
                    Level.INFO, "KindIgnored", document, (),
                    ref=_ref_of(value, found.kind),
                    message=f"{found.kind} is no kind that the mesh reads; it is ignored",
                )  # fmt: skip
            case Kind():
                self._known(document, found)

    def _missing_identity(self, document: Document, field: str) -> None:
        """Report the keys that look like a misspelt `kind` or `apiVersion`, or their absence."""
        near = [
            mistake
            for mistake in mistakes(
                {key: document.value[key] for key in document.value if key not in _COMMON}, Object
            )
            if mistake.message.startswith(f"unknown field {mistake.path[0]!r};")
            and f"'{field}'" in mistake.message
        ]
        if near:
            self._unknown(document, near[0].path, near[0].message)
        elif field in document.value:
            self._unknown(document, (field,), "must be a string")
        else:
            self._unknown(document, (field,), "is required")

    def _unknown(self, document: Document, path: Path, message: str) -> None:
        self.unidentified = True
        value = document.value
        kind = value.get("kind") if isinstance(value, dict) else None
        ref = _ref_of(value, kind) if isinstance(kind, str) else None
        self._report(Level.ERROR, SCHEMA, document, path, ref=ref, message=message)

    def _known(self, document: Document, kind: Kind) -> None:
        ref = _ref_of(document.value, kind.qualified, namespaced=kind.namespaced)
        item, found = read_value(document.value, kind, problems=document.problems)
        for finding in found:
            self._report(
                finding.level, finding.code, document, finding.path,
                ref=ref, message=finding.message,
            )  # fmt: skip
        if item is None:
            self._reject(ref)
        else:
            self._accept(item, document.tree.line)

    def _reject(self, ref: ObjectRef | None) -> None:
        if ref is None:
            self.unidentified = True
        else:
            self.rejected.add(ref)

    def _accept(self, item: Object, line: int) -> None:
        record = Record.of(item, self._origin(line))
        first = self.objects.setdefault(record.ref, record)
        if first is not record:
            self.diagnostics.append(
                Diagnostic(
                    level=Level.ERROR,
                    code="DuplicateObject",
                    ref=record.ref,
                    file=self.file,
                    line=line,
                    message=f"is in this file twice; the one at line {first.origin.line} is used",
                )
            )

    def _origin(self, line: int) -> Provenance:
        """Return the origin of what is at a line: JSON often has all objects in one."""
        if self._last.line != line:
            self._last = Provenance("file", self.file, line)
        return self._last

    def _report(
        self,
        level: Level,
        code: str,
        document: Document,
        path: Path,
        *,
        ref: ObjectRef | None,
        message: str,
    ) -> None:
        self.diagnostics.append(
            Diagnostic(
                level=level,
                code=code,
                message=message,
                ref=ref,
                field=format_path(path),
                file=self.file,
                line=document.tree.locate(path),
            )
        )


_COMMON: Final = frozenset({"metadata", "spec", "status", "data", "items"})
_HEADER: Final = msgspec.json.Decoder(_Header)


def _ref_of(value: Any, kind: str, *, namespaced: bool = True) -> ObjectRef | None:
    """Return the reference that raw data names, None when it has no readable name."""
    meta = value.get("metadata") if isinstance(value, dict) else None
    name = meta.get("name") if isinstance(meta, dict) else None
    if not isinstance(name, str) or not name:
        return None
    namespace = meta.get("namespace") if isinstance(meta, dict) else None
    if not isinstance(namespace, str) or not namespace:
        namespace = DEFAULT_NAMESPACE
    return ObjectRef(kind, namespace if namespaced else "", name)


def unreadable(file: str, error: UnreadableError) -> Diagnostic:
    """Return the diagnostic for a text that cannot be read."""
    return Diagnostic(
        level=Level.ERROR, code=UNREADABLE, message=str(error), file=file, line=error.line
    )
