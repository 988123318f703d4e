"""Whether plain data fits a struct type, and every place where it does not.

Two ways to the same answer: `strict_type` makes a mirror of a struct type that refuses unknown
fields, for a fast yes or no; `mistakes` walks the data slowly and names everything that is
wrong with its path. The rule that is easy to break: both must agree on what is legal.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from controlplane.model.base import Duration, FrozenDict, Model, dec_hook
from controlplane.model.diagnostics import Level
from controlplane.model.kinds import suggestion
from controlplane.model.meta import METADATA_IGNORED, Object, ObjectMeta

_LISTS: Final = (tuple, Sequence)

Path = tuple[str | int, ...]
_IDENTITY: Final = ("apiVersion", "kind")
_GUESSES: Final = 20
"""Unknown fields of one struct that are compared with the known ones: more are no misspellings."""


class Mistake(NamedTuple):
    """One thing that is wrong, where it is, and a sentence for the user."""

    path: Path
    message: str
    unknown_field: bool = False


class Finding(NamedTuple):
    """A mistake with its level and code: a Diagnostic before it knows object, file and line."""

    level: Level
    code: str
    path: Path
    message: str


class FieldType(NamedTuple):
    """A field of a struct as it is spelt on the wire."""

    name: str
    type: Any
    required: bool


def format_path(path: Iterable[str | int]) -> str:
    """Return `spec.http[0].match[1].headers[end-user].exact` for the parts of a path.

    A part with a character that no field name has is a key of a map and goes in brackets.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part}]"
    return text


@cache
def fields_of(model: type[Model]) -> tuple[FieldType, ...]:
    """Return the fields of a struct type; objects also have `apiVersion` and `kind`."""
    own = tuple(
        FieldType(field.encode_name, _without_null(field.type, field.default), field.required)
        for field in msgspec.structs.fields(model)
    )
    if issubclass(model, Object):
        return (*(FieldType(name, str, True) for name in _IDENTITY), *own)
    return own


def _without_null(kind: Any, default: Any) -> Any:
    """Return the type without null when null would differ from the field's absence."""
    if default is None or get_origin(kind) not in (Union, types.UnionType):
        return kind
    return Union[tuple(part for part in get_args(kind) if part is not type(None))]  # noqa: UP007


@cache
def ignored_of(model: type[Model]) -> frozenset[str]:
    """Return the fields that are legal in a struct type without being read."""
    if model is ObjectMeta:
        return METADATA_IGNORED
    found: frozenset[str] = getattr(model, "IGNORED", frozenset())
    return found


@cache
def strict_type(model: type[Model], ignored: Any) -> type[msgspec.Struct]:
    """Return a mirror of `model` that refuses unknown fields.

    `ignored` is the type of what is legal and not read: `msgspec.Raw` to decode JSON, `Any` to
    convert plain data.
    """
    fields: list[Any] = [
        (f"field{index}", _strict(field.type, ignored), msgspec.field(name=field.name))
        if field.required
        else (
            f"field{index}",
            _strict(field.type, ignored) | msgspec.UnsetType,
            msgspec.field(name=field.name, default=msgspec.UNSET),
        )
        for index, field in enumerate(fields_of(model))
    ]
    fields += [
        (f"ignored{index}", ignored, msgspec.field(name=name, default=None))
        for index, name in enumerate(sorted(ignored_of(model)))
    ]
    return msgspec.defstruct(
        f"Strict{model.__name__}", fields, kw_only=True, forbid_unknown_fields=True, gc=False
    )


def _strict(kind: Any, ignored: Any) -> Any:
    origin = get_origin(kind)
    if isinstance(kind, type) and origin is None and issubclass(kind, Model):
        return strict_type(kind, ignored)
    if origin in _LISTS:
        return list[_strict(get_args(kind)[0], ignored)]  # type: ignore[misc]  # built at run time
    if origin in (Union, types.UnionType):
        return Union[tuple(_strict(part, ignored) for part in get_args(kind))]  # noqa: UP007
    if origin is FrozenDict:
        return dict[str, _strict(get_args(kind)[1], ignored)]  # type: ignore[misc]  # as above
    return kind


