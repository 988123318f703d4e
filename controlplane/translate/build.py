"""All resources of a proxy class, each made once per distinct input.

Owns which inputs a class has and the memory of what they became. Must not know streams. The
rule that is easy to break: results are looked up by value (`Memo`), never by "what changed".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.diff import moved_frontends
from controlplane.model.proxy import Proxy
from controlplane.model.snapshot import EMPTY, ServiceTarget, Snapshot
from controlplane.translate.clusters import build_cluster
from controlplane.translate.endpoints import build_load_assignment
from controlplane.translate.inbound_clusters import build_inbound_cluster, inbound_cluster_inputs
from controlplane.translate.listeners import (
    build_listener,
    inbound_listener_inputs,
)
from controlplane.translate.memo import Memo
from controlplane.translate.name_table import name_table
from controlplane.translate.narrowing import (
    Sights,
)
from controlplane.translate.outbound import LoadAssignments, Outbound, present
from controlplane.translate.resources import Resource
from controlplane.translate.routes import RouteInput, RouteParts, route_input
from controlplane.translate.scope import Classifier, OutboundClass, ProxyClass
from controlplane.translate.service_hosts import ServiceHosts, Shared
from controlplane.translate.sidecar_routes import SidecarRoutes
from controlplane.translate.virtual_hosts import build_virtual_host

_CLASSES_KEPT: Final = 1024  # whose services are remembered from one snapshot to the next


class _ClassResults:
    """What was asked for one class within one snapshot."""

    __slots__ = (
        "clusters",
        "listeners",
        "load_assignments",
        "name_table",
        "routes",
        "sidecar_routes",
    )

    def __init__(self) -> None:
        self.clusters: tuple[Resource, ...] | None = None
        self.listeners: tuple[Resource, ...] | None = None
        self.routes: dict[str, Resource] = {}
        self.sidecar_routes: SidecarRoutes | None = None
        self.load_assignments: LoadAssignments | None = None
        self.name_table: Resource | None = None


class _Noticed:
    """What was noticed while the resources that a class has now were made."""

    __slots__ = ("clusters", "listeners", "routes")

    def __init__(self) -> None:
        self.clusters: tuple[Diagnostic, ...] = ()
        self.listeners: tuple[Diagnostic, ...] = ()
        self.routes: dict[str, tuple[Diagnostic, ...]] = {}


class Generator:
    """Makes the resources of proxy classes. Not thread safe; results are immutable."""

    def __init__(self) -> None:
        self._cluster: Final = Memo(build_cluster)
        self._inbound_cluster: Final = Memo(build_inbound_cluster)
        self._listener: Final = Memo(build_listener)
        self._virtual_host: Final = Memo(build_virtual_host)
        self._load_assignment: Final = Memo(build_load_assignment)
        self._route: Final = Memo(RouteParts.join, minimum=16)
        self._snapshot = EMPTY
        self._classifier = Classifier(EMPTY)
        self._results: dict[ProxyClass, _ClassResults] = {}
        self._noticed: dict[ProxyClass, _Noticed] = {}
        self._sights = Sights(EMPTY)
        self._outbound = self._outbound_of(EMPTY, None)
        self._service_hosts: dict[OutboundClass, ServiceHosts] = {}
        self._shared = Shared()

    def classify(self, proxy: Proxy, snapshot: Snapshot) -> ProxyClass:
        """Return the class of a proxy in this snapshot."""
        self._enter(snapshot)
        return self._classifier.classify(proxy)

    def keeps_classes(self, before: Snapshot, after: Snapshot) -> bool:
        """Whether every proxy has the same class in two snapshots, found without any of them."""
        self._enter(before)
        known = self._classifier
        self._enter(after)
        return self._classifier is known

    def service_targets(self, proxy: Proxy, snapshot: Snapshot) -> tuple[ServiceTarget, ...]:
        """Return the service ports that end at this proxy."""
        self._enter(snapshot)
        return self._classifier.service_targets(proxy)

    def clusters(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        """Return all clusters of a class in wire order; the first of equal names wins."""
        results = self._of(snapshot, cls)
        if results.clusters is None:
            made = self._outbound.clusters(cls.outbound)
            if cls.inbound is not None:
                inputs = inbound_cluster_inputs(snapshot, cls.inbound)
                made = made.followed_by(map(self._inbound_cluster, inputs))
            results.clusters = made.resources
            self._noticed_of(cls).clusters = made.diagnostics
        return results.clusters

    def listeners(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        """Return all listeners of a class in wire order."""
        results = self._of(snapshot, cls)
        if results.listeners is None:
            made = self._outbound.listeners(cls.outbound)
            if cls.inbound is not None:
                inputs = inbound_listener_inputs(snapshot, cls.inbound)
                made = made.followed_by(map(self._listener, inputs))
            results.listeners = made.resources
            noticed = self._noticed_of(cls)
            noticed.listeners = made.diagnostics
            noticed.routes.clear()  # whoever asks for listeners again asks for routes again
        return results.listeners

    def route(self, snapshot: Snapshot, cls: ProxyClass, name: str) -> Resource:
        """Return a route configuration; an unknown name gives one without virtual hosts."""
        results = self._of(snapshot, cls)
        found = results.routes.get(name)
        if found is None:
            routes = results.sidecar_routes
            if routes is None:
                routes = self._sidecar_routes(snapshot, cls.outbound)
                results.sidecar_routes = routes
            value = route_input(snapshot, cls.outbound, name, routes)
            parts = routes.joined[name] = self._parts(value, routes.joined.get(name))
            made = self._route(parts)
            found = results.routes[name] = present(made)
            self._noticed_of(cls).routes[name] = made.diagnostics
        return found

    def name_table(self, snapshot: Snapshot, cls: ProxyClass) -> Resource:
        """Return the name table that the agents of a class answer DNS from."""
        results = self._of(snapshot, cls)
        if results.name_table is None:
            results.name_table = name_table(snapshot, cls.outbound)
        return results.name_table

    def load_assignment(self, snapshot: Snapshot, cls: ProxyClass, cluster: str) -> Resource:
        """Return a cluster's load assignment; an unknown cluster gives an empty one."""
        return self._load_assignments(snapshot, cls).of(cluster)

    def load_assignments(
        self, snapshot: Snapshot, cls: ProxyClass, clusters: tuple[str, ...]
    ) -> tuple[Resource, ...]:
        """Return the load assignments of many clusters, in their order."""
        return self._load_assignments(snapshot, cls).of_all(clusters)

    def _load_assignments(self, snapshot: Snapshot, cls: ProxyClass) -> LoadAssignments:
        results = self._of(snapshot, cls)
        if results.load_assignments is None:
            results.load_assignments = self._outbound.load_assignments(cls.outbound)
        return results.load_assignments

    def diagnostics(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Diagnostic, ...]:
        """Return what was noticed while making the resources asked for last.

        Those may be of an older snapshot: a type that reads nothing of what changed since is
        not asked for again.
        """
        self._enter(snapshot)
        found = self._noticed_of(cls)
        groups = (found.clusters, found.listeners, *found.routes.values())
        return tuple(dict.fromkeys(diagnostic for group in groups for diagnostic in group))

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

    def _outbound_of(self, snapshot: Snapshot, former: Outbound | None) -> Outbound:
        return Outbound(
            snapshot,
            self._sights,
            make_cluster=self._cluster,
            make_listener=self._listener,
            make_load_assignment=self._load_assignment,
            former=former,
        )

    def _parts(self, value: RouteInput, before: RouteParts | None) -> RouteParts:
        found = before.renewed(value, self._virtual_host) if before is not None else None
        return found or RouteParts.of(value, self._virtual_host.each(value.virtual_hosts))

    def _sidecar_routes(self, snapshot: Snapshot, cls: OutboundClass) -> SidecarRoutes:
        known = self._service_hosts.get(cls)
        if known is None or not known.fits(snapshot):
            if len(self._service_hosts) >= _CLASSES_KEPT:
                self._service_hosts.clear()
            known = self._service_hosts[cls] = ServiceHosts(
                snapshot,
                cls,
                known,
                shared=self._shared,
                alike=self._sights.alike(cls.namespace),
            )
        return SidecarRoutes(snapshot, cls, known)

    def _enter(self, snapshot: Snapshot) -> None:
        if snapshot is not self._snapshot:
            before = self._snapshot
            if (
                moved_frontends(before, snapshot)
                or snapshot.mesh is not before.mesh
                or not snapshot.rules.hashes_like(before.rules)
            ):
                self._shared = Shared()  # what is shared from now on is not the same
            self._snapshot = snapshot
            if not self._classifier.fits(snapshot):
                self._classifier = Classifier(snapshot, self._classifier)
            self._results = {}
            if not self._sights.fit(snapshot):
                self._sights = Sights(snapshot)
            if not self._outbound.fits(snapshot):
                self._outbound = self._outbound_of(snapshot, self._outbound)
            self._service_hosts = {
                cls: hosts
                for cls, hosts in self._service_hosts.items()
                if hosts.is_of(snapshot) or hosts.moved_in(snapshot) is not None
            }
            for memo in (
                self._cluster,
                self._inbound_cluster,
                self._listener,
                self._load_assignment,
                self._route,
            ):
                memo.breathe()
            if self._virtual_host.breathe():
                for hosts in self._service_hosts.values():
                    for parts in hosts.joined.values():
                        self._virtual_host.each(parts.value.virtual_hosts)

    def _noticed_of(self, cls: ProxyClass) -> _Noticed:
        found = self._noticed.get(cls)
        if found is None:
            if len(self._noticed) >= _CLASSES_KEPT:
                self._noticed.clear()
            found = self._noticed[cls] = _Noticed()
        return found

    def _of(self, snapshot: Snapshot, cls: ProxyClass) -> _ClassResults:
        self._enter(snapshot)
        results = self._results.get(cls)
        if results is None:
            results = self._results[cls] = _ClassResults()
        return results
