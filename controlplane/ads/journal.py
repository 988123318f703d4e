"""What was pushed, why, whom it reached and what came back: a bounded ring.

A reporter that remembers. The rule that is easy to break: everything here is bounded, whatever
the mesh does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final
from weakref import WeakKeyDictionary, ref

import msgspec

from controlplane.ads.cache import Collection
from controlplane.ads.rejections import Rejection
from controlplane.ads.reporter import Reporter
from controlplane.ads.types import Send, TypeInfo
from controlplane.ads.views import ClassView
from controlplane.model.diff import Change
from controlplane.model.meta import ObjectRef
from controlplane.translate.resources import ResourceType

_ENTRIES: Final = 256
LIMIT: Final = 200
"""How many objects, hosts, resources, connections and rejections one entry names."""


class ChangedResource(msgspec.Struct, frozen=True):
    """A resource before and after; an empty hash means absent."""

    short: str
    name: str
    old: str
    new: str


class JournalRejection(msgspec.Struct, frozen=True):
    """A response of the push that an Envoy rejected."""

    connection: str
    short: str
    message: str
    resources: tuple[str, ...]


class Entry(msgspec.Struct, kw_only=True):
    """One push. `time` is in seconds since the epoch; acknowledgements are timed per response."""

    number: int
    time: float
    reason: str  # "endpoints", "config" or "full"
    objects: tuple[ObjectRef, ...] = ()
    hosts: tuple[str, ...] = ()
    classes: int = 0
    changed: list[ChangedResource] = []
    sent: int = 0  # responses
    acknowledged: int = 0  # responses
    slowest_ack: float = 0.0  # seconds
    proxies: dict[str, float | None] = {}  # connections reached: seconds to the newest ACK
    rejections: list[JournalRejection] = []


_SHORT: Final = {
    ResourceType.CLUSTER: "CDS",
    ResourceType.ENDPOINT: "EDS",
    ResourceType.LISTENER: "LDS",
    ResourceType.ROUTE: "RDS",
    ResourceType.NAME_TABLE: "NDS",
}


class Journal(Reporter):
    """The last pushes, oldest first."""

    def __init__(self, clock: Callable[[], float], *, size: int = _ENTRIES) -> None:
        self._clock: Final = clock  # seconds since the epoch
        self._size: Final = size
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._number = 0
        # What the newest push made of which collection: most classes hold the same ones.
        self._noted: WeakKeyDictionary[Collection, ref[Collection]] = WeakKeyDictionary()

    def open(self, change: Change, *, reason: str) -> int:
        """Begin the entry of a push and return its number, which is never 0."""
        self._number += 1
        self._noted = WeakKeyDictionary()
        self._entries[self._number] = Entry(
            number=self._number,
            time=self._clock(),
            reason=reason,
            objects=tuple(sorted(change.objects)[:LIMIT]),
            hosts=tuple(sorted(change.endpoints)[:LIMIT]),
        )
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return self._number

    def entries(self) -> tuple[Entry, ...]:
        """Return the remembered pushes, oldest first."""
        return tuple(self._entries.values())

    def class_changed(self, old: ClassView, new: ClassView) -> None:
        """Take note of what a push changed for one class."""
        entry = self._entries.get(new.push)
        if entry is None:
            return
        entry.classes += 1
        if len(entry.changed) >= LIMIT:
            return
        pairs = [pair for pair in _pairs(old, new) if self._is_news(*pair)]
        if not pairs:
            return
        known = {(item.short, item.name, item.new) for item in entry.changed}
        for item in _changes(pairs):
            if len(entry.changed) >= LIMIT:
                return
            if (item.short, item.name, item.new) not in known:
                known.add((item.short, item.name, item.new))
                entry.changed.append(item)

    def _is_news(self, before: Collection, after: Collection) -> bool:
        """Whether another class has not changed from one of these to the other in this push."""
        if before is after:
            return False
        noted = self._noted.get(after)
        if noted is not None and noted() is before:
            return False
        self._noted[after] = ref(before)
        return True

    def sent(self, connection: str, send: Send) -> None:
        """Count a response, and remember whom it reached."""
        entry = self._entries.get(send.push)
        if entry is not None:
            entry.sent += 1
            if len(entry.proxies) < LIMIT:
                entry.proxies.setdefault(connection, None)

    def acknowledged(
        self, connection: str, info: TypeInfo, *, version: str, seconds: float, push: int
    ) -> None:
        """Count an acknowledgement."""
        entry = self._entries.get(push)
        if entry is not None:
            entry.acknowledged += 1
            entry.slowest_ack = max(entry.slowest_ack, seconds)
            if connection in entry.proxies:
                entry.proxies[connection] = seconds

    def rejected(
        self,
        connection: str,
        info: TypeInfo,
        *,
        message: str,
        suspects: Sequence[str],
        culprits: Sequence[Rejection],
        push: int,
    ) -> None:
        """Remember a rejection."""
        entry = self._entries.get(push)
        if entry is not None and len(entry.rejections) < LIMIT:
            names = tuple(item.item.name for item in culprits) or tuple(suspects[:LIMIT])
            entry.rejections.append(
                JournalRejection(connection, info.short, message[:LIMIT], names)
            )


def _pairs(old: ClassView, new: ClassView) -> Iterator[tuple[Collection, Collection]]:
    """Yield what there was before and what there is now."""
    yield old.clusters, new.clusters
    yield old.listeners, new.listeners
    for kind in (ResourceType.ENDPOINT, ResourceType.ROUTE):
        yield from new.selection_pairs(old, kind)


def _changes(pairs: Iterable[tuple[Collection, Collection]]) -> Iterator[ChangedResource]:
    for before, after in pairs:
        difference = after.difference(before)
        for name in (*sorted(difference.changed), *difference.removed):
            was, now = before.get(name), after.get(name)
            yield ChangedResource(
                _SHORT[after.kind], name, was.version if was else "", now.version if now else ""
            )
