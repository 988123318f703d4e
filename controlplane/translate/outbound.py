"""What classes have in common within one snapshot, made once for all that read the same.

Owns the outbound clusters and listeners and the load assignments of narrowed classes. Must not
know which proxies there are. The rule that is easy to break: what is made here is found by the
narrowed class, and nothing but that class is handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Self

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.snapshot import Snapshot
from controlplane.translate.clusters import ClusterInput, outbound_cluster_inputs
from controlplane.translate.endpoints import LoadAssignmentInput, load_assignment_input
from controlplane.translate.listeners import (
    ListenerInput,
    outbound_conflicts,
    outbound_listener_inputs,
)
from controlplane.translate.narrowing import (
    Sights,
    for_clusters,
    for_listeners,
    for_load_assignments,
)
from controlplane.translate.resources import Resource, Translated
from controlplane.translate.scope import OutboundClass

_LISTS_KEPT: Final = 16


class Made(NamedTuple):
    """Resources of one type in wire order, and what was noticed while making them."""

    resources: tuple[Resource, ...]
    diagnostics: tuple[Diagnostic, ...]

    @classmethod
    def of(cls, made: Iterable[Translated], *diagnostics: Diagnostic) -> Self:
        """Return what was translated; the first of equal names wins."""
        by_name: dict[str, Resource] = {}
        noticed = list(diagnostics)
        for translated in made:
            noticed += translated.diagnostics
            if translated.resource is not None:
                by_name.setdefault(translated.resource.name, translated.resource)
        return cls(tuple(by_name.values()), tuple(noticed))

    def followed_by(self, made: Iterable[Translated]) -> Made:
        """Return this with more resources behind it."""
        more = Made.of(made)
        if not more.resources and not more.diagnostics:
            return self
        names = {resource.name for resource in self.resources}
        return Made(
            (*self.resources, *(item for item in more.resources if item.name not in names)),
            (*self.diagnostics, *more.diagnostics),
        )


class LoadAssignments:
    """The load assignments of one narrowed class."""

    def __init__(
        self,
        snapshot: Snapshot,
        cls: OutboundClass,
        make: Callable[[LoadAssignmentInput], Translated],
    ) -> None:
        self._snapshot: Final = snapshot
        self._cls: Final = cls
        self._make: Final = make
        self._known: Final[dict[str, Resource]] = {}
        self._many: Final[dict[tuple[str, ...], tuple[Resource, ...]]] = {}

    def of(self, cluster: str) -> Resource:
        """Return a cluster's load assignment; an unknown cluster gives an empty one."""
        found = self._known.get(cluster)
        if found is None:
            found = self._known[cluster] = self._find(cluster)
        return found

    def of_all(self, clusters: tuple[str, ...]) -> tuple[Resource, ...]:
        """Return the load assignments of many clusters, found once for all who ask for the same."""
        found = self._many.get(clusters)
        if found is None:
            # Another list has most of them; a table of all would outlive the lists that need it.
            known = dict(self._known)
            known.update((item.name, item) for items in self._many.values() for item in items)
            if len(self._many) >= _LISTS_KEPT:
                self._many.clear()
            found = self._many[clusters] = tuple(
                [known.get(cluster) or self._find(cluster) for cluster in clusters]
            )
        return found

    def _find(self, cluster: str) -> Resource:
        return present(self._make(load_assignment_input(self._snapshot, self._cls, cluster)))


class Outbound:
    """The outbound resources of one snapshot, whose inputs `make_*` turn into bytes.

    Valid for later snapshots that `fit`: none of these types reads VirtualServices.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        sights: Sights,
        *,
        make_cluster: Callable[[ClusterInput], Translated],
        make_listener: Callable[[ListenerInput], Translated],
        make_load_assignment: Callable[[LoadAssignmentInput], Translated],
    ) -> None:
        # Without its other parts, so that they are neither read nor kept.
        self._snapshot: Final = Snapshot(
            mesh=snapshot.mesh,
            services=snapshot.services,
            service_by_host=snapshot.service_by_host,
            endpoints=snapshot.endpoints,
            rules=snapshot.rules,
            gateways=snapshot.gateways,
        )
        self._sights: Final = sights
        self._make_cluster: Final = make_cluster
        self._make_listener: Final = make_listener
        self._make_load_assignment: Final = make_load_assignment
        self._clusters: Final[dict[OutboundClass, Made]] = {}
        self._listeners: Final[dict[OutboundClass, Made]] = {}
        self._load_assignments: Final[dict[OutboundClass, LoadAssignments]] = {}

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether another snapshot has the same in everything that is read here."""
        mine = self._snapshot
        return (
            snapshot.mesh is mine.mesh
            and snapshot.services is mine.services
            and snapshot.service_by_host is mine.service_by_host
            and snapshot.endpoints is mine.endpoints
            and snapshot.rules is mine.rules
            and snapshot.gateways is mine.gateways
        )

    def clusters(self, cls: OutboundClass) -> Made:
        """Return the outbound clusters of a class."""
        narrowed = for_clusters(cls, self._sights)
        found = self._clusters.get(narrowed)
        if found is None:
            inputs = outbound_cluster_inputs(self._snapshot, narrowed)
            found = self._clusters[narrowed] = Made.of(map(self._make_cluster, inputs))
        return found

    def listeners(self, cls: OutboundClass) -> Made:
        """Return the outbound listeners of a class, or those of a gateway."""
        narrowed = for_listeners(cls, self._sights)
        found = self._listeners.get(narrowed)
        if found is None:
            inputs = outbound_listener_inputs(self._snapshot, narrowed)
            conflicts = outbound_conflicts(self._snapshot, narrowed)
            found = Made.of(map(self._make_listener, inputs), *conflicts)
            self._listeners[narrowed] = found
        return found

    def load_assignments(self, cls: OutboundClass) -> LoadAssignments:
        """Return the load assignments of a class, each made when it is asked for."""
        narrowed = for_load_assignments(cls, self._sights)
        found = self._load_assignments.get(narrowed)
        if found is None:
            found = LoadAssignments(self._snapshot, narrowed, self._make_load_assignment)
            self._load_assignments[narrowed] = found
        return found


def present(made: Translated) -> Resource:
    """Return the resource of a translation that always gives one."""
    if made.resource is None:
        raise AssertionError("routes and load assignments are never absent")
    return made.resource
