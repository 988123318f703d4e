"""One object as the API server sends it: who it is, what it says, what is wrong with it.

Must not know lists, watches or what was there before. The rule that is easy to break: only what
somebody reads may be in the object, or every heartbeat looks like a change. Status, and
annotations where nobody reads them, are therefore taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from controlplane.model.base import NO_LABELS, FrozenDict, Labels
from controlplane.model.core import Endpoints, EndpointSlice, Namespace, Node, Pod
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.kinds import Kind, Untranslated
from controlplane.model.meta import Object, ObjectRef, Provenance
from controlplane.model.schema import Finding, format_path
from controlplane.sources.kubernetes.depth import CUT
from controlplane.sources.objects import (
    SCHEMA,
    SCHEMA_WARNING,
    UNREADABLE,
    decode_flawless,
    read_value,
)

SOURCE: Final = "kubernetes"
REVISION: Final = "istio.io/rev"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_NO_ANNOTATIONS: Final = (Namespace, Node, Pod, EndpointSlice, Endpoints)

_TOO_DEEP: Final = (Finding(Level.ERROR, SCHEMA, (), "is nested too deeply"),)

_UNFORESEEN: Final = (
    msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip

Key = tuple[str, str]
"""Namespace (empty for cluster scoped kinds) and name."""


class Identity(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Which version of which object."""

    name: str
    namespace: str = ""
    resource_version: str = ""
    generation: int = 0
    uid: str = ""

    @property
    def key(self) -> Key:
        """What tells objects of one kind apart."""
        return self.namespace, self.name


class Entry(NamedTuple):
    """What is known of one object; `item` is None when it is left out."""

    identity: Identity
    item: Object | None
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def origin(self) -> Provenance:
        """Where the object came from."""
        who = self.identity
        return Provenance(
            SOURCE,
            resource_version=who.resource_version,
            generation=who.generation,
            uid=who.uid,
        )


class _Header(msgspec.Struct, frozen=True, gc=False):
    metadata: Identity


_HEADERS: Final = msgspec.json.Decoder(_Header)
Data = bytes | msgspec.Raw
Decode = Callable[[Data, Identity], Entry]


def identify(data: Data) -> Identity:
    """Return which object this is; raises msgspec.DecodeError or UnicodeDecodeError."""
    return _HEADERS.decode(data).metadata


class ObjectDecoder:
    """Decodes the objects of one kind, for a control plane of one revision."""

    def __init__(self, kind: Kind, *, revision: str = "") -> None:
        self._kind: Final = kind
        self._revision: Final = revision
        # A person writes Istio's kinds and may misspell a field. Kubernetes' own have passed
        # its API server, and a newer one has fields that we do not know.
        self._ours: Final = kind.group.endswith(".istio.io")

    def __call__(self, data: Data, identity: Identity) -> Entry:
        """Return the entry of an object; never raises for what is in it."""
        try:
            item, findings = self._read(data)
        except RecursionError:
            item, findings = None, _TOO_DEEP
        except _UNFORESEEN as error:
            # One object that nobody thought of must not end what all others are served by.
            item, findings = None, _unreadable(error)
        if item is not None and self._of_another_revision(item):
            return Entry(identity, None)
        ref = ObjectRef(self._kind.qualified, *identity.key)
        found = {
            Diagnostic(
                level=finding.level,
                code=finding.code,
                message=finding.message,
                ref=ref,
                field=format_path(finding.path),
            )
            for finding in findings
        }
        said = tuple(sorted(found, key=order))
        return Entry(identity, None if item is None else _without_noise(item), said)

    def _read(self, data: Data) -> tuple[Object | None, tuple[Finding, ...]]:
        if self._ours and CUT in bytes(data):
            return None, _TOO_DEEP
        if self._kind.model is not Untranslated:
            item = decode_flawless(memoryview(data), self._kind, strict=self._ours)
            if item is not None:
                return item, ()
        value = msgspec.json.decode(data)
        # In a list of Kubernetes' own kinds, the objects do not say what they are.
        value.setdefault("apiVersion", self._kind.api_versions[0])
        value.setdefault("kind", self._kind.kind)
        read = read_value(value, self._kind, unknown_fields=Level.WARNING)
        return read.item, tuple(
            finding for finding in read.findings if self._ours or finding.code != SCHEMA_WARNING
        )

    def _of_another_revision(self, item: Object) -> bool:
        """Whether a label gives a configuration object to another control plane alone."""
        if not self._ours or not self._revision:
            return False
        return item.metadata.labels.get(REVISION, self._revision) != self._revision


def _unreadable(error: Exception) -> tuple[Finding, ...]:
    return (Finding(Level.ERROR, UNREADABLE, (), f"cannot be read: {error}"),)


def _without_noise(item: Object) -> Object:
    meta = item.metadata
    kept: Labels = meta.annotations
    if isinstance(item, _NO_ANNOTATIONS):
        kept = NO_LABELS
    elif _LAST_APPLIED in kept:
        kept = FrozenDict((key, text) for key, text in kept.items() if key != _LAST_APPLIED)
    if kept is not meta.annotations:
        item = msgspec.structs.replace(
            item, metadata=msgspec.structs.replace(meta, annotations=kept)
        )
    if isinstance(item, Untranslated):
        if item.body is not None and "status" in item.body:
            body = FrozenDict((key, value) for key, value in item.body.items() if key != "status")
            item = msgspec.structs.replace(item, body=body)
    elif not isinstance(item, Pod) and getattr(item, "status", None) is not None:
        item = msgspec.structs.replace(item, status=None)
    return item
