"""The table of what has no effect yet is true to the types, and speaks up."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest

from controlplane.model.base import FrozenDict, Model
from controlplane.model.diagnostics import Level
from controlplane.model.gateway import GATEWAY_PROTOCOLS
from controlplane.model.matching import JsonObject
from controlplane.model.mesh import MeshConfig, OutboundTrafficPolicy, ProxyConfig
from controlplane.model.schema import fields_of, format_path
from controlplane.model.unsupported import TABLE, Unsupported, unsupported
from controlplane.sources.parse import parse_file

ROWS = [(kind, row) for kind, rows in TABLE.items() for row in rows]


def bare(kind: Any) -> Any:
    """Return the type without null."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    return kind


def type_at(model: Any, parts: list[str]) -> Any:
    """Return the type of the field at a path of the table; fails when there is none."""
    for part in parts:
        fields = {field.name: field.type for field in fields_of(model)}
        name = part.removesuffix("[]")
        assert name in fields, f"{model.__name__} has no field {name}"
        model = bare(fields[name])
        assert (get_origin(model) is tuple) >= part.endswith("[]")
        if part.endswith("[]"):
            model = get_args(model)[0]
    return model


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_every_path_of_the_table_exists(kind: type[Model], row: Unsupported) -> None:
    found = type_at(kind, row.path.split("."))
    if row.values:
        words = set(GATEWAY_PROTOCOLS) if found is str else set(get_args(found))
        assert row.values <= words
    if row.keys:
        assert get_origin(found) is FrozenDict


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        (MeshConfig, ""),
        (ProxyConfig, "defaultConfig."),
        (OutboundTrafficPolicy, "outboundTrafficPolicy."),
    ],
)
def test_settings_without_a_type_are_all_in_the_table(model: type[Model], prefix: str) -> None:
    opaque = {
        f"{prefix}{field.name}"
        for field in fields_of(model)
        if bare(field.type) == JsonObject or get_args(field.type)[:1] == (JsonObject,)
    }
    assert opaque <= {row.path for row in TABLE[MeshConfig]}


def test_what_has_no_effect_gives_a_warning_and_stays() -> None:
    parsed = parse_file(
        "x.yaml",
        b"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x}
spec:
  hosts: [x]
  tcp:
  - route:
    - destination: {host: x}
  http:
  - match:
    - headers:
        "@request.auth.claims.sub": {exact: me}
        ok: {exact: me}
    delegate: {name: other}
""",
    )
    assert len(parsed.objects) == 1
    assert [(found.level, found.field, found.line) for found in parsed.diagnostics] == [
        (Level.WARNING, "spec.tcp", 6),
        (Level.WARNING, "spec.http[0].match[0].headers[@request.auth.claims.sub]", 12),
        (Level.WARNING, "spec.http[0].delegate", 14),
    ]
    assert {found.message for found in parsed.diagnostics} == {
        "is not supported yet and has no effect"
    }


def test_only_some_values_may_have_no_effect() -> None:
    mesh = msgspec.convert({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}, MeshConfig)
    assert list(unsupported(mesh)) == []
    mesh = msgspec.convert({"outboundTrafficPolicy": {"mode": "ALLOW_ANY_DYNAMIC_DNS"}}, MeshConfig)
    (found,) = unsupported(mesh)
    assert format_path(found.path) == "outboundTrafficPolicy.mode"
    assert found.message.startswith("ALLOW_ANY_DYNAMIC_DNS ")
