"""journal and wait: what was pushed and why, and how far the proxies are with one object.

The rule that is easy to break: entries of the journal go on changing while they are read, so
whatever a rendering needs is copied on the event loop.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from controlplane.ads.journal import Entry
from controlplane.ads.progress import Progress, ProxyProgress
from controlplane.debug.render import timestamp
from controlplane.debug.views.request import Rendering, ViewError, ViewRequest
from controlplane.debug.views.serving import rejection_data
from controlplane.model.core import Endpoints
from controlplane.model.diagnostics import Level
from controlplane.model.kinds import KINDS, Kind, suggestion
from controlplane.model.meta import DEFAULT_NAMESPACE, ObjectRef, Provenance
from controlplane.model.packed import PackedSlice
from controlplane.model.snapshot import Snapshot
from controlplane.sources.filetree import UNREAD
from controlplane.sources.objects import SCHEMA, UNREADABLE

UNREAD_FILE_LIMIT: Final = 2.5
"""Seconds in which a file that changed after the last push is taken to be unread; the file
source looks at every file more often than that."""

_REFUSED: Final = frozenset({SCHEMA, UNREAD, UNREADABLE})
"""The codes of what keeps a source from taking an object's newest content."""

_SHORT_KINDS: Final = {
    "vs": "VirtualService",
    "dr": "DestinationRule",
    "gw": "Gateway",
    "se": "ServiceEntry",
    "we": "WorkloadEntry",
    "svc": "Service",
    "ep": "Endpoints",
    "po": "Pod",
    "ns": "Namespace",
}


def journal(request: ViewRequest) -> Rendering:
    """The last pushes, newest first; `object=KIND/NAME.NS` chooses, `limit` cuts."""
    entries = request.journal()
    if request.params.get("object"):
        refs = candidates(request.params["object"])
        entries = tuple(entry for entry in entries if any(ref in entry.objects for ref in refs))
    limit = request.params.get("limit", "")
    if limit and not limit.isdigit():
        raise ViewError(400, f"limit: {limit!r} is not a number")
    chosen = [*reversed(entries)][: int(limit) if limit else None]
    return partial(_same, [_entry(entry, request.snapshot) for entry in chosen])


def _same(data: Any) -> Any:
    return data


def _entry(entry: Entry, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "push": entry.number,
        "time": timestamp(entry.time),
        "reason": entry.reason,
        "objects": [
            {"object": str(ref), "source": _source(snapshot.provenance.get(ref))}
            for ref in entry.objects
        ],
        "endpointsOf": list(entry.hosts),
        "classes": entry.classes,
        "proxies": [
            {"connection": connection, "ackSeconds": None if late is None else round(late, 4)}
            for connection, late in entry.proxies.items()
        ],
        "responses": entry.sent,
        "acknowledged": entry.acknowledged,
        "slowestAckSeconds": round(entry.slowest_ack, 4),
        "resources": [
            {"type": item.short, "name": item.name, "old": item.old, "new": item.new}
            for item in entry.changed
        ],
        "rejections": [
            {
                "connection": item.connection,
                "type": item.short,
                "message": item.message,
                "resources": list(item.resources),
            }
            for item in entry.rejections
        ],
    }


def _source(origin: Provenance | None) -> str:
    return str(origin) if origin is not None else "removed"


def wait(request: ViewRequest) -> Rendering:
    """How far each proxy that `object=KIND/NAME[.NS]` concerns is with its current version."""
    asked, snapshot = candidates(request.params.get("object", "")), request.snapshot
    refused = {ref: _refusals(ref, snapshot) for ref in asked}
    ref = next((ref for ref in asked if ref in snapshot.objects or refused[ref]), asked[0])
    found = ref in snapshot.objects
    progress = request.progress(_shown_by(ref, snapshot)) if found else Progress()
    current = (
        found
        and progress.current
        and not refused[ref]
        and not request.unpublished(ref)
        and not _is_unread(request, snapshot.provenance.get(ref))
    )
    answer = {
        "object": str(ref),
        "found": found,
        "current": current,
        "refused": refused[ref],
        "push": progress.push,
        "proxies": [_proxy(entry) for entry in progress.proxies],
    }
    return partial(_same, answer)


def _refusals(ref: ObjectRef, snapshot: Snapshot) -> list[str]:
    """Return why the newest content of an object is not what is served.

    A file that cannot be read says nothing of its objects, which stay as they were.
    """
    origin = snapshot.provenance.get(ref)
    file = origin.file if origin is not None else ""
    return [
        str(finding)
        for finding in snapshot.diagnostics
        if finding.code in _REFUSED
        and finding.level is Level.ERROR
        and (finding.ref == ref or (finding.ref is None and file and finding.file == file))
    ]


def _shown_by(ref: ObjectRef, snapshot: Snapshot) -> ObjectRef:
    """Return the object whose resources show this one: endpoints are those of a Service."""
    match snapshot.objects[ref]:
        case PackedSlice(service=name) if name:
            return ObjectRef("Service", ref.namespace, name)
        case Endpoints():
            return ObjectRef("Service", ref.namespace, ref.name)
        case _:
            return ref


def _proxy(entry: ProxyProgress) -> dict[str, Any]:
    return {
        "proxy": entry.proxy,
        "connection_id": entry.connection_id,
        "state": entry.state.value,
        "waitingFor": list(entry.waiting_for),
        "rejections": [rejection_data(rejection) for rejection in entry.rejections],
    }


def _is_unread(request: ViewRequest, origin: Provenance | None) -> bool:
    """Whether the object's file changed a moment ago, after everything that was pushed."""
    if origin is None or not origin.file:
        return False
    try:
        changed = Path(origin.file).stat().st_mtime
    except OSError:
        return False
    entries = request.journal()
    pushed = entries[-1].time if entries else 0.0
    return changed > pushed and time.time() - changed < UNREAD_FILE_LIMIT


def candidates(text: str) -> tuple[ObjectRef, ...]:
    """Return the objects that `KIND/NAME[.NAMESPACE]` can mean, the likeliest first.

    Names may hold dots, so the last dot need not begin a namespace. Raises ViewError 400.
    """
    word, slash, rest = text.partition("/")
    if not slash or not word or not rest:
        raise ViewError(400, f"{text!r} is not of the form KIND/NAME[.NAMESPACE]")
    row = _kind(word)
    if not row.namespaced:
        return (ObjectRef(row.qualified, "", rest),)
    found = [ObjectRef(row.qualified, DEFAULT_NAMESPACE, rest)]
    name, dot, namespace = rest.rpartition(".")
    if dot and name and namespace:
        found.insert(0, ObjectRef(row.qualified, namespace, name))
    return tuple(found)


def _kind(word: str) -> Kind:
    """Return the kind by its name, plural or short name, in any case, perhaps with its group."""
    name, _, group = word.lower().partition(".")
    wanted = _SHORT_KINDS.get(name, name).lower()
    for row in KINDS.values():
        if wanted in (row.kind.lower(), row.plural) and group in ("", row.group):
            return row
    known = sorted({row.kind for row in KINDS.values()})
    raise ViewError(400, f"unknown kind {word!r}{suggestion(word, known)}")
