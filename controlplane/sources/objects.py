"""One object as data: the struct it makes, and everything that is wrong with it.

The same rules for every source and for the admission webhook. Must not know files, lines or an
API server. The rule that is easy to break: what is an error keeps an object out; an unknown
field is one only where a person can have misspelt it, for a newer API server has fields that
nobody here has heard of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.model.base import dec_hook, freeze
from controlplane.model.diagnostics import Level
from controlplane.model.kinds import Kind, Untranslated
from controlplane.model.matching import JsonObject
from controlplane.model.meta import Object, ObjectMeta
from controlplane.model.packed import packed
from controlplane.model.schema import Finding, Mistake, mistakes, strict_type, without_nulls
from controlplane.model.unsupported import unsupported
from controlplane.model.validation import validate
from controlplane.sources.metadata import MetadataError, finish_metadata

SCHEMA: Final = "IST0106"  # Istio's SchemaValidationError
UNREADABLE: Final = "Unreadable"
"""What has no structure that objects could be found in."""
SCHEMA_WARNING: Final = "IST0133"  # Istio's SchemaWarning
MAX_FINDINGS: Final = 100
"""Findings that are listed of one object: to find and to show them costs time and memory."""


class Read(NamedTuple):
    """An object that was read, or None when an error keeps it out; and what there is to say."""

    item: Object | None
    findings: tuple[Finding, ...] = ()


def read_value(
    value: dict[str, Any],
    kind: Kind,
    *,
    problems: Iterable[Mistake] = (),
    unknown_fields: Level = Level.ERROR,
) -> Read:
    """Return what plain data of a kind says; `problems` are those of its text."""
    mistaken = itertools.chain(problems, _object_mistakes(value, kind))
    found = list(_first(_finding(mistake, unknown_fields) for mistake in mistaken))
    if _wrong(found):
        return Read(None, tuple(found))
    try:
        item = _make(value, kind)
    except MetadataError as error:
        path = ("metadata", error.field)
        return Read(None, (*found, Finding(Level.ERROR, SCHEMA, path, str(error))))
    found += _first(findings(item))
    return Read(None if _wrong(found) else packed(item), tuple(found))


def decode_flawless(data: bytes | memoryview, kind: Kind, *, strict: bool = True) -> Object | None:
    """Return the object that JSON says, None unless there is nothing at all to say against it.

    The fast way: for None, `read_value` knows why. Without `strict` unknown fields pass.
    """
    try:
        if strict:
            _strict_decoder(kind).decode(data)
        item = _decoder(kind).decode(data)
        meta = finish_metadata(item.metadata, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, MetadataError, RecursionError):
        return None
    made = msgspec.structs.replace(item, metadata=meta)
    return packed(made) if next(findings(made), None) is None else None


def findings(item: Object) -> Iterator[Finding]:
    """Yield what is wrong with the values of an object that fits its type."""
    yield from validate(item)
    yield from unsupported(item)


def _finding(mistake: Mistake, unknown_fields: Level) -> Finding:
    if mistake.unknown_field and unknown_fields is not Level.ERROR:
        return Finding(unknown_fields, SCHEMA_WARNING, mistake.path, mistake.message)
    return Finding(Level.ERROR, SCHEMA, mistake.path, mistake.message)


def _first(found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the first findings, and of the rest only that an error is among them."""
    yield from itertools.islice(found, MAX_FINDINGS)
    if _wrong(found):
        message = f"has more mistakes; the first {MAX_FINDINGS} are listed"
        yield Finding(Level.ERROR, SCHEMA, (), message)


def _wrong(found: Iterable[Finding]) -> bool:
    return any(finding.level is Level.ERROR for finding in found)


@cache
def _strict_decoder(kind: Kind) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(strict_type(kind.model, msgspec.Raw), dec_hook=dec_hook)


@cache
def _decoder(kind: Kind) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind.model, dec_hook=dec_hook)


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


def _make(value: dict[str, Any], kind: Kind) -> Object:
    plain = without_nulls(value.get("metadata") or {})
    meta = finish_metadata(msgspec.convert(plain, ObjectMeta, dec_hook=dec_hook), kind)
    if kind.model is not Untranslated:
        item: Object = msgspec.convert(without_nulls(value), kind.model, dec_hook=dec_hook)
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
