"""What classes have in common within one snapshot, made once for all that read the same.

Owns the outbound clusters and listeners and the load assignments of narrowed classes. Must not
know which proxies there are. The rules that are easy to break: what is made here is found by the
narrowed class, and nothing but that class is handed on; and what is taken over from a former
snapshot depends on no host whose service, endpoints or DestinationRules are others now.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Self

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.diff import changed_hosts
from controlplane.model.names import Host
from controlplane.model.services import Service
from controlplane.model.snapshot import Snapshot
from controlplane.translate.cluster_inputs import (
    ClusterInput,
    ServiceClusterInput,
    fixed_cluster_inputs,
    outbound_cluster_inputs,
    service_cluster_inputs,
)
from controlplane.translate.endpoints import LoadAssignmentInput, load_assignment_input
from controlplane.translate.listeners import (
    ListenerInput,
    listen_alike,
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
_NOBODY: Final[frozenset[Host]] = frozenset()


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


class _Clusters(NamedTuple):
    """All clusters of a class, and what was noticed, by the few services that have anything.

    `stale` are the hosts whose clusters have to be made again.
    """

    resources: tuple[Resource, ...]
    noticed: Mapping[Service, tuple[Diagnostic, ...]]
    stale: frozenset[Host] = _NOBODY

    @classmethod
    def of(
        cls, inputs: Iterable[ClusterInput], make: Callable[[ClusterInput], Translated]
    ) -> _Clusters:
        """Return what was translated; the first of equal names wins."""
        by_name: dict[str, Resource] = {}
        noticed: dict[Service, tuple[Diagnostic, ...]] = {}
        for value in inputs:
            translated = make(value)
            if translated.diagnostics and isinstance(value, ServiceClusterInput):
                known = noticed.get(value.service, ())
                noticed[value.service] = (*known, *translated.diagnostics)
            if translated.resource is not None:
                by_name.setdefault(translated.resource.name, translated.resource)
        return cls(tuple(by_name.values()), noticed)

    def renewed(self, services: _Clusters, fixed: _Clusters) -> _Clusters:
        """Return the clusters with those of some services in the place of those of stale hosts."""
        kept = [
            item
            for item in self.resources
            if isinstance(item.made_of, ServiceClusterInput)
            and item.made_of.service.host not in self.stale
        ]
        for item in services.resources:
            insort(kept, item, key=_age)
        noticed = {
            service: found
            for service, found in self.noticed.items()
            if service.host not in self.stale
        }
        return _Clusters((*kept, *fixed.resources), {**noticed, **services.noticed})

    @property
    def made(self) -> Made:
        """The clusters with what was noticed, in the order of the services."""
        noticed = sorted(self.noticed.items(), key=lambda pair: pair[0].age)
        return Made(self.resources, tuple(entry for _, found in noticed for entry in found))


def _age(cluster: Resource) -> tuple[str, Host]:
    value = cluster.made_of
    if not isinstance(value, ServiceClusterInput):
        raise AssertionError("the clusters of services are made of nothing else")
    return value.service.age


class LoadAssignments:
    """The load assignments of one narrowed class."""

    def __init__(
        self,
        snapshot: Snapshot,
        cls: OutboundClass,
        make: Callable[[LoadAssignmentInput], Translated],
        former: tuple[tuple[Resource, ...], ...] = (),
        stale: frozenset[Host] = _NOBODY,
    ) -> None:
        """`former` are lists of another snapshot, right but for stale hosts."""
        self._snapshot: Final = snapshot
        self._cls: Final = cls
        self._make: Final = make
        self._former = former
        self._stale = stale
        self._known: Final[dict[str, Resource]] = {}
        self._many: Final[dict[tuple[str, ...], tuple[Resource, ...]]] = {}

    def after(self, snapshot: Snapshot, hosts: frozenset[Host]) -> LoadAssignments:
        """Return those of a snapshot in which these hosts are different."""
        former, stale = self._former, self._stale | hosts
        if self._many:
            former, stale = tuple(self._many.values()), hosts
        if _are_many(stale, snapshot):
            former, stale = (), _NOBODY
        return LoadAssignments(snapshot, self._cls, self._make, former, stale)

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
            stale = self._stale
            # Another list has most of them; a table of all would outlive the lists that need it.
            known = {
                item.name: item
                for items in self._former
                for item in items
                if item.name.rpartition("|")[2] not in stale
            }
            known.update(self._known)
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

    Valid for later snapshots that `fit`: none of these types reads VirtualServices. `former` are
    those of another snapshot; of theirs is taken over what is the same.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        sights: Sights,
        *,
        make_cluster: Callable[[ClusterInput], Translated],
        make_listener: Callable[[ListenerInput], Translated],
        make_load_assignment: Callable[[LoadAssignmentInput], Translated],
        former: Outbound | None = None,
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
        self._clusters: Final[dict[OutboundClass, _Clusters]] = {}
        self._listeners: Final[dict[OutboundClass, Made]] = {}
        self._load_assignments: Final[dict[OutboundClass, LoadAssignments]] = {}
        if former is not None:
            self._take_over(former)

    def _take_over(self, former: Outbound) -> None:
        """Keep of another snapshot what only other hosts could change."""
        old, new = former._snapshot, self._snapshot
        hosts = changed_hosts(old, new)
        if hosts is None or old.mesh is not new.mesh:
            return
        # What nobody asked for while others asked is in use no more.
        asked = any(not found.stale for found in former._clusters.values())
        for cls, found in former._clusters.items():
            stale = found.stale | hosts
            if not (asked and found.stale) and not _are_many(stale, new):
                self._clusters[cls] = found._replace(stale=stale)
        for cls, assignments in former._load_assignments.items():
            self._load_assignments[cls] = assignments.after(new, hosts)
        same_listeners = all(
            listen_alike(old.service_by_host.get(host), new.service_by_host.get(host))
            for host in hosts
        )
        for cls, made in former._listeners.items():
            if old.gateways is new.gateways if cls.is_router else same_listeners:
                self._listeners[cls] = made

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
        snapshot, make = self._snapshot, self._make_cluster
        found = self._clusters.get(narrowed)
        if found is None:
            inputs = outbound_cluster_inputs(snapshot, narrowed)
            found = self._clusters[narrowed] = _Clusters.of(inputs, make)
        elif found.stale:
            hosts = snapshot.service_by_host
            services = [hosts[host] for host in found.stale if host in hosts]
            found = self._clusters[narrowed] = found.renewed(
                _Clusters.of(service_cluster_inputs(snapshot, narrowed, services), make),
                _Clusters.of(fixed_cluster_inputs(snapshot, narrowed), make),
            )
        return found.made

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


def _are_many(hosts: frozenset[Host], snapshot: Snapshot) -> bool:
    """Whether so many hosts are different that looking at all of them costs no more."""
    return len(hosts) * 8 > len(snapshot.services)


def present(made: Translated) -> Resource:
    """Return the resource of a translation that always gives one."""
    if made.resource is None:
        raise AssertionError("routes and load assignments are never absent")
    return made.resource
