"""What a replica tells the leader: objects that its own proxies reject or do not run yet.

Pure. Owns the form of a report and its bounds. Must not know where it is kept. The rule that is
easy to break: a report is about generations. What is true of an object's last generation says
nothing about this one, so an entry counts only for the leader that sees the same generation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from controlplane.leader.assess import WITH_STATUS
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.meta import ObjectRef
from controlplane.model.snapshot import Snapshot
from controlplane.sources.kubernetes.decode import SOURCE

MOST_OBJECTS: Final = 100
MOST_FINDINGS: Final = 3  # of one object
LONGEST_TEXT: Final = 250
"""Characters of a message. With these bounds ten replicas fit into the 1 MiB that an object may
have; three findings on each of 100 objects are not a usual day."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finding without its object."""

    level: Level
    code: str
    message: str
    field: str = ""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object: how many proxies do not run it, and what was found."""

    kind: str
    namespace: str
    name: str
    generation: int
    waiting: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def ref(self) -> ObjectRef:
        """The object."""
        return ObjectRef(self.kind, self.namespace, self.name)


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that one replica has to tell; `omitted` counts objects beyond the bound."""

    entries: tuple[Entry, ...] = ()
    omitted: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.entries)


NOTHING: Final = Report()


def make_report(
    snapshot: Snapshot, findings: Iterable[Diagnostic], waiting: Mapping[ObjectRef, int]
) -> Report:
    """Return what there is to tell about objects that have a status."""
    by_ref: dict[ObjectRef, list[Diagnostic]] = defaultdict(list)
    for finding in findings:
        if finding.ref is not None:
            by_ref[finding.ref].append(finding)
    entries = []
    for ref in sorted({*by_ref, *waiting}):
        origin = snapshot.provenance.get(ref)
        if ref.kind not in WITH_STATUS or origin is None or origin.source != SOURCE:
            continue
        found = sorted(set(by_ref.get(ref, ())), key=order)[:MOST_FINDINGS]
        entries.append(
            Entry(
                ref.kind,
                ref.namespace,
                ref.name,
                origin.generation,
                waiting.get(ref, 0),
                tuple(
                    Finding(one.level, one.code, one.message[:LONGEST_TEXT], one.field)
                    for one in found
                ),
            )
        )
    return Report(tuple(entries[:MOST_OBJECTS]), max(0, len(entries) - MOST_OBJECTS))


def findings_of(reports: Iterable[Report], snapshot: Snapshot) -> Iterator[Diagnostic]:
    """Yield what reports found about the generations in a snapshot."""
    for entry in _current(reports, snapshot):
        for one in entry.findings:
            yield Diagnostic(
                level=one.level, code=one.code, message=one.message, ref=entry.ref, field=one.field
            )


def waiting_of(reports: Iterable[Report], snapshot: Snapshot) -> Counter[ObjectRef]:
    """Return how many proxies of other replicas do not run the generations in a snapshot."""
    found: Counter[ObjectRef] = Counter()
    for entry in _current(reports, snapshot):
        if entry.waiting:
            found[entry.ref] += entry.waiting
    return found


def _current(reports: Iterable[Report], snapshot: Snapshot) -> Iterator[Entry]:
    for report in reports:
        for entry in report.entries:
            origin = snapshot.provenance.get(entry.ref)
            if origin is not None and origin.generation == entry.generation:
                yield entry
