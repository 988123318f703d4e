"""CustomResourceDefinitions of Istio's kinds, as plain data.

Owns what surrounds a schema: names, versions, status, columns. The rule that is easy to break: the
same model gives the same bytes, because `deploy/` keeps a copy that a test compares.
"""

from __future__ import annotations

from typing import Any, Final

from controlplane.crds.kinds import AGE, CONDITIONS, SHOWN, Column, Shown, defined
from controlplane.crds.structural import INT_OR_STRING, PRESERVE, Schema, schema_of
from controlplane.model.kinds import Kind, Untranslated

_KEEP: Final = {"helm.sh/resource-policy": "keep"}
"""Uninstalling a chart must not take every object of the mesh with it."""


def definitions() -> list[dict[str, Any]]:
    """Return the definitions of all kinds, in the order of their names."""
    return [definition(kind) for kind in defined()]


def definition(kind: Kind) -> dict[str, Any]:
    """Return the definition of one kind, in the form of apiextensions.k8s.io/v1."""
    shown = SHOWN[kind.kind]
    names: dict[str, Any] = {
        "categories": ["istio-io", kind.group.replace(".", "-")],
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
    }
    if shown.short_names:
        names["shortNames"] = list(shown.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"annotations": dict(_KEEP), "name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [_version(kind, shown, version) for version in kind.versions],
        },
    }


def _version(kind: Kind, shown: Shown, version: str) -> dict[str, Any]:
    return {
        "additionalPrinterColumns": [
            _column(column) for column in (*shown.columns, AGE, *CONDITIONS)
        ],
        "name": version,
        "schema": {"openAPIV3Schema": _object_schema(kind, shown)},
        "served": True,
        "storage": version == shown.stored,
        "subresources": {"status": {}},
    }


def _column(column: Column) -> dict[str, Any]:
    made = {
        "description": column.description,
        "jsonPath": column.path,
        "name": column.name,
        "type": column.type,
    }
    return {**made, "priority": 1} if column.wide else made


def _object_schema(kind: Kind, shown: Shown) -> Schema:
    if kind.model is Untranslated:
        return {
            "type": "object",
            "description": shown.about,
            "properties": {
                "spec": {
                    "type": "object",
                    "description": f"{shown.about} Every field is kept as it is.",
                    PRESERVE: True,
                },
                "status": _status(),
            },
        }
    schema = schema_of(kind.model)
    properties = schema["properties"]
    for name in ("apiVersion", "kind", "metadata"):  # the API server describes these itself
        del properties[name]
    required = [name for name in schema.pop("required", ()) if name in properties]
    if required:
        schema["required"] = required
    properties["status"] = _status()
    return schema


def _status() -> Schema:
    """The status that Istio's kinds share, meta.istio.io IstioStatus; other fields are kept."""
    return {
        "type": "object",
        "description": "What became of the object; written by the control plane.",
        PRESERVE: True,
        "properties": {
            "conditions": {
                "type": "array",
                "description": "What holds of the object, by type.",
                "items": {
                    "type": "object",
                    "description": "One statement about the object.",
                    "properties": {
                        "lastProbeTime": _time("When the statement was last checked."),
                        "lastTransitionTime": _time("When the status last changed."),
                        "message": _text("The reason in a sentence."),
                        "observedGeneration": _generation(),
                        "reason": _text("The reason in one word."),
                        "status": _text("True, False or Unknown."),
                        "type": _text("Name of the statement."),
                    },
                },
            },
            "observedGeneration": _generation(),
            "validationMessages": {
                "type": "array",
                "description": "What is wrong with the object.",
                "items": {
                    "type": "object",
                    "description": "One finding.",
                    PRESERVE: True,
                    "properties": {
                        "documentationUrl": _text("Where the code is explained."),
                        "level": {
                            **_text("How serious it is."),
                            "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"],
                        },
                        "type": {
                            "type": "object",
                            "description": "Which finding it is.",
                            "properties": {
                                "code": _text("Code of the finding, such as IST0101."),
                                "name": _text("Name of the finding."),
                            },
                        },
                    },
                },
            },
        },
    }


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _time(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


def _generation() -> Schema:
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "description": "Generation of the object that this is about.",
        INT_OR_STRING: True,
    }
