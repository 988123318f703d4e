"""What the streams of one class shall hold at one moment.

A `ClassView` is never changed; the next snapshot gives the next view, which takes over every
collection whose content is the same, so that "nothing changed" is an identity check. The rule
that is easy to break: a view asks the generator only about its own snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from controlplane.ads.cache import Collection, Collections
from controlplane.ads.decisions import Decisions
from controlplane.ads.name_sets import NameSet
from controlplane.ads.types import Names, ResourceGenerator
from controlplane.model.names import Host
from controlplane.model.snapshot import Snapshot
from controlplane.translate.resources import Resource, ResourceType
from controlplane.translate.scope import ProxyClass

# Looking up a member of an enum takes a while, and this is asked for each stream of each push.
_CLUSTER: Final = ResourceType.CLUSTER
_LISTENER: Final = ResourceType.LISTENER
_NAME_TABLE: Final = ResourceType.NAME_TABLE
_ENDPOINT: Final = ResourceType.ENDPOINT

MAX_UNKNOWN: Final = 5_000
"""Names that nobody knows are answered up to this many per stream and type; a client that asks
for more is not an Envoy that follows its configuration."""


class Retained(NamedTuple):
    """A cluster that is no longer wanted and still shown; `until` is in the clock's seconds."""

    cluster: Resource
    assignment: Resource | None
    until: float


