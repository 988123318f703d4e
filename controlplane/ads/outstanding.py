"""Which objects some proxies do not run yet: of all objects at once, as the status writer asks.

Reads only. Where `progress` asks about one object, this walks the streams: most hold exactly
what they shall, which one comparison by identity shows, and streams of a class share the rest.
The rule that is easy to break: what a proxy rejected is not outstanding, it is a finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from controlplane.ads.cache import Collection
from controlplane.ads.classes import Stream
from controlplane.ads.name_sets import NameSets
from controlplane.ads.progress import asked_by, expected_of
from controlplane.ads.rejections import Rejections
from controlplane.ads.types import TYPES, Names
from controlplane.model.meta import ObjectRef
from controlplane.model.proxy import Proxy
from controlplane.translate.resources import Resource

Refs = frozenset[ObjectRef]


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """How many proxies wait for the current version, by object; objects of which none does are
    left out. While `current` is false, some class has not looked at the newest snapshot yet."""

    current: bool = True
    waiting: Mapping[ObjectRef, int] = {}


def outstanding_of(
    streams: Iterable[Stream], *, rejections: Rejections, names: NameSets, now: float
) -> Outstanding:
    """Return what is outstanding; `now` is seconds since the epoch."""
    walk = _Walk(rejections, names, now)
    current = True
    alike: Counter[tuple[Refs, ...]] = Counter()
    for stream in streams:
        if stream.state.pending is not None:
            current = False
        else:
            alike[tuple(walk.of(stream))] += 1
    waiting: Counter[ObjectRef] = Counter()
    for parts, count in alike.items():
        for ref in frozenset().union(*parts):
            waiting[ref] += count
    return Outstanding(current=current, waiting=waiting)


class _Walk:
    """One walk over all streams; what is the same for many of them is found out once."""

    def __init__(self, rejections: Rejections, names: NameSets, now: float) -> None:
        self._rejections: Final = rejections
        self._names: Final = names
        self._now: Final = now
        # By what is expected, accepted and asked for. The values keep the keys' objects alive.
        self._known: dict[tuple[int, int, int], tuple[Refs, Collection, object, object]] = {}

    def of(self, stream: Stream) -> Iterator[Refs]:
        """Yield the objects that the stream's proxy does not run yet, by resource type."""
        for info in TYPES:
            watch = stream.session.watches.get(info.kind)
            expected = expected_of(stream, info.kind, watch, self._names, self._now)
            if expected is None:
                continue
            accepted = watch.accepted if watch is not None else None
            if accepted is expected:
                continue
            asked = asked_by(stream, watch)
            if self._rejections.concerning(info.kind, stream.proxy.id, stream.proxy.user_agent):
                refs = self._refs(stream.proxy, expected, accepted, asked)
            else:
                key = (id(expected), id(accepted), id(asked))
                known = self._known.get(key)
                if known is None:
                    made = self._refs(stream.proxy, expected, accepted, asked)
                    known = self._known[key] = (made, expected, accepted, asked)
                refs = known[0]
            if refs:
                yield refs

    def _refs(
        self,
        proxy: Proxy,
        expected: Collection,
        accepted: Collection | None,
        asked: Names | None,
    ) -> Refs:
        return frozenset(
            origin.ref
            for resource in self._resources(proxy, expected, accepted, asked)
            for origin in resource.origins
        )

    def _resources(
        self,
        proxy: Proxy,
        expected: Collection,
        accepted: Collection | None,
        asked: Names | None,
    ) -> Iterator[Resource]:
        """Yield what a proxy shall hold and does not, and what it holds and shall not."""
        changed, removed = expected.difference(accepted)
        for name in changed:
            wanted = expected.by_name[name]
            held = accepted.get(name) if accepted is not None else None
            if not self._rejections.standing(wanted, held, node=proxy.id, build=proxy.user_agent):
                yield wanted
        if accepted is not None:
            for name in removed:
                if asked is None or name in asked:
                    yield accepted.by_name[name]