def mistakes(value: Any, model: type[Model]) -> Iterator[Mistake]:
    """Yield everything in plain data that does not fit `model`, in the order of the data.

    A null field counts as absent, as in the JSON form of protobuf and in Kubernetes.
    """
    yield from _walk(value, model, ())


def _walk(value: Any, kind: Any, path: Path) -> Iterator[Mistake]:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part not in (type(None), msgspec.UnsetType)]
        if len(parts) == 1:
            yield from _walk(value, parts[0], path)
            return
    elif isinstance(kind, type) and origin is None and issubclass(kind, Model):
        yield from _walk_struct(value, kind, path)
        return
    elif origin in _LISTS:
        if isinstance(value, list):
            for index, entry in enumerate(value):
                yield from _walk(entry, get_args(kind)[0], (*path, index))
        else:
            yield Mistake(path, f"must be a list, not {_shown(value)}")
        return
    elif origin is FrozenDict:
        yield from _walk_map(value, get_args(kind)[1], path)
        return
    yield from _leaf(value, kind, path)


def _walk_struct(value: Any, model: type[Model], path: Path) -> Iterator[Mistake]:
    if not isinstance(value, Mapping):
        yield Mistake(path, f"must be an object, not {_shown(value)}")
        return
    known = {field.name: field for field in fields_of(model)}
    ignored = ignored_of(model)
    unknown = [key for key in value if key not in known and key not in ignored]
    for key, entry in value.items():
        field = known.get(key)
        if field is not None and entry is not None:
            yield from _walk(entry, field.type, (*path, key))
        elif field is None and key not in ignored:
            names = sorted(known.keys() | ignored)
            hint = suggestion(key, names) if len(unknown) <= _GUESSES else ""
            message = f"unknown field {key!r}{hint}"
            yield Mistake((*path, key), message, unknown_field=True)
    for name, field in known.items():
        if field.required and value.get(name) is None and not _spelt(name, unknown):
            yield Mistake((*path, name), "is required")


def _spelt(name: str, unknown: list[str]) -> bool:
    """Whether one of the unknown fields is probably the missing one, misspelt."""
    lowered = [key.lower() for key in unknown[:_GUESSES]]
    return bool(difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5))


def _walk_map(value: Any, kind: Any, path: Path) -> Iterator[Mistake]:
    if not isinstance(value, Mapping):
        yield Mistake(path, f"must be an object, not {_shown(value)}")
    elif kind is not Any:
        for key, entry in value.items():
            if entry is not None:
                yield from _walk(entry, kind, (*path, key))


def _leaf(value: Any, kind: Any, path: Path) -> Iterator[Mistake]:
    origin = get_origin(kind)
    if origin is Literal:
        allowed = [str(word) for word in get_args(kind)]
        if not isinstance(value, str):
            yield Mistake(path, f"must be one of {', '.join(allowed)}, not {_shown(value)}")
        elif value not in allowed:
            hint = suggestion(value, allowed)
            yield Mistake(path, f"{value!r} is not one of {', '.join(allowed)}{hint}")
        return
    if kind is Duration and not isinstance(value, str):
        yield Mistake(path, f"must be a duration such as 1.5s, not {_shown(value)}")
        return
    try:
        msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        yield Mistake(path, _sentence(str(error), value, kind))


_WORDS: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "a boolean",
}


def _sentence(message: str, value: Any, kind: Any) -> str:
    """Return msgspec's reason in the words of the other messages."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    wanted = _WORDS.get(getattr(base, "__name__", ""), "")
    right = isinstance(value, int if base is int else (int, float)) and not isinstance(value, bool)
    if base in (int, float) and right:
        _, _, bound = message.partition(" `int` ")
        bound = bound or message.partition(" `float` ")[2]
        return f"{value} is out of range, it must be {bound}" if bound else f"{value}: {message}"
    if wanted:
        hint = (
            " (put it in quotes)" if base is str and not isinstance(value, Mapping | list) else ""
        )
        return f"must be {wanted}, not {_shown(value)}{hint}"
    return message


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the string {value!r}" if len(value) < 60 else "a string"
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case _:
            return f"the number {value}"


def without_nulls(value: Any) -> Any:
    """Return plain data without the object fields that are null."""
    match value:
        case dict():
            return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
        case list():
            return [without_nulls(entry) for entry in value]
        case _:
            return value
