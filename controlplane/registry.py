"""Folds the steps of all sources into snapshots and says when each is published.

Owns the one reference to the current snapshot. The core is synchronous (`deliver`, `tick`);
`run` only waits for the right moments. The rule that is easy to break: config that still waits
must not slip out with an endpoint change, so it stays outside the assembler until it is due.

An error of ours while a snapshot is made does not end the service. Everything is made once more
from nothing, which mends whatever was kept wrongly; when that fails too, the snapshot before stays,
each object that came since says so in a diagnostic, and the next change tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, islice
from typing import Final

from msgspec import structs

from controlplane.model.assemble import Assembler
from controlplane.model.core import Endpoints, EndpointSlice, Node, Pod
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.diff import Change, diff
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import NOWHERE, ObjectRef, Record
from controlplane.model.service_entry import WorkloadEntry
from controlplane.model.snapshot import EMPTY, Snapshot
from controlplane.pacing import Pacing
from controlplane.sources.base import Delta, Source

Publish = Callable[[Snapshot, Snapshot, Change], None]
Reporter = Callable[[tuple[Diagnostic, ...], tuple[Diagnostic, ...]], None]
Timed = Callable[[float, float], None]
Failed = Callable[[Exception], None]

_NAMED: Final = 100  # objects that get a diagnostic when an error of ours keeps them out

_ENDPOINT_KINDS: Final = frozenset(
    kind.KIND for kind in (EndpointSlice, Endpoints, Pod, WorkloadEntry, Node)
)


def _report_nothing(_new: tuple[Diagnostic, ...], _gone: tuple[Diagnostic, ...]) -> None:
    """Stand in for a reporter where nobody listens."""


def _count_nothing(_waited: float, _making: float) -> None:
    """Stand in for a count of times where nobody counts."""


def _tell_nobody(_error: Exception) -> None:
    """Stand in for a report of our own errors where nobody listens."""


class Registry:
    """The objects of all sources and the snapshot that is valid now.

    `sources` are the names of all sources, the stronger first: of two objects with one
    reference that of the stronger source counts. The origin of an object names its source.
    `publish` gets the old snapshot, the new one and what differs; `reporter` the diagnostics that
    are new and those that are gone; `timed` the seconds that the first of the changes waited for
    others and the seconds that the snapshot took to make; `failed` the errors of ours meanwhile.
    """

    def __init__(
        self,
        publish: Publish,
        *,
        sources: Iterable[str],
        domain: str = "cluster.local",
        cluster_id: str = "",
        mesh: MeshConfig | None = None,
        pacing: Pacing | None = None,
        clock: Callable[[], float] = time.monotonic,
        reporter: Reporter = _report_nothing,
        timed: Timed = _count_nothing,
        failed: Failed = _tell_nobody,
    ) -> None:
        self._publish: Final = publish
        self._reporter: Final = reporter
        self._timed: Final = timed
        self._failed: Final = failed
        self._clock: Final = clock
        self._pacing: Final = pacing or Pacing()
        self._assembler = Assembler(mesh=mesh, domain=domain, cluster_id=cluster_id)
        # What was delivered and not passed on yet, the stronger source first; None for gone.
        self._news: Final[dict[str, dict[ObjectRef, Record | None]]] = {
            name: {} for name in sources
        }
        # Of objects that several sources have: all of them. Of any other the assembler has it.
        self._contested: Final[dict[ObjectRef, dict[str, Record]]] = {}
        self._diagnostics: Final[dict[str, tuple[Diagnostic, ...]]] = {}
        self._unsettled: dict[ObjectRef, None] = {}  # passed on since the last snapshot
        self._refused: Final[dict[ObjectRef, Diagnostic]] = {}  # by an error of ours
        self._waiting_for: set[str] = set(self._news)
        self._waiting_config: dict[ObjectRef, None] = {}
        self._waiting_mesh: MeshConfig | None = None
        self._snapshot = EMPTY
        self._published = False
        self._wake: Final = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that was published last, an empty one before the first."""
        return self._snapshot

    @property
    def ready(self) -> bool:
        """Whether every source delivered its first full state and the result is published."""
        return self._published

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """The names of the sources that have not delivered their first full state."""
        return tuple(sorted(self._waiting_for))

    def is_waiting(self, ref: ObjectRef) -> bool:
        """Whether a change of that object was delivered and is not published yet."""
        if ref.kind in _ENDPOINT_KINDS and self._pacing.endpoints_due is not None:
            return True
        return ref in self._waiting_config

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything that is wrong now, in a fixed order."""
        return self._snapshot.diagnostics

    def deliver(self, source: str, delta: Delta) -> None:
        """Take one step of a source; `tick` publishes what follows from it."""
        now = self._clock()
        news = self._news[source]
        refs = [record.ref for record in delta.upserts]
        news.update(zip(refs, delta.upserts, strict=True))
        gone = [ref for ref in delta.removals if self._has(source, ref)]
        news.update(dict.fromkeys(gone))
        refs += gone
        endpoints = refs if all(ref.kind in _ENDPOINT_KINDS for ref in refs) else []
        config = bool(refs) and not endpoints
        if config:
            # One step stays one step: endpoints that go or are renamed together with their
            # service must not go ahead of the routes that still use them.
            self._waiting_config.update(dict.fromkeys(refs))
        if delta.mesh is not None:
            self._waiting_mesh = delta.mesh
            config = True
        if delta.diagnostics is not None and delta.diagnostics != self._diagnostics.get(source):
            self._diagnostics[source] = delta.diagnostics
            config = True
        if delta.follows_pods is not None:
            self._assembler.follow_pods(source, follows=delta.follows_pods)
        if endpoints or delta.follows_pods is not None:
            self._fold(endpoints)
            self._pacing.note_endpoints(now)
        if config:
            self._pacing.note_config(now)
        if delta.synced:
            self._waiting_for.discard(source)
        self._wake.set()

    def tick(self) -> float | None:
        """Publish what is due; returns the seconds until something else is, None for never.

        Before every source is synced nothing is published; then everything at once.
        """
        if self._waiting_for:
            return None
        now = self._clock()
        if not self._published:
            self._release(now, config=True)
        due = self._pacing.due
        if due is None:
            return None
        if due > now:
            return due - now
        config_due = self._pacing.config_due
        self._release(now, config=config_due is not None and config_due <= now)
        due = self._pacing.due
        return None if due is None else max(0.0, due - now)

    async def run(self, sources: Iterable[Source]) -> None:
        """Run sources and publish until cancelled; an exception of a source ends it."""
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(source.run(partial(self.deliver, source.name)))
            group.create_task(self._pace())

    async def _pace(self) -> None:
        while True:
            delay = self.tick()
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    def _fold(self, refs: Iterable[ObjectRef]) -> None:
        """Pass objects on to the assembler as the strongest source has them."""
        upserts: list[Record] = []
        removals: list[ObjectRef] = []
        for ref in refs:
            news = {name: own.pop(ref) for name, own in self._news.items() if ref in own}
            if not news:
                continue  # passed on meanwhile
            held = {name: record for name, record in self._held(ref).items() if name not in news}
            held |= {name: record for name, record in news.items() if record is not None}
            if len(held) > 1:
                self._contested[ref] = held
            else:
                self._contested.pop(ref, None)
            if held:
                upserts.append(next(held[name] for name in self._news if name in held))
            else:
                removals.append(ref)
        for own in self._news.values():
            if not own:
                own.clear()  # which alone gives back the room of a first state
        self._unsettled.update(dict.fromkeys((*(record.ref for record in upserts), *removals)))
        for ref in self._refused.keys() & self._unsettled.keys():
            del self._refused[ref]
        try:
            self._assembler.apply(upserts, removals)
        except Exception as error:  # noqa: BLE001  # whatever it is, the mesh goes on
            self._failed(error)
            self._start_over(upserts, removals)

    def _start_over(
        self, upserts: Iterable[Record] = (), removals: Iterable[ObjectRef] = ()
    ) -> None:
        """Go on with an assembler that has worked out nothing yet."""
        self._assembler, refused = self._assembler.afresh(upserts, removals)
        for record, error in refused:
            self._refused[record.ref] = _kept_out(record.ref, record, error)

    def _made(self) -> Snapshot:
        """Return the snapshot of what was passed on, the one before when that cannot be made."""
        try:
            return self._assembled()
        except Exception as error:  # noqa: BLE001  # whatever it is, the mesh goes on
            self._failed(error)
        try:
            self._start_over()
            return self._assembled()
        except Exception as error:
            if not self._published:
                raise  # there is nothing yet to go on with
            self._failed(error)
            kept_out = (
                _kept_out(ref, self._assembler.record(ref), error)
                for ref in islice(self._unsettled, _NAMED)
            )
            found = sorted((*self._given(), *kept_out), key=order)
            return structs.replace(self._snapshot, diagnostics=tuple(found))

    def _assembled(self) -> Snapshot:
        made = self._assembler.snapshot(self._given())
        self._unsettled.clear()
        return made

    def _given(self) -> tuple[Diagnostic, ...]:
        """Return what is wrong besides what objects say about each other."""
        return (*chain.from_iterable(self._diagnostics.values()), *self._refused.values())

    def _held(self, ref: ObjectRef) -> dict[str, Record]:
        """Return what was passed on of an object, by the sources that have it."""
        held = self._contested.get(ref)
        if held is None:
            known = self._assembler.record(ref)
            held = {} if known is None else {known.origin.source: known}
        return held

    def _has(self, source: str, ref: ObjectRef) -> bool:
        """Whether a source has an object, the news included."""
        news = self._news[source]
        return news[ref] is not None if ref in news else source in self._held(ref)

    def _release(self, now: float, *, config: bool) -> None:
        if config:
            self._fold(self._waiting_config)
            self._waiting_config = {}
            if self._waiting_mesh is not None:
                self._assembler.set_mesh(self._waiting_mesh)
                self._waiting_mesh = None
        waited = self._pacing.published(now, config=config)
        old = self._snapshot
        new = self._made()
        change = diff(old, new)
        # What came before the first snapshot waited for sources, not for other changes.
        self._timed(waited if self._published else 0.0, self._clock() - now)
        self._snapshot = new
        self._published = True
        self._publish(old, new, change)
        if new.diagnostics != old.diagnostics:
            before, after = frozenset(old.diagnostics), frozenset(new.diagnostics)
            self._reporter(
                tuple(entry for entry in new.diagnostics if entry not in before),
                tuple(entry for entry in old.diagnostics if entry not in after),
            )


def _kept_out(ref: ObjectRef, record: Record | None, error: Exception) -> Diagnostic:
    """Say of an object, removed when there is no record, that an error of ours keeps it out."""
    origin = NOWHERE if record is None else record.origin
    text = f"an error of the control plane keeps it out: {type(error).__name__}: {error}"
    return Diagnostic(
        level=Level.ERROR,
        code="InternalError",
        message=text,
        ref=ref,
        file=origin.file,
        line=origin.line,
    )
