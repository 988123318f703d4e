"""Any field of any kind, misspelt, gives exactly one error, with its line and its path."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml

from controlplane.model.base import Duration, FrozenDict, Model
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.kinds import KINDS, Kind, Untranslated
from controlplane.model.mesh import MeshConfig
from controlplane.model.schema import Path, fields_of, format_path, ignored_of
from controlplane.sources.mesh_config import parse_mesh_config
from controlplane.sources.parse import parse_file

TYPED = [kind for kind in KINDS.values() if kind.model is not Untranslated]


def sample(kind: Any) -> Any:
    """Return data that fits a type, with every field of every struct filled in."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return sample(next(part for part in get_args(kind) if part is not type(None)))
    if origin is Annotated:
        return sample(get_args(kind)[0])
    if origin is Literal:
        return get_args(kind)[0]
    if origin in (tuple, Sequence):
        return [sample(get_args(kind)[0])]
    if origin is FrozenDict:
        value = get_args(kind)[1]
        return {} if value is Any else {"key": sample(value)}
    if issubclass(kind, Model):
        return {field.name: sample(field.type) for field in fields_of(kind)}
    if kind is Duration:
        return "1s"
    return {str: "a", int: 1, float: 1.0, bool: True}[kind]


def document(kind: Kind) -> dict[str, Any]:
    """Return an object of a kind with every field that it can have."""
    data: dict[str, Any] = sample(kind.model)
    data["apiVersion"], data["kind"] = kind.api_versions[0], kind.kind
    data["metadata"] |= {"creationTimestamp": "2024-01-01T00:00:00Z", "name": "a"}
    return data


def fields(value: Any, kind: Any, path: Path = ()) -> Iterator[tuple[Path, frozenset[str]]]:
    """Yield the path of every struct field in data, with the names that are legal beside it."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        yield from fields(value, next(p for p in get_args(kind) if p is not type(None)), path)
    elif origin in (tuple, Sequence):
        yield from fields(value[0], get_args(kind)[0], (*path, 0))
    elif origin is FrozenDict:
        if value:
            yield from fields(value["key"], get_args(kind)[1], (*path, "key"))
    elif isinstance(kind, type) and issubclass(kind, Model):
        legal = frozenset(field.name for field in fields_of(kind)) | ignored_of(kind)
        for field in fields_of(kind):
            yield (*path, field.name), legal
            yield from fields(value[field.name], field.type, (*path, field.name))


def slips(name: str) -> Iterator[str]:
    """Yield ways to misspell a name."""
    middle = len(name) // 2
    yield f"{name[:middle]}q{name[middle:]}"
    yield name[:-1]
    if len(name) > 2:
        yield f"{name[0]}{name[2]}{name[1]}{name[3:]}"


def renamed(data: Any, path: Path, wrong: str) -> str:
    """Return the data as text with the field at `path` called `wrong`, in the same place."""
    data = json.loads(json.dumps(data))
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    entries = [(wrong if key == path[-1] else key, entry) for key, entry in holder.items()]
    holder.clear()
    holder.update(entries)
    return yaml.safe_dump(data, sort_keys=False)


def judge(text: str, path: Path, found: tuple[Diagnostic, ...]) -> None:
    errors = [entry for entry in found if entry.level is Level.ERROR]
    assert [entry.field for entry in errors] == [format_path(path)], [str(e) for e in errors]
    row = text.splitlines()[errors[0].line - 1].strip().removeprefix("- ")
    assert row.startswith(f"{path[-1]}:")


@pytest.mark.parametrize("kind", TYPED, ids=[kind.kind for kind in TYPED])
def test_a_misspelt_field_of_an_object_gives_one_error(kind: Kind) -> None:
    data = document(kind)
    for number, (path, legal) in enumerate(fields(data, kind.model)):
        ways = [wrong for wrong in slips(str(path[-1])) if wrong and wrong not in legal]
        wrong = ways[number % len(ways)]  # each field one way, all ways among the fields
        text = renamed(data, path, wrong)
        parsed = parse_file("x.yaml", text.encode())
        judge(text, (*path[:-1], wrong), parsed.diagnostics)
        assert not parsed.objects


def test_a_misspelt_setting_of_the_mesh_gives_one_error() -> None:
    data = sample(MeshConfig)
    for path, legal in fields(data, MeshConfig):
        wrong = next(slips(str(path[-1])))
        assert wrong not in legal
        text = renamed(data, path, wrong)
        mesh, found = parse_mesh_config("x.yaml", text.encode())
        judge(text, (*path[:-1], wrong), found)
        assert mesh is None


@pytest.mark.parametrize("kind", TYPED, ids=[kind.kind for kind in TYPED])
def test_without_a_slip_every_field_fits(kind: Kind) -> None:
    parsed = parse_file("x.yaml", yaml.safe_dump(document(kind)).encode())
    schema = [entry for entry in parsed.diagnostics if "unknown field" in entry.message]
    assert not schema
    assert not parsed.unidentified
