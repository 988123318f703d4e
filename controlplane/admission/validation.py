"""Whether an object may be stored: the same rules as `pylot validate`.

Owns which requests are looked at, and what the user is told. Must not know HTTP. The rule that is
easy to break: whatever is sent costs bounded time, because the process that answers also serves
the mesh.

Source of the rules: Istio's pkg/webhooks/validation/server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.admission.review import Review, allow, refuse
from controlplane.model.diagnostics import Level
from controlplane.model.kinds import Foreign, Kind, Unknown, find_kind
from controlplane.model.schema import Finding, format_path
from controlplane.sources.objects import read_value

REVISION_LABEL: Final = "istio.io/rev"
MAX_OBJECT: Final = 1536 * 1024
"""Bytes: what etcd takes of one object."""
SHOWN: Final = 10
"""Problems that one answer names; the rest is counted."""
LONGEST: Final = 400
"""Characters of one problem."""

UNKNOWN_TYPE: Final = "unknown_type"  # the reasons of istiod's metric
UNREADABLE: Final = "yaml_decode_error"
INVALID: Final = "invalid_resource"

_OPERATIONS: Final = frozenset({"CREATE", "UPDATE"})
_OTHER: Final = "other"
_TOO_DEEP: Final = "has too many levels"


class Verdict(NamedTuple):
    """The review to send back; `failure` is why the object was refused, empty when it was not.

    `group`, `version` and `resource` are those of a known kind, else `other`: a caller cannot
    make up names of metrics. They are empty when the request was not looked at.
    """

    review: dict[str, Any]
    subject: str = ""
    failure: str = ""
    message: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""


def judge(asked: Review, *, revision: str) -> Verdict:
    """Return what becomes of the object in a request."""
    request = asked.request
    if request.get("operation") not in _OPERATIONS or request.get("subResource"):
        return Verdict(allow(asked))
    item = request.get("object")
    subject = _subject(request)
    verdict = Verdict({}, subject=subject, group=_OTHER, version=_OTHER, resource=_OTHER)
    if not isinstance(item, dict):
        return _refused(asked, verdict, UNREADABLE, "there is no object in the request")
    if _is_going(item) or _of_another_revision(item, revision):
        return Verdict(allow(asked))
    kind = find_kind(str(item.get("apiVersion")), str(item.get("kind")))
    match kind:
        case Unknown():
            return _refused(asked, verdict, UNKNOWN_TYPE, _short(f"{kind.field}: {kind.reason}"))
        case Foreign():
            return verdict._replace(review=allow(asked))
        case Kind():
            version = str(item["apiVersion"]).rpartition("/")[2]
            verdict = verdict._replace(group=kind.group, version=version, resource=kind.plural)
    if asked.cut:
        return _refused(asked, verdict, INVALID, _TOO_DEEP)
    try:
        size = len(msgspec.json.encode(item))
        if size > MAX_OBJECT:
            reason = f"{size} bytes are more than the {MAX_OBJECT} that etcd takes"
            return _refused(asked, verdict, INVALID, reason)
        read = read_value(item, kind)
    except RecursionError:
        return _refused(asked, verdict, INVALID, _TOO_DEEP)
    if read.item is None:
        return _refused(asked, verdict, INVALID, _sentence(read.findings))
    return verdict._replace(review=allow(asked, warnings=_warnings(read.findings, subject)))


def _refused(asked: Review, verdict: Verdict, failure: str, reason: str) -> Verdict:
    message = f"{verdict.subject}: {reason}"
    return verdict._replace(review=refuse(asked, message), failure=failure, message=message)


def _is_going(item: Mapping[str, Any]) -> bool:
    """Whether the object is being deleted: an update then takes a finalizer away."""
    metadata = item.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("deletionTimestamp"))


def _of_another_revision(item: Mapping[str, Any], revision: str) -> bool:
    """Whether a label gives the object to another control plane."""
    metadata = item.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    wanted = labels.get(REVISION_LABEL) if isinstance(labels, dict) else None
    return bool(wanted) and wanted != revision


def _subject(request: Mapping[str, Any]) -> str:
    kind = request.get("kind")
    name = kind.get("kind") if isinstance(kind, dict) else None
    place = "/".join(str(request[key]) for key in ("namespace", "name") if request.get(key))
    return f"{name or 'object'} {place}".rstrip()


def _sentence(findings: tuple[Finding, ...]) -> str:
    """What keeps the object out, the first mistakes in full."""
    errors = [found for found in findings if found.level is Level.ERROR]
    left = len(errors) - SHOWN
    shown = "; ".join(_short(_told(found)) for found in errors[:SHOWN])
    return f"{shown}; and {left} more" if left > 0 else shown


def _told(found: Finding) -> str:
    path = format_path(found.path)
    return f"{path}: {found.message}" if path else found.message


def _short(text: str) -> str:
    """The text, cut where it repeats too much of what the user wrote."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def _warnings(findings: tuple[Finding, ...], subject: str) -> Iterator[str]:
    """Yield what the user should know although the object is stored."""
    warnings = [found for found in findings if found.level is Level.WARNING]
    for found in warnings[:SHOWN]:
        yield f"{subject}: {_told(found)} [{found.code}]"
    if len(warnings) > SHOWN:
        yield f"{subject}: and {len(warnings) - SHOWN} more"
