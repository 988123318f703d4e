"""CustomResourceDefinitions from the model: complete, described, the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controlplane.crds.definitions import definitions
from controlplane.crds.kinds import GROUPS, SHOWN, defined
from controlplane.crds.sentences import sentences
from controlplane.crds.text import as_yaml
from controlplane.crds.unions import UNIONS
from controlplane.model.base import Model
from controlplane.model.kinds import KINDS, Kind, Untranslated
from controlplane.model.schema import fields_of

APPLY_LIMIT = 262_144
"""Bytes of the annotation in which `kubectl apply` keeps what was applied."""


def _schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for item in definitions():
        for version in item["spec"]["versions"]:
            yield item["metadata"]["name"], version["schema"]["openAPIV3Schema"]


def _walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from _walk(below, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from _walk(schema[word], f"{path}[]")


def _structs() -> dict[str, type[Model]]:
    """All struct types below the kinds, by name."""
    found: dict[str, type[Model]] = {}
    waiting: list[Any] = [kind.model for kind in defined() if kind.model is not Untranslated]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, Model):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                waiting += [field.type for field in fields_of(kind)]
        else:
            waiting += getattr(kind, "__args__", ())
    return found


def test_every_kind_of_istio_has_a_definition() -> None:
    """A row of the table of kinds is enough, together with how kubectl shows it."""
    wanted = {kind.kind for kind in KINDS.values() if kind.group in GROUPS}
    assert {item["spec"]["names"]["kind"] for item in definitions()} == wanted == set(SHOWN)


def test_one_version_is_stored() -> None:
    """Exactly one, of those that are served."""
    for item in definitions():
        stored = [entry["name"] for entry in item["spec"]["versions"] if entry["storage"]]
        assert len(stored) == 1, item["metadata"]["name"]


def test_every_struct_is_described() -> None:
    """`kubectl explain` has a sentence for each object that it descends into."""
    missing = [
        f"{name} {path}"
        for name, schema in _schemas()
        for path, below in _walk(schema, "")
        if below.get("type") == "object" and "properties" in below and not below.get("description")
    ]
    assert not missing


def test_sentences_are_about_fields_that_exist() -> None:
    """A field that was renamed takes its sentence along."""
    structs = _structs()
    for name, fields in sentences().items():
        assert name in structs, name
        known = {field.name for field in fields_of(structs[name])}
        assert set(fields) <= known, (name, set(fields) - known)


def test_unions_are_of_fields_that_exist() -> None:
    """A misspelt name would make the API server refuse the right one."""
    for model, unions in UNIONS.items():
        known = {field.name for field in fields_of(model)}
        assert all(set(names) <= known for names in unions), model


@pytest.mark.parametrize("kind", defined(), ids=lambda kind: kind.kind)
def test_a_definition_is_small_enough_to_apply(kind: Kind) -> None:
    """Also for `kubectl apply` without --server-side."""
    (item,) = (entry for entry in definitions() if entry["spec"]["names"]["kind"] == kind.kind)
    assert len(json.dumps(item)) < APPLY_LIMIT


def test_the_text_is_the_same_every_time_and_says_the_same() -> None:
    """No set, no address of an object, no reference to another document gets into it."""
    text = as_yaml(definitions())
    assert text == as_yaml(definitions())
    assert list(yaml.load_all(text, Loader=yaml.CSafeLoader)) == definitions()
    assert "&id" not in text
