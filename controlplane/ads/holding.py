"""Make before break, first half: routes and listeners that wait for clusters being added.

Owns what waits on one stream: a virtual host where a route configuration can be mixed of old and
new ones, else the whole resource. The rule that is easy to break: what waits is not overtaken. It
goes out when its own clusters are ready or their time is over, and only then what came after it
begins to wait; else changes that come faster than clusters get ready would hold it back for ever.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

from controlplane.ads.adding import Adding
from controlplane.ads.cache import Collection
from controlplane.ads.mixtures import Mixtures
from controlplane.ads.types import RDS, Names
from controlplane.ads.views import ClassView
from controlplane.ads.watch import Watch
from controlplane.translate.resources import Part, Resource, ResourceType

_AT_ONCE: Final = 0.0  # a time that is over


class _Host(NamedTuple):
    """A virtual host that waits."""

    part: Part
    domains: Names


class _Waiting:
    """What waits of one type: whole resources, and virtual hosts by route configuration."""

    __slots__ = ("hosts", "wholes")

    def __init__(self) -> None:
        self.wholes: dict[str, Resource] = {}
        self.hosts: dict[str, dict[str, _Host]] = {}

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
        self, watch: Watch, wanted: Collection, view: ClassView, adding: Adding, mixtures: Mixtures
    ) -> dict[str, Resource | None]:
        """Return what is shown instead for now, and set until when the watch waits.

        A route or listener that newly names a cluster which is being added waits for the answer
        to CDS. A route configuration that no listener asks for any more is not emptied under
        connections that still use it; what is left in it is the answer for unknown hosts.
        """
        before = self._waiting.pop(watch.info.kind, _NOTHING)
        if watch.withholds:
            before = _NOTHING  # some of what waited may have been rejected by others meanwhile
        look = _Look(watch, view, adding, before)
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

    def __init__(self, watch: Watch, view: ClassView, adding: Adding, before: _Waiting) -> None:
        self._watch: Final = watch
        self._view: Final = view
        self._adding: Final = adding
        self._before: Final = before
        self.waiting: Final = _Waiting()

    def at(self, new: Resource, old: Resource | None, mixtures: Mixtures) -> Resource | None:
        """Return what is shown of a resource of which the client holds another."""
        known = old.clusters if old is not None else frozenset()
        first, hosts = self._before.wholes.get(new.name), self._before.hosts.get(new.name, {})
        if first is None and not hosts and self._adding.end(new.clusters, known) is None:
            return new
        if self._watch.info is RDS and old is not None and first is None:
            mixed = self._mixed(new, old, hosts, mixtures)
            if mixed is not None:
                return mixed
        if (
            first is None
            or not self._are_there(first.clusters, new)
            or not first.routes <= new.routes | self._view.route_names
        ):
            first = new
        if self._waits(first.clusters, known):
            self.waiting.wholes[new.name] = first
            return old
        if first is not new:
            self._look_again(_AT_ONCE)
        return first

    def _mixed(
        self, new: Resource, old: Resource, before: Mapping[str, _Host], mixtures: Mixtures
    ) -> Resource | None:
        """Return a mixture of both, None when it cannot be cut where it has to wait."""
        instead: dict[str, Part | None] = {}
        waiting: dict[str, _Host] = {}
        compared = mixtures.compare(old, new)
        for change in compared.changes:
            first = before.get(change.host)
            if (
                first is None
                or first.domains != change.domains
                or not self._are_there(first.part.clusters, new)
            ):
                first = _Host(change.new, change.domains)
            if self._waits(first.part.clusters, old.clusters):
                if not (compared.mixable and change.same_domains):
                    return None
                waiting[change.host] = first
                instead[change.host] = change.old
            elif first.part is not change.new:
                instead[change.host] = first.part
                self._look_again(_AT_ONCE)
        if waiting:
            self.waiting.hosts[new.name] = waiting
        return mixtures.mix(old, new, instead, keep=bool(waiting))

    def _are_there(self, clusters: Iterable[str], new: Resource) -> bool:
        """Whether these clusters are shown, but for those that do not exist as the user wishes."""
        shown = self._view.clusters.by_name
        return all(name in shown or name in new.clusters for name in clusters)

    def _waits(self, clusters: Container[str], known: Names) -> bool:
        end = self._adding.end(clusters, known)
        if end is not None:
            self._look_again(end)
        return end is not None

    def _look_again(self, at: float) -> None:
        held = self._watch.hold_until
        self._watch.hold_until = at if held is None else min(held, at)
