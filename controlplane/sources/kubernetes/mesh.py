"""The settings of the mesh out of a ConfigMap: `istio`, or `istio-REVISION`, key `mesh`.

The rule that is easy to break: settings with a mistake are no settings, the last good ones stay;
but a ConfigMap that is gone means the defaults, as in istiod.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.kinds import KINDS
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectMeta, ObjectRef
from controlplane.sources.kubernetes.decode import Data, Entry, Identity
from controlplane.sources.mesh_config import parse_mesh_config

KEY: Final = "mesh"
CONFIG_MAP: Final = KINDS["", "ConfigMap"]


class MeshDocument(Object):
    """The ConfigMap, as far as it is read."""

    KIND: ClassVar[str] = "ConfigMap"
    mesh: MeshConfig | None = None  # None when the text has a mistake


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None


def config_map_name(revision: str) -> str:
    """Return the name of the ConfigMap that a control plane of a revision reads."""
    return "istio" if revision in ("", "default") else f"istio-{revision}"


def decode_config_map(data: Data, identity: Identity, *, root_namespace: str) -> Entry:
    """Return an entry whose item is a MeshDocument."""
    ref = ObjectRef(MeshDocument.KIND, *identity.key)
    try:
        text = (msgspec.json.decode(data, type=_ConfigMap).data or {}).get(KEY, "")
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = ""
    mesh, found = parse_mesh_config("", text.encode(), root_namespace=root_namespace)
    diagnostics = tuple(
        Diagnostic(
            level=entry.level,
            code=entry.code,
            message=entry.message if entry.field else f"line {entry.line}: {entry.message}",
            ref=ref,
            field=f"data.{KEY}.{entry.field}" if entry.field else f"data.{KEY}",
        )
        for entry in found
    )
    meta = ObjectMeta(name=identity.name, namespace=identity.namespace)
    return Entry(identity, MeshDocument(metadata=meta, mesh=mesh), diagnostics)
