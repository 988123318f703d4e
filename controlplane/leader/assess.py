"""What the status of every object should be: findings, rejections and proxies, put together.

Pure. Owns which objects get a status, and when it is too early to say. Must not know what stands
in the API server. The rule that is easy to break: one pass visits every object once a second on
a busy mesh, so an object without news costs two look-ups and makes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from controlplane.ads.outstanding import Outstanding
from controlplane.leader.status import ObjectStatus, fine, status_of
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.kinds import (
    EXTENSIONS,
    KINDS,
    NETWORKING,
    SECURITY,
    TELEMETRY,
    Kind,
    Untranslated,
)
from controlplane.model.meta import ObjectRef
from controlplane.model.snapshot import Snapshot
from controlplane.sources.kubernetes.decode import REVISION, SOURCE

WITH_STATUS: Final[Mapping[str, Kind]] = {
    row.qualified: row
    for row in KINDS.values()
    if row.group in (EXTENSIONS, NETWORKING, SECURITY, TELEMETRY)
}
"""The kinds whose objects get a status, as references spell them."""

PENDING_AFTER: Final = 10.0
"""Seconds that proxies have for a change before its objects are said to wait for them. Almost
every change is taken in less, and then its objects are written once instead of twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Where the facts come from: callables that return what holds at this moment, at once.

    `findings` are those of the serving side, of Envoys and of translation.
    """

    snapshot: Callable[[], Snapshot]
    outstanding: Callable[[], Outstanding]
    findings: Callable[[], Iterable[Diagnostic]]


class Target(NamedTuple):
    """What the status of one object is, or is to be; an empty `uid` means whichever object."""

    uid: str
    status: ObjectStatus


class Assessor:
    """Compares what should be said with what is known to be said.

    It looks at the objects that name a revision, or at those that name none: the first are read
    by the control plane of that revision alone.
    """

    def __init__(self, readers: Readers, *, labelled: bool = False) -> None:
        self._readers: Final = readers
        self._labelled: Final = labelled
        self._since: dict[ObjectRef, float] = {}  # waits for proxies since then

    def look(
        self,
        known: dict[ObjectRef, Target],
        *,
        kinds: Container[str],
        now: float,
    ) -> tuple[dict[ObjectRef, Target], bool] | None:
        """Return what is to be written by object, and whether to look again in a while.

        None when it cannot be said now. `known` is what the API server has; objects that are
        gone are taken out of it. `now` is the seconds of any steady clock.
        """
        outstanding = self._readers.outstanding()
        if not outstanding.current:
            return None
        snapshot = self._readers.snapshot()
        findings = self._findings(snapshot, kinds)
        early = self._early(outstanding.waiting, now)
        wanted: dict[ObjectRef, Target] = {}
        seen: set[ObjectRef] = set()
        for ref in snapshot.objects:
            if ref.kind not in kinds:
                continue  # most objects, of which nothing is looked up
            item = snapshot.objects[ref]
            if (REVISION in item.metadata.labels) is not self._labelled:
                continue
            origin = snapshot.provenance.get(ref)
            if origin is None or origin.source != SOURCE:
                continue
            seen.add(ref)
            found = findings.pop(ref, None)
            if ref in early:
                continue
            waiting = outstanding.waiting.get(ref, 0)
            translated = not isinstance(item, Untranslated)
            if found is None and not waiting and translated:
                status = _FINE.get(origin.generation) or fine(origin.generation)
            else:
                status = status_of(
                    origin.generation, found or (), waiting=waiting, translated=translated
                )
            target = Target(origin.uid, status)
            if known.get(ref) != target:
                wanted[ref] = target
        for ref, refused in findings.items():
            # Of an object that is left out nobody knows the labels.
            if ref not in snapshot.objects and not self._labelled:
                seen.add(ref)
                target = Target("", status_of(0, refused, refused=True))
                if known.get(ref) != target:
                    wanted[ref] = target
        for ref in [ref for ref in known if ref not in seen]:
            del known[ref]
        return wanted, bool(outstanding.waiting)

    def _findings(
        self, snapshot: Snapshot, kinds: Container[str]
    ) -> dict[ObjectRef, list[Diagnostic]]:
        found: dict[ObjectRef, list[Diagnostic]] = defaultdict(list)
        for finding in (*snapshot.diagnostics, *self._readers.findings()):
            # What is in a file has no status; the same name may be in both.
            if finding.ref is not None and finding.ref.kind in kinds and not finding.file:
                found[finding.ref].append(finding)
        return dict(found)

    def _early(self, waiting: Mapping[ObjectRef, int], now: float) -> frozenset[ObjectRef]:
        """Return the objects that wait for proxies, and not long enough to be told."""
        self._since = {ref: self._since.get(ref, now) for ref in waiting}
        return frozenset(ref for ref, since in self._since.items() if now - since < PENDING_AFTER)


_FINE: Final = {generation: fine(generation) for generation in range(1, 33)}