class ClassView:
    """The resources of a class in a snapshot."""

    __slots__ = (
        "_base",
        "_collections",
        "_generator",
        "_retaining",
        "_selections",
        "_table",
        "_table_was",
        "_was",
        "cls",
        "clusters",
        "decisions",
        "kinds",
        "listeners",
        "push",
        "retained",
        "route_names",
        "snapshot",
    )

    def __init__(
        self,
        generator: ResourceGenerator,
        cls: ProxyClass,
        snapshot: Snapshot,
        *,
        collections: Collections,
        clusters: Collection,
        listeners: Collection,
        kinds: tuple[ResourceType, ...] = tuple(ResourceType),
        push: int = 0,
        base: ClassView | None = None,
        retained: Mapping[str, Retained] | None = None,
    ) -> None:
        self._generator: Final = generator
        self._collections: Final = collections
        self.cls: Final = cls
        self.snapshot: Final = snapshot
        self.clusters: Final = clusters
        self.listeners: Final = listeners
        self.push: Final = push
        self.kinds: Final = kinds  # of which the view before it may have shown something else
        # No reference to itself: a view is large, and a cycle would outlive many pushes.
        self._base: Final = base
        self.retained: Final[Mapping[str, Retained]] = retained or {}
        self.route_names: Final[Names] = (
            base.route_names
            if base is not None
            else frozenset(name for item in listeners.by_name.values() for name in item.routes)
        )
        self._selections: dict[ResourceType, WeakKeyDictionary[NameSet, Collection]] = {}
        self._was: Mapping[ResourceType, WeakKeyDictionary[NameSet, Collection]] = {}
        self._table: Collection | None = None
        self._table_was: Collection | None = None
        self._retaining: dict[tuple[str, ...], ClassView] = {}
        self.decisions: Final = Decisions()

    @classmethod
    def first(
        cls,
        generator: ResourceGenerator,
        proxy_class: ProxyClass,
        snapshot: Snapshot,
        collections: Collections,
    ) -> ClassView:
        """Return the view of a class that has none yet; `collections` are those of all classes."""
        return cls(
            generator,
            proxy_class,
            snapshot,
            collections=collections,
            clusters=Collection.of(ResourceType.CLUSTER, generator.clusters(snapshot, proxy_class)),
            listeners=Collection.of(
                ResourceType.LISTENER, generator.listeners(snapshot, proxy_class)
            ),
        )

    def after_config(
        self, snapshot: Snapshot, *, unread: frozenset[ResourceType], push: int
    ) -> ClassView:
        """Return the view in a snapshot whose configuration changed.

        Types in `unread` read nothing of what changed and are taken over.
        """
        clusters = (
            self.clusters
            if ResourceType.CLUSTER in unread
            else _kept(
                self.clusters,
                Collection.of(ResourceType.CLUSTER, self._generator.clusters(snapshot, self.cls)),
            )
        )
        listeners = (
            self.listeners
            if ResourceType.LISTENER in unread
            else _kept(
                self.listeners,
                Collection.of(ResourceType.LISTENER, self._generator.listeners(snapshot, self.cls)),
            )
        )
        same = set(unread)
        if clusters is self.clusters:
            same.add(_CLUSTER)
        if listeners is self.listeners:
            same.add(_LISTENER)
        view = ClassView(
            self._generator,
            self.cls,
            snapshot,
            collections=self._collections,
            clusters=clusters,
            listeners=listeners,
            kinds=tuple(kind for kind in ResourceType if kind not in same),
            push=push,
        )
        for kind, known in self._selections.items():
            if kind in unread:
                view._selections[kind] = WeakKeyDictionary(known)
        view._was = self._selections
        if ResourceType.NAME_TABLE in unread:
            view._table = self._table
        view._table_was = self._table
        return view

    def after_endpoints(
        self, snapshot: Snapshot, hosts: frozenset[Host], *, push: int
    ) -> ClassView:
        """Return the view in a snapshot in which only the endpoints of these hosts changed."""
        view = ClassView(
            self._generator,
            self.cls,
            snapshot,
            collections=self._collections,
            clusters=self.clusters,
            listeners=self.listeners,
            kinds=(_ENDPOINT,),
            push=push,
        )
        for kind, known in self._selections.items():
            view._selections[kind] = WeakKeyDictionary(known)
        view._table = self._table
        chosen = view._selections.setdefault(ResourceType.ENDPOINT, WeakKeyDictionary())
        for names, old in list(chosen.items()):
            made = self._generator.load_assignments(snapshot, self.cls, names.of_hosts(hosts))
            chosen[names] = old.replacing(made)
        return view

    def retaining(self, retained: Mapping[str, Retained]) -> ClassView:
        """Return this view with clusters that are on their way out beside its own."""
        kept = {name: item for name, item in retained.items() if name not in self.clusters.by_name}
        if not kept:
            return self
        key = tuple(
            sorted(
                f"{name}={item.cluster.version}={item.assignment and item.assignment.version}"
                for name, item in kept.items()
            )
        )
        found = self._retaining.get(key)
        if found is None:
            shown = self.clusters.overlay({name: item.cluster for name, item in kept.items()})
            found = self._retaining[key] = ClassView(
                self._generator,
                self.cls,
                self.snapshot,
                collections=self._collections,
                clusters=shown,
                listeners=self.listeners,
                push=self.push,
                base=self,
                retained=kept,
            )
        return found

    @property
    def base(self) -> ClassView:
        """The view without what is retained beside it."""
        return self if self._base is None else self._base

    def collection(self, kind: ResourceType, names: NameSet | None) -> Collection:
        """Return what a client shall hold: everything when `names` is None, else these."""
        if kind is _CLUSTER:
            return self.clusters if names is None else self.clusters.restrict(names)
        if kind is _LISTENER:
            return self.listeners if names is None else self.listeners.restrict(names)
        if kind is _NAME_TABLE:
            return self.table if names is None else self.table.restrict(names)
        return Collection(kind, {}) if names is None else self._select(kind, names)

    @property
    def table(self) -> Collection:
        """The name table; made when the first agent asks for it."""
        if self._base is not None:
            return self._base.table
        if self._table is None:
            made = Collection.of(
                ResourceType.NAME_TABLE, (self._generator.name_table(self.snapshot, self.cls),)
            )
            self._table = made if self._table_was is None else _kept(self._table_was, made)
        return self._table

    def _select(self, kind: ResourceType, names: NameSet) -> Collection:
        if self._base is not None:
            chosen = self._base._select(kind, names)
            if kind is not _ENDPOINT:
                return chosen
            return chosen.overlay(
                {
                    item.assignment.name: item.assignment
                    for item in self.retained.values()
                    if item.assignment is not None and item.assignment.name in names.names
                }
            )
        selections = self._selections.get(kind)
        if selections is None:
            selections = self._selections[kind] = WeakKeyDictionary()
        found = selections.get(names)
        if found is None:
            made = self._collections.of(kind, self._generate(kind, names))
            before = self._was.get(kind)
            old = before.get(names) if before is not None else None
            found = selections[names] = made if old is None else _kept(old, made)
        return found

    def _generate(self, kind: ResourceType, names: NameSet) -> Iterable[Resource]:
        known = self.clusters.by_name if kind is _ENDPOINT else self.route_names
        asked, unknown = names.ordered, names.names.difference(known)
        if len(unknown) > MAX_UNKNOWN:
            unanswered = frozenset(sorted(unknown)[MAX_UNKNOWN:])
            asked = tuple(name for name in asked if name not in unanswered)
        if kind is _ENDPOINT:
            return self._generator.load_assignments(self.snapshot, self.cls, asked)
        return [self._generator.route(self.snapshot, self.cls, name) for name in asked]

    @property
    def eds_names(self) -> Names:
        """The names that the EDS clusters of the class ask for, gathered anew each time."""
        clusters = self.clusters
        return frozenset(name for name in clusters.by_name if clusters.asks_eds(name))

    def not_asked(self, names: Iterable[str]) -> Names:
        """Return those of these names that no EDS cluster of the class asks for."""
        clusters = self.clusters
        return frozenset(name for name in names if not clusters.asks_eds(name))

    def selections(self, kind: ResourceType) -> tuple[Collection, ...]:
        """Return the collections that streams of the class asked for by name."""
        known = self.base._selections.get(kind)
        return () if known is None else tuple(known.values())

    def selection_pairs(
        self, old: ClassView, kind: ResourceType
    ) -> list[tuple[Collection, Collection]]:
        """Return what the same names were in an older view and are in this one."""
        before = old.base._selections.get(kind)
        after = self.base._selections.get(kind)
        if before is None or after is None:
            return []
        return [
            (was, selection)
            for names, selection in after.items()
            if (was := before.get(names)) is not None and was is not selection
        ]

    def collections(self) -> tuple[Collection, ...]:
        """Return every collection of the view."""
        return (
            self.clusters,
            self.listeners,
            *self.selections(ResourceType.ENDPOINT),
            *self.selections(ResourceType.ROUTE),
            *(() if self.base._table is None else (self.base._table,)),
        )

    def uses(self) -> Names:
        """Return the clusters that listeners and requested routes of the class name."""
        found: set[str] = set()
        for item in self.listeners.by_name.values():
            found |= item.clusters
        for selection in self.selections(ResourceType.ROUTE):
            for item in selection.by_name.values():
                found |= item.clusters
        return frozenset(found)

    def assignment(self, name: str) -> Resource:
        """Return the load assignment of a cluster of the view, whether asked for or not.

        A client may ask only when the cluster has left already.
        """
        for selection in self.selections(ResourceType.ENDPOINT):
            found = selection.get(name)
            if found is not None:
                return found
        return self._generator.load_assignment(self.snapshot, self.cls, name)

    def forget_before(self, successor: ClassView) -> None:
        """Free the assembled responses that only this view needed."""
        kept = set(map(id, successor.collections()))
        pairs = successor.selection_pairs(self, ResourceType.ROUTE)
        follows = {id(was): now for was, now in pairs}
        for collection in self.collections():
            if id(collection) not in kept:
                collection.superseded(follows.get(id(collection)))
        self._was = {}
        self._table_was = None


def _kept(old: Collection, new: Collection) -> Collection:
    """Return the old collection when the new one says the same."""
    if len(old) == len(new) and not new.difference(old).changed:
        return old
    return new
