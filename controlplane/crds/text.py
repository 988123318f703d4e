"""Definitions as YAML or JSON text: the same definitions give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml


class _Dumper(yaml.CSafeDumper):
    """Writes what occurs twice a second time, instead of a reference to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(objects: Iterable[dict[str, Any]]) -> str:
    """Return one document for each object, keys in the order of their names."""
    return yaml.dump_all(
        objects, Dumper=_Dumper, explicit_start=True, allow_unicode=True, width=100
    )


def as_json(objects: Iterable[dict[str, Any]]) -> str:
    """Return one List of the objects."""
    items = {"apiVersion": "v1", "items": list(objects), "kind": "List"}
    return json.dumps(items, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
