"""Objects with every field of a struct type set, for tests of schemas and of round trips."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from controlplane.crds.unions import UNIONS
from controlplane.model.base import Duration, FrozenDict, Model
from controlplane.model.kinds import Kind
from controlplane.model.schema import fields_of

VARIANTS = 4
"""As many as the largest union has members: together they set every field there is."""


def full_object(kind: Kind, version: str, variant: int, *, name: str) -> dict[str, Any]:
    """Return an object of a kind with a struct type: of each union the variant's member is set."""
    made = full_value(kind.model, variant)
    return {
        "apiVersion": f"{kind.group}/{version}",
        "kind": kind.kind,
        "metadata": {"name": name},
        "spec": made["spec"],
    }


def full_value(kind: Any, variant: int) -> Any:
    """Return plain data for a type, with every field set."""
    origin = get_origin(kind)
    match kind:
        case _ if origin in (Union, types.UnionType):
            parts = [part for part in get_args(kind) if part is not type(None)]
            return full_value(parts[variant % len(parts)], variant)
        case _ if origin is Annotated:
            base, *notes = get_args(kind)
            meta = next(note for note in notes if isinstance(note, msgspec.Meta))
            ends = [end for end in (meta.ge, meta.le) if end is not None]
            return base(ends[variant % len(ends)]) if ends else full_value(base, variant)
        case _ if origin is Literal:
            return get_args(kind)[variant % len(get_args(kind))]
        case _ if origin is tuple:
            return [full_value(get_args(kind)[0], variant)]
        case _ if origin is FrozenDict:
            return {"key": full_value(get_args(kind)[1], variant)}
        case _ if kind is Any:
            return {"deep": [{"down": variant}]}
        case _ if kind is Duration:
            return ("1.5s", "0s", "1h30m", "250ms")[variant % 4]
        case _ if isinstance(kind, type) and issubclass(kind, Model):
            return _struct(kind, variant)
        case _:
            return {str: "text", bool: True, int: 7, float: 1.5}[kind]


def _struct(model: type[Model], variant: int) -> dict[str, Any]:
    left_out = {
        name
        for names in UNIONS.get(model, ())
        for index, name in enumerate(names)
        if index != variant % len(names)
    }
    return {
        field.name: full_value(field.type, variant)
        for field in fields_of(model)
        if field.name not in left_out
    }
