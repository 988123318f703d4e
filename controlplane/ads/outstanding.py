"""Which objects some proxies do not run yet: of all objects at once, as the status writer asks.

Reads only. Where `progress` asks about one object, this walks the streams: most hold exactly
what they shall, which one comparison by identity shows, and streams of a class share the rest.
The rule that is easy to break: what a proxy rejected is not outstanding, it is a finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from controlplane.ads.cache import NameSets
from controlplane.ads.classes import Stream
from controlplane.ads.progress import asked_by, expected_of
from controlplane.ads.rejections import Rejections
from controlplane.ads.types import TYPES
from controlplane.model.meta import ObjectRef
from controlplane.translate.resources import Resource


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """How many proxies wait for the current version, by object; objects of which none does are
    left out. While `current` is false, some class has not looked at the newest snapshot yet."""

    current: bool = True
    waiting: Mapping[ObjectRef, int] = {}


def outstanding_of(
    streams: Iterable[Stream], *, rejections: Rejections, names: NameSets, now: float
) -> Outstanding:
    """Return what is outstanding; `now` is seconds since the epoch."""
    current = True
    waiting: Counter[ObjectRef] = Counter()
    for stream in streams:
        if stream.state.pending is not None:
            current = False
            continue
        waiting.update(
            {
                origin.ref
                for resource in _outstanding(stream, rejections, names, now)
                for origin in resource.origins
            }
        )
    return Outstanding(current=current, waiting=waiting)


def _outstanding(
    stream: Stream, rejections: Rejections, names: NameSets, now: float
) -> Iterator[Resource]:
    """Yield the resources that a stream shall hold and does not, and those that it shall not."""
    proxy = stream.proxy
    for info in TYPES:
        watch = stream.session.watches.get(info.kind)
        expected = expected_of(stream, info.kind, watch, names, now)
        if expected is None:
            continue
        accepted = watch.accepted if watch is not None else None
        changed, removed = expected.difference(accepted)
        for name in changed:
            wanted = expected.by_name[name]
            held = accepted.get(name) if accepted is not None else None
            if not rejections.standing(wanted, held, node=proxy.id, build=proxy.user_agent):
                yield wanted
        if not removed or accepted is None:
            continue
        asked = asked_by(stream, watch)
        for name in removed:
            if asked is None or name in asked:
                yield accepted.by_name[name]
