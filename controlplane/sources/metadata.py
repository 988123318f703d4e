"""The rules of an object's metadata: names, the default namespace, times.

The rule that is easy to break: creation times are brought to UTC here, once, because conflicts
are decided by comparing them as text.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import Final

from controlplane.model.kinds import Kind
from controlplane.model.meta import DEFAULT_NAMESPACE, ObjectMeta


class MetadataError(Exception):
    """A field of metadata has an impossible value; the text is a sentence."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NAMESPACE: Final = re.compile(rf"(?=.{{1,63}}$){_LABEL}")
_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def finish_metadata(meta: ObjectMeta, kind: Kind) -> ObjectMeta:
    """Return metadata with its namespace filled in and its time in UTC, strings interned."""
    name, namespace, created = meta.name, meta.namespace, meta.creation_timestamp
    if not name:
        raise MetadataError("name", "is required")
    if not _SUBDOMAIN.fullmatch(name):
        raise MetadataError("name", f"{name!r} is not a DNS name of lower-case letters and digits")
    if namespace and not _NAMESPACE.fullmatch(namespace):
        raise MetadataError("namespace", f"{namespace!r} is not a DNS label")
    if created is not None and not _UTC.fullmatch(created):
        created = _in_utc(created)
    return ObjectMeta(
        name=sys.intern(name),
        namespace=sys.intern(namespace or DEFAULT_NAMESPACE) if kind.namespaced else "",
        labels=meta.labels,
        annotations=meta.annotations,
        creation_timestamp=created,
    )


def _in_utc(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or "T" not in text.upper():
        raise MetadataError("creationTimestamp", f"{text!r} is not a time of RFC 3339")
    moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="auto").replace("+00:00", "Z")
