"""All resources of a proxy class, each made once per distinct input.

Owns which inputs a class has and the memory of what they became. Must not know streams. The
rule that is easy to break: results are looked up by value (`Memo`), never by "what changed".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.proxy import Proxy
from controlplane.model.snapshot import EMPTY, ServiceTarget, Snapshot
from controlplane.translate.clusters import build_cluster, outbound_cluster_inputs
from controlplane.translate.endpoints import build_load_assignment, load_assignment_input
from controlplane.translate.inbound_clusters import build_inbound_cluster, inbound_cluster_inputs
from controlplane.translate.listeners import (
    build_listener,
    inbound_listener_inputs,
    outbound_conflicts,
    outbound_listener_inputs,
)
from controlplane.translate.memo import Memo
from controlplane.translate.name_table import name_table
from controlplane.translate.narrowing import (
    Sights,
    for_clusters,
    for_listeners,
    for_load_assignments,
)
from controlplane.translate.resources import Resource, Translated
from controlplane.translate.routes import RouteInput, join_route, route_input
from controlplane.translate.scope import Classifier, OutboundClass, ProxyClass
from controlplane.translate.service_hosts import ServiceHosts, Shared
from controlplane.translate.sidecar_routes import SidecarRoutes
from controlplane.translate.virtual_hosts import build_virtual_host

_CLASSES_KEPT: Final = 1024  # whose services are remembered from one snapshot to the next


class _ClassResults:
    """What was asked for one class within one snapshot."""

    __slots__ = (
        "clusters",
        "diagnostics",
        "for_load_assignments",
        "listeners",
        "name_table",
        "routes",
        "sidecar_routes",
    )

    def __init__(self) -> None:
        self.clusters: tuple[Resource, ...] | None = None
        self.listeners: tuple[Resource, ...] | None = None
        self.routes: dict[str, Resource] = {}
        self.sidecar_routes: SidecarRoutes | None = None
        self.for_load_assignments: _Assignments | None = None
        self.name_table: Resource | None = None
        self.diagnostics: dict[str, tuple[Diagnostic, ...]] = {}


class _Assignments(NamedTuple):
    """The load assignments of all classes that read the same of themselves."""

    cls: OutboundClass
    by_cluster: dict[str, Resource]


class _SharedResults:
    """What classes have in common within one snapshot, by what is read of them."""

    __slots__ = ("assignments", "clusters", "listeners")

    def __init__(self) -> None:
        self.clusters: dict[OutboundClass, list[Translated]] = {}
        self.listeners: dict[OutboundClass, tuple[list[Translated], tuple[Diagnostic, ...]]] = {}
        self.assignments: dict[OutboundClass, _Assignments] = {}


class Generator:
    """Makes the resources of proxy classes. Not thread safe; results are immutable."""

    def __init__(self) -> None:
        self._cluster: Final = Memo(build_cluster)
        self._inbound_cluster: Final = Memo(build_inbound_cluster)
        self._listener: Final = Memo(build_listener)
        self._virtual_host: Final = Memo(build_virtual_host)
        self._load_assignment: Final = Memo(build_load_assignment)
        self._route: Final = Memo(self._join, minimum=16)
        self._snapshot = EMPTY
        self._classifier = Classifier(EMPTY)
        self._results: dict[ProxyClass, _ClassResults] = {}
        self._shared_results = _SharedResults()
        self._sights = Sights(EMPTY)
        self._service_hosts: dict[OutboundClass, ServiceHosts] = {}
        self._shared = Shared()

    def classify(self, proxy: Proxy, snapshot: Snapshot) -> ProxyClass:
        """Return the class of a proxy in this snapshot."""
        self._enter(snapshot)
        return self._classifier.classify(proxy)

    def service_targets(self, proxy: Proxy, snapshot: Snapshot) -> tuple[ServiceTarget, ...]:
        """Return the service ports that end at this proxy."""
        self._enter(snapshot)
        return self._classifier.service_targets(proxy)

    def clusters(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        """Return all clusters of a class in wire order; the first of equal names wins."""
        results = self._of(snapshot, cls)
        if results.clusters is None:
            made = list(self._outbound_clusters(snapshot, cls.outbound))
            if cls.inbound is not None:
                made += [
                    self._inbound_cluster(value)
                    for value in inbound_cluster_inputs(snapshot, cls.inbound)
                ]
            results.clusters = _unique(made)
            results.diagnostics["clusters"] = _diagnostics(made)
        return results.clusters

    def listeners(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        """Return all listeners of a class in wire order."""
        results = self._of(snapshot, cls)
        if results.listeners is None:
            outbound, conflicts = self._outbound_listeners(snapshot, cls.outbound)
            made = list(outbound)
            if cls.inbound is not None:
                made += [
                    self._listener(value)
                    for value in inbound_listener_inputs(snapshot, cls.inbound)
                ]
            results.listeners = _unique(made)
            results.diagnostics["listeners"] = (*conflicts, *_diagnostics(made))
        return results.listeners

    def route(self, snapshot: Snapshot, cls: ProxyClass, name: str) -> Resource:
        """Return a route configuration; an unknown name gives one without virtual hosts."""
        results = self._of(snapshot, cls)
        found = results.routes.get(name)
        if found is None:
            if results.sidecar_routes is None:
                results.sidecar_routes = self._sidecar_routes(snapshot, cls.outbound)
            made = self._route(route_input(snapshot, cls.outbound, name, results.sidecar_routes))
            found = results.routes[name] = _present(made)
            results.diagnostics[f"route {name}"] = made.diagnostics
        return found

    def name_table(self, snapshot: Snapshot, cls: ProxyClass) -> Resource:
        """Return the name table that the agents of a class answer DNS from."""
        results = self._of(snapshot, cls)
        if results.name_table is None:
            results.name_table = name_table(snapshot, cls.outbound)
        return results.name_table

    def load_assignment(self, snapshot: Snapshot, cls: ProxyClass, cluster: str) -> Resource:
        """Return a cluster's load assignment; an unknown cluster gives an empty one."""
        results = self._of(snapshot, cls)
        shared = results.for_load_assignments
        if shared is None:
            narrowed = for_load_assignments(cls.outbound, self._sights)
            shared = self._shared_results.assignments.setdefault(
                narrowed, _Assignments(narrowed, {})
            )
            results.for_load_assignments = shared
        found = shared.by_cluster.get(cluster)
        if found is None:
            made = self._load_assignment(load_assignment_input(snapshot, shared.cls, cluster))
            found = shared.by_cluster[cluster] = _present(made)
        return found

    def diagnostics(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Diagnostic, ...]:
        """Return what was noticed while making the resources asked for so far."""
        found = self._of(snapshot, cls).diagnostics.values()
        return tuple(dict.fromkeys(diagnostic for group in found for diagnostic in group))

    def remembered(self) -> Iterator[Resource]:
        """Yield every resource that is held for reuse, in no particular order."""
        for memo in (
            self._cluster,
            self._inbound_cluster,
            self._listener,
            self._route,
            self._load_assignment,
        ):
            for made in memo.results():
                if made.resource is not None:
                    yield made.resource

    def _outbound_clusters(self, snapshot: Snapshot, cls: OutboundClass) -> list[Translated]:
        narrowed = for_clusters(cls, self._sights)
        known = self._shared_results.clusters
        found = known.get(narrowed)
        if found is None:
            inputs = outbound_cluster_inputs(snapshot, narrowed)
            found = known[narrowed] = [self._cluster(value) for value in inputs]
        return found

    def _outbound_listeners(
        self, snapshot: Snapshot, cls: OutboundClass
    ) -> tuple[list[Translated], tuple[Diagnostic, ...]]:
        narrowed = for_listeners(cls, self._sights)
        known = self._shared_results.listeners
        found = known.get(narrowed)
        if found is None:
            inputs = outbound_listener_inputs(snapshot, narrowed)
            found = known[narrowed] = (
                [self._listener(value) for value in inputs],
                outbound_conflicts(snapshot, narrowed),
            )
        return found

    def _join(self, value: RouteInput) -> Translated:
        return join_route(value, tuple(self._virtual_host(host) for host in value.virtual_hosts))

    def _sidecar_routes(self, snapshot: Snapshot, cls: OutboundClass) -> SidecarRoutes:
        known = self._service_hosts.get(cls)
        if known is None or not known.fits(snapshot):
            if len(self._service_hosts) >= _CLASSES_KEPT:
                self._service_hosts.clear()
            known = self._service_hosts[cls] = ServiceHosts(
                snapshot, cls, known, shared=self._shared
            )
        return SidecarRoutes(snapshot, cls, known)

    def _enter(self, snapshot: Snapshot) -> None:
        if snapshot is not self._snapshot:
            if snapshot.services is not self._snapshot.services or (
                snapshot.rules is not self._snapshot.rules
                or snapshot.mesh is not self._snapshot.mesh
            ):
                self._shared = Shared()  # what is shared from now on is not the same
            self._snapshot = snapshot
            if not self._classifier.fits(snapshot):
                self._classifier = Classifier(snapshot)
            self._results = {}
            self._shared_results = _SharedResults()
            if not self._sights.fit(snapshot):
                self._sights = Sights(snapshot)
            self._service_hosts = {
                cls: hosts for cls, hosts in self._service_hosts.items() if hosts.is_of(snapshot)
            }
            for memo in (
                self._cluster,
                self._inbound_cluster,
                self._listener,
                self._virtual_host,
                self._load_assignment,
                self._route,
            ):
                memo.breathe()

    def _of(self, snapshot: Snapshot, cls: ProxyClass) -> _ClassResults:
        self._enter(snapshot)
        results = self._results.get(cls)
        if results is None:
            results = self._results[cls] = _ClassResults()
        return results


def _unique(made: list[Translated]) -> tuple[Resource, ...]:
    by_name: dict[str, Resource] = {}
    for translated in made:
        if translated.resource is not None:
            by_name.setdefault(translated.resource.name, translated.resource)
    return tuple(by_name.values())


def _diagnostics(made: list[Translated]) -> tuple[Diagnostic, ...]:
    return tuple(diagnostic for translated in made for diagnostic in translated.diagnostics)


def _present(made: Translated) -> Resource:
    if made.resource is None:
        raise AssertionError("routes and load assignments are never absent")
    return made.resource
