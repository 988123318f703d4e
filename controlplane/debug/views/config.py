"""configz, resourcesz, mesh: what users configured, with what is wrong and where it came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from controlplane.debug.render import builtins
from controlplane.debug.views.kinds import shown_kind
from controlplane.debug.views.request import Rendering, ViewRequest
from controlplane.model.diagnostics import Diagnostic, order
from controlplane.model.kinds import Untranslated
from controlplane.model.meta import Object, ObjectRef, Provenance
from controlplane.model.packed import PackedSlice, unpacked
from controlplane.model.snapshot import Snapshot

Findings = Mapping[ObjectRef, list[Diagnostic]]
CONFIG_FILE: Final = "ConfigFile"
CONTROL_PLANE: Final = "ControlPlane"
_METADATA_FIRST: Final = ("name", "namespace")


def configz(request: ViewRequest) -> Rendering:
    """Every object as Kubernetes writes it, with `provenance` and `diagnostics` added.

    A finding about an object that was refused, or about a file that cannot be read, has an
    entry of its own, so that no finding is invisible: of the object's kind, `ConfigFile`, or
    `ControlPlane` when neither is known.
    """
    diagnostics = {
        *request.snapshot.diagnostics,
        *request.serving.diagnostics,
        *(diagnostic for _, diagnostic in request.class_diagnostics()),
    }
    return partial(config_objects, request.snapshot, tuple(sorted(diagnostics, key=order)))


def config_objects(snapshot: Snapshot, diagnostics: Iterable[Diagnostic]) -> list[dict[str, Any]]:
    """Return the objects by kind, namespace and name, then what has findings but no object."""
    by_ref: dict[ObjectRef, list[Diagnostic]] = defaultdict(list)
    by_file: dict[str, list[Diagnostic]] = defaultdict(list)
    for diagnostic in diagnostics:
        if diagnostic.ref is not None:
            by_ref[diagnostic.ref].append(diagnostic)
        else:
            by_file[diagnostic.file].append(diagnostic)
    shown = []
    for ref in sorted(snapshot.objects):
        provenance = snapshot.provenance.get(ref)
        found = by_ref.pop(ref, [])
        if provenance is not None and provenance.file:
            # The file no longer parses: what is served is its last good content.
            found = [*found, *by_file.get(provenance.file, ())]
        shown.append(_object(snapshot.objects[ref], provenance, found))
    shown += [
        _stand_in(kind=ref.kind, name=ref.name, namespace=ref.namespace, findings=by_ref[ref])
        for ref in sorted(by_ref)
    ]
    shown += [
        _stand_in(
            kind=CONFIG_FILE if file else CONTROL_PLANE,
            name=file or "mesh",
            namespace="",
            findings=by_file[file],
        )
        for file in sorted(by_file)
    ]
    return shown


def _object(
    item: Object, provenance: Provenance | None, findings: list[Diagnostic]
) -> dict[str, Any]:
    fields: dict[str, Any] = builtins(unpacked(item) if isinstance(item, PackedSlice) else item)
    metadata = dict(fields.pop("metadata", {}))
    first = {key: metadata.pop(key) for key in _METADATA_FIRST if key in metadata}
    if provenance is not None:
        metadata |= {
            key: value
            for key, value in (
                ("resourceVersion", provenance.resource_version),
                ("generation", provenance.generation),
                ("uid", provenance.uid),
            )
            if value
        }
    kind = shown_kind(item.ref.kind)
    if isinstance(item, Untranslated):
        fields = fields.get("body", {})
    shown = {
        "kind": kind.kind,
        "apiVersion": kind.api_version,
        "metadata": first | metadata,
        **fields,
    }
    if provenance is not None:
        shown["provenance"] = _provenance(provenance)
    shown["diagnostics"] = [diagnostic_data(finding, provenance) for finding in findings]
    return shown


def _provenance(provenance: Provenance) -> dict[str, Any]:
    if provenance.file:
        return {
            "source": provenance.source,
            "file": provenance.file,
            "line": provenance.line,
        }
    return {"source": provenance.source, "resourceVersion": provenance.resource_version}


def _stand_in(
    *, kind: str, name: str, namespace: str, findings: list[Diagnostic]
) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    shown = shown_kind(kind)
    return {
        "kind": shown.kind,
        "apiVersion": "pylot/v1" if kind in (CONFIG_FILE, CONTROL_PLANE) else shown.api_version,
        "metadata": metadata,
        "diagnostics": [diagnostic_data(finding) for finding in findings],
    }


def diagnostic_data(diagnostic: Diagnostic, provenance: Provenance | None = None) -> dict[str, Any]:
    """Return one finding; what it does not know is left out.

    A finding of translation knows no file: it gets that of the object (`provenance`).
    """
    data: dict[str, Any] = {
        "code": diagnostic.code,
        "level": diagnostic.level.value,
        "message": diagnostic.message,
    }
    if diagnostic.ref is not None:
        data["origin"] = str(diagnostic.ref)
    if diagnostic.field:
        data["field"] = diagnostic.field
    if diagnostic.file:
        data["file"] = diagnostic.file
        data["line"] = diagnostic.line
    elif provenance is not None and provenance.file:
        data["file"] = provenance.file
        data["line"] = provenance.line
    return data


def resourcesz(request: ViewRequest) -> Rendering:
    """The group, version and kind of everything that is configured."""
    kinds = sorted({ref.kind for ref in request.snapshot.objects})
    return partial(_kinds, kinds)


def _kinds(kinds: list[str]) -> list[dict[str, str]]:
    return [shown_kind(kind)._asdict() for kind in kinds]


def mesh(request: ViewRequest) -> Rendering:
    """The MeshConfig in force, defaults included."""
    return partial(with_defaults, request.snapshot.mesh)


def with_defaults(value: Any) -> Any:
    """Return a struct as plain data, fields that have their default included, None left out."""
    fields = getattr(value, "__struct_fields__", None)
    if fields is None:
        if isinstance(value, tuple):
            return [with_defaults(entry) for entry in value]
        return builtins(value)
    names = dict(zip(fields, value.__struct_encode_fields__, strict=True))
    return {
        names[field]: with_defaults(getattr(value, field))
        for field in fields
        if getattr(value, field) is not None
    }
