"""A struct type of the model as a structural OpenAPI v3 schema.

Owns how Python types become schemas. Must not know kinds, versions or YAML. The rule that is easy
to break: a schema names every field that the decoder of the same type accepts, because the API
server silently drops a field that its schema does not name.

Source of the rules: "Specifying a structural schema" in Kubernetes' documentation of custom
resources.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from controlplane.crds.sentences import sentence
from controlplane.crds.unions import OLD_SPELLINGS, UNIONS
from controlplane.model.base import Duration, FrozenDict, Model
from controlplane.model.schema import fields_of

Schema = dict[str, Any]

PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
DURATION: Final = r"^[-+]?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+)$"


def schema_of(model: type[Model]) -> Schema:
    """Return the schema of a struct type, with descriptions. Raises TypeError for a type without
    a schema, which is a mistake in the model."""
    properties: dict[str, Schema] = {}
    required = []
    for field in fields_of(model):
        schema = _value(field.type)
        inner = schema.get("items", schema).get("description", "")
        text = sentence(model, field.name) or inner
        if text:
            schema["description"] = text
        properties[field.name] = schema
        if field.required:
            required.append(field.name)
    for old, name in OLD_SPELLINGS.get(model, {}).items():
        properties[old] = {**properties[name], "description": f"An old spelling of {name}."}
    schema = {"type": "object", "description": describe(model), "properties": properties}
    if required:
        schema["required"] = sorted(required)
    unions = UNIONS.get(model, ())
    if len(unions) == 1:
        schema.update(_at_most_one(unions[0]))
    elif unions:
        schema["allOf"] = [_at_most_one(names) for names in unions]
    return schema


def describe(model: type[Model]) -> str:
    """Return the first paragraph of a struct's docstring in one line."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def _at_most_one(names: tuple[str, ...]) -> Schema:
    """The form of Istio's own definitions: none of the fields, or exactly one of them."""
    alone = [{"required": [name]} for name in names]
    return {"oneOf": [{"not": {"anyOf": alone}}, *alone]}


def _value(kind: Any) -> Schema:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(tuple(_parts(kind)))
    if origin is Annotated:
        return _ranged(*get_args(kind))
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    if origin is tuple:
        return {"type": "array", "items": _value(get_args(kind)[0])}
    if origin is FrozenDict:
        item = get_args(kind)[1]
        if item is Any:
            return {"type": "object", PRESERVE: True}
        return {"type": "object", "additionalProperties": _value(item)}
    if isinstance(kind, type) and issubclass(kind, Model):
        return schema_of(kind)
    if kind is Duration:
        return {"type": "string", "pattern": DURATION}
    if kind is Any:
        return {PRESERVE: True}
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    raise TypeError(f"no schema for {kind}")


_PLAIN: Final[dict[Any, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number", "format": "double"},
}


def _parts(kind: Any) -> Iterator[Any]:
    for part in get_args(kind):
        if part not in (type(None), msgspec.UnsetType):
            yield part


def _union(parts: tuple[Any, ...]) -> Schema:
    if len(parts) == 1:
        return _value(parts[0])
    if set(parts) == {int, str}:
        return {INT_OR_STRING: True}
    raise TypeError(f"no schema for a value that may be any of {parts}")


def _ranged(kind: Any, *notes: Any) -> Schema:
    schema = _value(kind)
    for note in notes:
        if isinstance(note, msgspec.Meta):
            limits = {
                "minimum": note.ge,
                "maximum": note.le,
                "minLength": note.min_length,
                "maxLength": note.max_length,
                "pattern": note.pattern,
            }
            schema.update({key: limit for key, limit in limits.items() if limit is not None})
    return schema
