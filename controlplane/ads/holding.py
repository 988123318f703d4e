"""Make before break, first half: routes and listeners that wait for clusters being added.

Owns what waits on one stream: a virtual host where a route configuration can be mixed of old and
new ones, else the whole resource. Shown is the newest whose clusters are ready, or have had their
time. The rule that is easy to break: what waits is not forgotten for what comes after it; else
changes that come faster than clusters get ready would hold it back for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from controlplane.ads.adding import Adding
from controlplane.ads.cache import Collection
from controlplane.ads.mixtures import Mixtures
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, RDS, Names
from controlplane.ads.views import ClassView
from controlplane.ads.virtual_hosts import Item, VirtualHost
from controlplane.ads.watch import Watch
from controlplane.translate.resources import Part, Resource, ResourceType

_APART: Final = ACKNOWLEDGE_LIMIT / 8
"""Seconds between the ends of what waits in a row: of more than that not each is remembered."""


class _Host(NamedTuple):
    """A virtual host that waits."""

    part: Part
    domains: Names


_Candidate = TypeVar("_Candidate", Resource, _Host)


class _Waiting:
    """What waits of one type, oldest first: whole resources, and virtual hosts by route
    configuration."""

    __slots__ = ("hosts", "wholes")

    def __init__(self) -> None:
        self.wholes: dict[str, list[Resource]] = {}
        self.hosts: dict[str, dict[str, list[_Host]]] = {}

    def __bool__(self) -> bool:
        return bool(self.wholes or self.hosts)


_NOTHING: Final = _Waiting()


class Holding:
    """What waits on one stream."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[ResourceType, _Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def hold_back(
        self,
        watch: Watch,
        wanted: Collection,
        view: ClassView,
        adding: Adding,
        *,
        mixtures: Mixtures,
        withheld: Callable[[Item], bool] | None,
    ) -> dict[str, Resource | None]:
        """Return what is shown instead for now, and set until when the watch waits.

        A route or listener that newly names a cluster which is being added waits for the answer
        to CDS. A route configuration that no listener asks for any more is not emptied under
        connections that still use it; what is left in it is the answer for unknown hosts.
        `withheld` says what of that which waited was rejected meanwhile, None if nothing was.
        """
        before = self._waiting.pop(watch.info.kind, _NOTHING)
        look = _Look(watch, view, adding, before, withheld)
        instead: dict[str, Resource | None] = {}
        for name in wanted.difference(watch.sent).changed:
            resource = wanted.by_name[name]
            old = watch.sent.get(name) if watch.sent is not None else None
            if (
                watch.info is RDS
                and old is not None
                and name not in view.route_names
                and resource.clusters < old.clusters
            ):
                instead[name] = old
            elif adding or before:
                shown = look.at(resource, old, mixtures)
                if shown is not resource:
                    instead[name] = shown
        if look.waiting:
            self._waiting[watch.info.kind] = look.waiting
        return instead


class _Look:
    """One look at what a watch has to wait for; `before` is what waited already."""

    def __init__(
        self,
        watch: Watch,
        view: ClassView,
        adding: Adding,
        before: _Waiting,
        withheld: Callable[[Item], bool] | None,
    ) -> None:
        self._watch: Final = watch
        self._view: Final = view
        self._adding: Final = adding
        self._before: Final = before
        self._withheld: Final = withheld
        self.waiting: Final = _Waiting()

    def at(self, new: Resource, old: Resource | None, mixtures: Mixtures) -> Resource | None:
        """Return what is shown of a resource of which the client holds another."""
        known = old.clusters if old is not None else frozenset()
        wholes, hosts = self._before.wholes.get(new.name, ()), self._before.hosts.get(new.name, {})
        if not wholes and not hosts and self._adding.end(new.clusters, known) is None:
            return new
        if self._watch.info is RDS and old is not None and not wholes:
            mixed = self._mixed(new, old, hosts, mixtures)
            if mixed is not None:
                return mixed
        row = [
            first
            for first in wholes
            if self._are_there(first.clusters, new)
            and first.routes <= new.routes | self._view.route_names
            and not (self._withheld is not None and self._withheld(first))
        ]
        shown, waiting = self._newest([*row, new], known)
        if waiting:
            self.waiting.wholes[new.name] = waiting
        return old if shown is None else shown

    def _mixed(
        self,
        new: Resource,
        old: Resource,
        before: Mapping[str, Sequence[_Host]],
        mixtures: Mixtures,
    ) -> Resource | None:
        """Return a mixture of both, None when it cannot be cut where it has to wait."""
        instead: dict[str, Part | None] = {}
        waiting: dict[str, list[_Host]] = {}
        compared = mixtures.compare(old, new)
        for change in compared.changes:
            row = [
                first
                for first in before.get(change.host, ())
                if first.domains == change.domains
                and self._are_there(first.part.clusters, new)
                and not (
                    self._withheld is not None
                    and self._withheld(VirtualHost(new.name, change.host, first.part))
                )
            ]
            shown, rest = self._newest([*row, _Host(change.new, change.domains)], old.clusters)
            if shown is None and not (compared.mixable and change.same_domains):
                return None
            if rest:
                waiting[change.host] = rest
                instead[change.host] = change.old if shown is None else shown.part
        if waiting:
            self.waiting.hosts[new.name] = waiting
        return mixtures.mix(old, new, instead, keep=bool(waiting))

    def _are_there(self, clusters: Iterable[str], new: Resource) -> bool:
        """Whether these clusters are shown, but for those that do not exist as the user wishes."""
        shown = self._view.clusters.by_name
        return all(name in shown or name in new.clusters for name in clusters)

    def _newest(
        self, row: Iterable[_Candidate], known: Names
    ) -> tuple[_Candidate | None, list[_Candidate]]:
        """Return the newest of a row that has not to wait, and what comes after it.

        Of what is ready no sooner than something newer nothing is remembered, nor of what is
        ready at nearly the same time.
        """
        shown: _Candidate | None = None
        waiting: list[tuple[float, _Candidate]] = []
        for one in row:
            clusters = one.clusters if isinstance(one, Resource) else one.part.clusters
            end = self._adding.end(clusters, known)
            if end is None:
                shown, waiting = one, []
                continue
            while waiting and waiting[-1][0] >= end:
                waiting.pop()
            if len(waiting) > 1 and waiting[-1][0] - waiting[-2][0] < _APART:
                waiting.pop()
            waiting.append((end, one))
        if waiting:
            held, first = self._watch.hold_until, waiting[0][0]
            self._watch.hold_until = first if held is None else min(held, first)
        return shown, [one for _, one in waiting]
