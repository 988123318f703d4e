"""How far the proxies are with one object: the question of `pylot wait`.

Reads only, and makes no resource that a stream has not asked for, but for streams that are just
starting. An object concerns a stream when it made one of the resources that the stream shall
hold, or when a push that it caused changed one of those. The rule that is easy to break: what
counts is what the proxy accepted, not what was sent to it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from controlplane.ads.cache import Collection, same
from controlplane.ads.classes import Stream
from controlplane.ads.journal import LIMIT, Entry
from controlplane.ads.name_sets import NameSets
from controlplane.ads.rejections import Rejections
from controlplane.ads.status import RejectionStatus
from controlplane.ads.status_of import rejection_status, undecided_of
from controlplane.ads.types import CDS, EDS, LDS, RDS, TYPES, Names
from controlplane.ads.virtual_hosts import Item, VirtualHost
from controlplane.ads.watch import Watch
from controlplane.model.meta import ObjectRef
from controlplane.translate.resources import ResourceType

STARTING: Final = 15.0
"""Seconds after connecting in which types that a proxy has not asked for yet are expected."""


class ProxyState(enum.Enum):
    """How far one proxy is with an object."""

    ACKNOWLEDGED = "ACKNOWLEDGED"
    WAITING = "WAITING"
    REJECTED = "REJECTED"


class ProxyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One stream that an object concerns; `waiting_for` holds lines such as `RDS 9080`."""

    connection_id: str
    proxy: str
    state: ProxyState
    waiting_for: tuple[str, ...] = ()
    rejections: tuple[RejectionStatus, ...] = ()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """All streams that an object concerns.

    `push` is the newest push that the object caused, 0 when none is remembered. While `current`
    is false, some class has not looked at the newest snapshot yet.
    """

    push: int = 0
    current: bool = True
    proxies: tuple[ProxyProgress, ...] = ()


class _Concern:
    """Which resources an object concerns, by the pushes it caused and by their origins."""

    def __init__(self, ref: ObjectRef, entries: Iterable[Entry]) -> None:
        self._ref: Final = ref
        self._made: dict[int, tuple[Collection, Names]] = {}  # the collection keeps its id
        self._changed: dict[str, set[str]] = {info.short: set() for info in TYPES}
        self.everything = False
        self.push = 0
        for entry in entries:
            if ref not in entry.objects:
                continue
            self.push = entry.number
            self.everything = self.everything or len(entry.changed) >= LIMIT
            for item in entry.changed:
                self._changed[item.short].add(item.name)

    def names(self, short: str, collection: Collection) -> Names:
        """Return the names in question, present in the collection or not."""
        if self.everything:
            return frozenset(collection.by_name)
        known = self._made.get(id(collection))
        if known is None:
            made = frozenset(
                name
                for name, resource in collection.by_name.items()
                if any(origin.ref == self._ref for origin in resource.origins)
            )
            known = self._made[id(collection)] = (collection, made)
        return known[1] | self._changed[short]

    def made(self, item: Item) -> bool:
        """Whether the object made some of it."""
        return any(origin.ref == self._ref for origin in item.origins)


def progress_of(
    ref: ObjectRef,
    *,
    streams: Iterable[Stream],
    entries: Iterable[Entry],
    rejections: Rejections,
    names: NameSets,
    now: float,
) -> Progress:
    """Return how far every stream is with an object; `now` is seconds since the epoch."""
    concern = _Concern(ref, entries)
    found: list[ProxyProgress] = []
    current = True
    for stream in streams:
        if stream.state.pending is not None:
            current = False
            continue
        one = _of_stream(stream, concern, rejections, names, now)
        if one is not None:
            found.append(one)
    found.sort(key=lambda entry: entry.connection_id)
    return Progress(push=concern.push, current=current, proxies=tuple(found))


def _of_stream(
    stream: Stream, concern: _Concern, rejections: Rejections, names: NameSets, now: float
) -> ProxyProgress | None:
    concerned = False
    waiting: list[str] = []
    rejected: list[RejectionStatus] = []
    for info in TYPES:
        watch = stream.session.watches.get(info.kind)
        asked = asked_by(stream, watch)
        expected = expected_of(stream, info.kind, watch, names, now)
        if expected is None:
            continue
        accepted = watch.accepted if watch is not None else None
        for name in sorted(concern.names(info.short, expected)):
            wanted = expected.get(name)
            if wanted is None and asked is not None and name not in asked:
                continue
            held = accepted.get(name) if accepted is not None else None
            if wanted is None and held is None:
                continue
            concerned = True
            if same(wanted, held):
                continue
            standing = rejections.standing(
                wanted, held, node=stream.proxy.id, build=stream.proxy.user_agent
            )
            if not standing and watch is not None:
                standing = [
                    one
                    for one in undecided_of(stream, watch, rejections)
                    if one.resource == name and concern.made(one.item)
                ]
            if not standing:
                waiting.append(f"{info.short} {name}")
            # Of a route configuration that others share, their part may be what is rejected.
            rejected += [
                rejection_status(one)
                for one in standing
                if not isinstance(one.item, VirtualHost) or concern.made(one.item)
            ]
    if not concerned:
        return None
    state = ProxyState.ACKNOWLEDGED
    if rejected:
        state = ProxyState.REJECTED
    elif waiting:
        state = ProxyState.WAITING
    return ProxyProgress(
        connection_id=stream.connection,
        proxy=stream.proxy.name,
        state=state,
        waiting_for=tuple(waiting),
        rejections=tuple(rejected),
    )


def asked_by(stream: Stream, watch: Watch | None) -> Names | None:
    """The names that a stream subscribes to, None for everything."""
    if watch is None or watch.wildcard:
        return None
    return watch.names.names


def expected_of(
    stream: Stream, kind: ResourceType, watch: Watch | None, names: NameSets, now: float
) -> Collection | None:
    """Return what a stream shall hold of a type, None when it never asks for that type."""
    base = stream.state.base
    asked: Names = watch.names.names if watch is not None else frozenset()
    follows = _follows(stream, now)
    if kind is RDS.kind and follows:
        # Routes that a listener asks for, whether the proxy has got that far or not.
        return base.collection(kind, names.intern(asked | base.route_names))
    if watch is not None:
        return base.collection(kind, watch.selected)
    if not follows:
        return None
    if kind is EDS.kind:
        return base.collection(kind, names.intern(base.eds_names))
    return base.collection(kind, None)


def _follows(stream: Stream, now: float) -> bool:
    """Whether the stream is an Envoy's that takes all listeners, or soon will."""
    watches: Mapping[ResourceType, Watch] = stream.session.watches
    listeners, clusters = watches.get(LDS.kind), watches.get(CDS.kind)
    if listeners is not None:
        return listeners.wildcard
    starting = now - stream.connected_at < STARTING
    return starting and clusters is not None and clusters.wildcard
