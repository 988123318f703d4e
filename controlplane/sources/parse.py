"""The bytes of one file as model objects, with everything that is wrong with them.

Owns the way from text to checked objects: JSON goes straight to structs, YAML by plain data;
only when something does not fit does the slow pass look for every mistake and its line. Must
not know directories or watching. The rule that is easy to break: what is wrong with one object
stays with that object; only text that cannot be read at all spoils the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.model.base import dec_hook, freeze
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.kinds import Foreign, Kind, Unknown, Untranslated, find_kind
from controlplane.model.matching import JsonObject
from controlplane.model.meta import DEFAULT_NAMESPACE, Object, ObjectMeta, ObjectRef, Provenance
from controlplane.model.schema import (
    Finding,
    Mistake,
    Path,
    format_path,
    mistakes,
    strict_type,
    without_nulls,
)
from controlplane.model.unsupported import unsupported
from controlplane.model.validation import validate
from controlplane.sources.metadata import MetadataError, finish_metadata
from controlplane.sources.positions import Document, json_tree, yaml_documents
from controlplane.sources.text import UnreadableError, decode_text, json_parts

MAX_FILE_SIZE: Final = 256 * 1024 * 1024
SCHEMA: Final = "IST0106"  # Istio's SchemaValidationError


class ParsedFile(NamedTuple):
    """What one file says.

    `broken` means that the text as a whole cannot be read: `objects` are then those before the
    place where reading stopped. `unidentified` means that some object does not even say what it
    is. `rejected` are the objects that were left out because of an error.
    """

    file: str
    objects: tuple[tuple[Object, Provenance], ...] = ()
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
        self.objects: dict[ObjectRef, tuple[Object, Provenance]] = {}
        self.diagnostics: list[Diagnostic] = []
        self.rejected: set[ObjectRef] = set()
        self.unidentified = False

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
        if not isinstance(found, Kind) or found.model is Untranslated:
            self._slow_json(data, line)
            return
        try:
            _strict_decoder(found).decode(data)
            item = _decoder(found).decode(data)
            meta = finish_metadata(item.metadata, found)
        except (msgspec.DecodeError, UnicodeDecodeError, MetadataError, RecursionError):
            self._slow_json(data, line)
            return
        made = msgspec.structs.replace(item, metadata=meta)
        if next(_findings(made), None) is None:
            self._accept(made, line)
        else:
            self._slow_json(data, line)

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
        value = document.value
        ref = _ref_of(value, kind.qualified, namespaced=kind.namespaced)
        before = len(self.diagnostics)
        for mistake in (*document.problems, *_object_mistakes(value, kind)):
            self._report(
                Level.ERROR, SCHEMA, document, mistake.path, ref=ref, message=mistake.message
            )
        if len(self.diagnostics) == before:
            try:
                meta = finish_metadata(_metadata(value), kind)
            except MetadataError as error:
                path = ("metadata", error.field)
                self._report(Level.ERROR, SCHEMA, document, path, ref=ref, message=str(error))
        if len(self.diagnostics) > before:
            self._reject(ref)
            return
        item = _make(value, kind, meta)
        rejected = False
        for finding in _findings(item):
            rejected |= finding.level is Level.ERROR
            self._report(
                finding.level, finding.code, document, finding.path,
                ref=item.ref, message=finding.message,
            )  # fmt: skip
        if rejected:
            self._reject(item.ref)
        else:
            self._accept(item, document.tree.line)

    def _reject(self, ref: ObjectRef | None) -> None:
        if ref is None:
            self.unidentified = True
        else:
            self.rejected.add(ref)

    def _accept(self, item: Object, line: int) -> None:
        ref = item.ref
        first = self.objects.setdefault(ref, (item, Provenance("file", self.file, line)))
        if first[0] is not item:
            self.diagnostics.append(
                Diagnostic(
                    level=Level.ERROR,
                    code="DuplicateObject",
                    ref=ref,
                    file=self.file,
                    line=line,
                    message=f"is in this file twice; the one at line {first[1].line} is used",
                )
            )

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


@cache
def _strict_decoder(kind: Kind) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(strict_type(kind.model, msgspec.Raw), dec_hook=dec_hook)


@cache
def _decoder(kind: Kind) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind.model, dec_hook=dec_hook)


def _findings(item: Object) -> Iterator[Finding]:
    """Yield what is wrong with the values of an object that fits its type."""
    yield from validate(item)
    yield from unsupported(item)


def _object_mistakes(value: dict[str, Any], kind: Kind) -> Iterator[Mistake]:
    if kind.model is not Untranslated:
        if _fits(value, kind):
            return
        yield from mistakes(value, kind.model)
        return
    for mistake in mistakes(value.get("metadata", {}), ObjectMeta):
        yield mistake._replace(path=("metadata", *mistake.path))


def _fits(value: dict[str, Any], kind: Kind) -> bool:
    try:
        msgspec.convert(without_nulls(value), strict_type(kind.model, Any), dec_hook=dec_hook)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def _metadata(value: dict[str, Any]) -> ObjectMeta:
    plain = without_nulls(value.get("metadata") or {})
    return msgspec.convert(plain, ObjectMeta, dec_hook=dec_hook)


def _make(value: dict[str, Any], kind: Kind, meta: ObjectMeta) -> Object:
    if kind.model is not Untranslated:
        item = msgspec.convert(without_nulls(value), kind.model, dec_hook=dec_hook)
        return msgspec.structs.replace(item, metadata=meta)
    body = None
    if not kind.holds_secrets:
        rest = {
            key: entry
            for key, entry in value.items()
            if key not in ("apiVersion", "kind", "metadata")
        }
        body = JsonObject(freeze(without_nulls(rest)))
    return Untranslated(metadata=meta, qualified_kind=kind.qualified, body=body)


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
        level=Level.ERROR, code="Unreadable", message=str(error), file=file, line=error.line
    )
