"""Objects folded into snapshots, one service at a time.

Owns the identity of what did not change. Must not know sources, time or how often snapshots are
made. The rule that is easy to break: a value that equals the one of the
last snapshot must be that very object, because everything behind the snapshot finds changes by
identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Final, TypeVar

from msgspec import structs

from controlplane.model.aged import Moved
from controlplane.model.checks import Checks
from controlplane.model.core import EndpointSlice
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.destination_rules import DestinationRules
from controlplane.model.diagnostics import Diagnostic, order
from controlplane.model.discovery import Discovery, Passed
from controlplane.model.grouping import Groups
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import NOWHERE, Object, ObjectRef, Provenance, Record
from controlplane.model.packed import pack_slice
from controlplane.model.records import ObjectsOf, OriginsOf
from controlplane.model.services import NO_ENDPOINTS, Service
from controlplane.model.snapshot import EMPTY, Snapshot
from controlplane.model.table import Table
from controlplane.model.targets import TargetIndex, moved_addresses
from controlplane.model.units import Units
from controlplane.model.virtual_service import VirtualService
from controlplane.model.virtual_services import VirtualServices

ObjectT = TypeVar("ObjectT", bound=Object)
K = TypeVar("K")
V = TypeVar("V")


def make_snapshot(
    objects: Iterable[Object],
    *,
    mesh: MeshConfig | None = None,
    domain: str = "cluster.local",
    cluster_id: str = "",
    provenance: Mapping[ObjectRef, Provenance] | None = None,
    diagnostics: Iterable[Diagnostic] = (),
    previous: Snapshot | None = None,
) -> Snapshot:
    """Return the snapshot that these objects make, whatever their order.

    Parts that are equal to those of `previous` are the same Python objects. `diagnostics` are
    those of the sources; what objects say about each other is added. `cluster_id` is the name of
    the cluster that endpoints tell to be in.
    """
    assembler = Assembler(mesh=mesh, domain=domain, cluster_id=cluster_id, previous=previous)
    known = provenance or {}
    unique: dict[ObjectRef, Object] = {}
    for item in objects:
        first = unique.setdefault(item.ref, item)
        if first is not item and repr(item) < repr(first):
            unique[item.ref] = item
    assembler.apply([Record(item, known.get(ref, NOWHERE), ref) for ref, item in unique.items()])
    return assembler.snapshot(diagnostics)


class Assembler:
    """The objects at this moment and the snapshot that was made of them last."""

    def __init__(
        self,
        *,
        mesh: MeshConfig | None = None,
        domain: str = "cluster.local",
        cluster_id: str = "",
        previous: Snapshot | None = None,
    ) -> None:
        self._domain: Final = domain
        self._cluster_id: Final = cluster_id
        self._mesh = mesh or MeshConfig()
        self._last = previous or EMPTY
        self._inherited = previous is not None
        self._discovery: Final = Discovery(self._mesh.discovery_selectors, self._present)
        self._groups: Final = Groups(cluster_id)
        self._units: Final = Units(self._groups, domain)
        self._checks: Final = Checks()

    def afresh(
        self, upserts: Iterable[Record] = (), removals: Iterable[ObjectRef] = ()
    ) -> tuple[Assembler, list[tuple[Record, Exception]]]:
        """Return another one with these objects in and out that has worked out nothing yet.

        For the case that an error of ours has left this one in the middle of something. The
        objects that cannot even be taken in are left out of it, and returned with the error.
        """
        records = {record.ref: record for record in (*self._present(), *self._discovery.hidden)}
        records |= {record.ref: record for record in upserts}
        for ref in removals:
            records.pop(ref, None)
        refused: list[tuple[Record, Exception]] = []
        while True:
            made = Assembler(
                mesh=self._mesh,
                domain=self._domain,
                cluster_id=self._cluster_id,
                previous=self._last,
            )
            for source in self._units.pod_sources:
                made.follow_pods(source, follows=True)
            failed: list[tuple[Record, Exception]] = []
            for record in records.values():
                try:
                    made.apply((record,))
                except Exception as error:  # noqa: BLE001  # whatever it is, the others count
                    failed.append((record, error))
            if not failed:
                return made, refused
            refused += failed
            for record, _ in failed:
                del records[record.ref]

    def apply(
        self,
        upserts: Iterable[Record],
        removals: Iterable[ObjectRef] = (),
    ) -> None:
        """Take objects in and out; what that means is worked out by `snapshot`."""
        for record in upserts:
            self._pass(self._discovery.upsert(record))
        for ref in removals:
            self._pass(self._discovery.remove(ref))

    def _pass(self, passed: Passed) -> None:
        """Take in and out what the selection of namespaces lets through."""
        for ref in passed.removals:
            self._groups.remove(ref)
        for record in passed.upserts:
            self._groups.put(self._known(record))

    def _known(self, record: Record) -> Record:
        """Return a record with everything that is known already taken from there."""
        item, ref = record.item, record.ref
        if isinstance(item, EndpointSlice):
            item = pack_slice(item)  # as a source would have
        known = self._groups.records.get(ref)
        last = self._last.objects.get(ref) if known is None else known.item
        if last is not None and last == item:
            item = last
        if known is None:
            return record if item is record.item else Record(item, record.origin, ref)
        origin = known.origin if record.origin in (NOWHERE, known.origin) else record.origin
        same = item is known.item and origin is known.origin
        return known if same else Record(item, origin, known.ref)

    def record(self, ref: ObjectRef) -> Record | None:
        """Return the record of an object, also of one in a namespace that does not count."""
        found: Record | None = self._groups.records.get(ref)
        return found or self._discovery.held(ref)

    def _present(self) -> Iterable[Record]:
        return self._groups.records.read.values()

    def set_mesh(self, mesh: MeshConfig) -> None:
        """Replace the settings of the mesh."""
        if mesh != self._mesh:
            self._mesh = mesh
            self._pass(self._discovery.select(mesh.discovery_selectors))

    def follow_pods(self, source: str, *, follows: bool) -> None:
        """Say whether a source tells of every pod, so that endpoints may wait for theirs."""
        self._units.follow_pods(source, follows=follows)

    def snapshot(self, diagnostics: Iterable[Diagnostic] = ()) -> Snapshot:
        """Return the snapshot of everything applied so far."""
        self._units.remake(self._last)
        groups, units, last = self._groups, self._units, self._last
        virtual_services, moved = groups.virtual_services.publish()
        destination_rules, rules_moved = groups.destination_rules.publish()
        objects, provenance = self._kept_records()
        made = Snapshot(
            mesh=last.mesh if last.mesh == self._mesh else self._mesh,
            domain=self._domain,
            services=self._services(),
            service_by_host=self._keep(
                self._units.service_by_host, last.service_by_host, "services"
            ),
            endpoints=self._keep(units.endpoints, last.endpoints, "endpoints"),
            targets=self._targets(),
            virtual_services=_known(virtual_services, last.virtual_services),
            destination_rules=_known(destination_rules, last.destination_rules),
            rules=self._rules(destination_rules, rules_moved),
            routing=self._routing(virtual_services, moved),
            gateways=_known(groups.gateways.publish()[0], last.gateways),
            pods_by_ip=self._keep(groups.pods_by_ip, last.pods_by_ip, "pods_by_ip"),
            namespaces=self._keep(groups.namespaces, last.namespaces, "namespaces"),
            objects=objects,
            provenance=provenance,
            waiting_for_pods=self._waiting_addresses(),
        )
        made = structs.replace(made, diagnostics=self._diagnostics(made, diagnostics))
        groups.changed.clear()
        self._last = made
        self._inherited = False
        return made

    def _routing(
        self, virtual_services: tuple[VirtualService, ...], moved: Moved[VirtualService]
    ) -> VirtualServices:
        last, mesh, domain = self._last, self._mesh, self._domain
        if last.mesh != mesh or last.domain != domain:
            return VirtualServices.build(virtual_services, mesh, domain)
        if virtual_services == last.virtual_services:
            return last.routing
        if self._inherited:
            return VirtualServices.build(virtual_services, mesh, domain)
        return last.routing.replaced(*moved, mesh, domain)

    def _rules(
        self, destination_rules: tuple[DestinationRule, ...], moved: Moved[DestinationRule]
    ) -> DestinationRules:
        last, mesh, domain = self._last, self._mesh, self._domain
        if last.mesh != mesh or last.domain != domain:
            return DestinationRules.build(destination_rules, mesh, domain)
        if destination_rules == last.destination_rules:
            return last.rules
        if self._inherited:
            return DestinationRules.build(destination_rules, mesh, domain)
        return last.rules.replaced((*moved.gone, *moved.came), destination_rules, mesh, domain)

    def _diagnostics(
        self, snapshot: Snapshot, given: Iterable[Diagnostic]
    ) -> tuple[Diagnostic, ...]:
        found = set(given)
        for entry in (
            *(entry for group in self._units.contested.values() for entry in group),
            *self._checks.run(snapshot),
        ):
            found.add(_placed(entry, snapshot.provenance))
        made = tuple(sorted(found, key=order))
        return self._last.diagnostics if made == self._last.diagnostics else made

    def _waiting_addresses(self) -> frozenset[str]:
        last = self._last.waiting_for_pods
        found = frozenset().union(*self._units.waiting.values())
        return last if found == last else found

    def _keep(self, current: Table[K, V], last: Mapping[K, V], field: str) -> Mapping[K, V]:
        """Return the last mapping when nothing in it changed, else the current one."""
        if field not in self._groups.changed and len(current) == len(last):
            return last
        # Only against a snapshot of another assembler can "changed" turn out to be equal.
        return last if self._inherited and last == current.read else current.publish()

    def _kept_records(self) -> tuple[Mapping[ObjectRef, Object], Mapping[ObjectRef, Provenance]]:
        last, records = self._last, self._groups.records
        if "records" not in self._groups.changed and len(records) == len(last.objects):
            return last.objects, last.provenance
        published = records.publish()
        objects, origins = ObjectsOf(published), OriginsOf(published)
        if not self._inherited:
            return objects, origins
        return (
            last.objects if dict(last.objects) == dict(objects) else objects,
            last.provenance if dict(last.provenance) == dict(origins) else origins,
        )

    def _services(self) -> tuple[Service, ...]:
        last = self._last.services
        if "services" not in self._groups.changed and len(last) == len(self._units.service_by_host):
            return last
        made = tuple(sorted(self._units.service_by_host.read.values(), key=attrgetter("age")))
        return last if made == last else made

    def _targets(self) -> TargetIndex:
        last, endpoints = self._last, self._units.endpoints
        if "targets" not in self._groups.changed:
            return last.targets
        same = self._inherited and all(
            not moved_addresses(last.endpoints_of(host), endpoints.get(host, NO_ENDPOINTS))
            for host in {*last.endpoints, *endpoints.read}
        )
        return last.targets if same else TargetIndex(self._units.networks.publish())


def _known(made: tuple[ObjectT, ...], last: tuple[ObjectT, ...]) -> tuple[ObjectT, ...]:
    return last if made == last else made


def _placed(entry: Diagnostic, provenance: Mapping[ObjectRef, Provenance]) -> Diagnostic:
    """Return a diagnostic with the file and line of its object."""
    origin = None if entry.ref is None else provenance.get(entry.ref)
    if origin is None or not origin.file:
        return entry
    return structs.replace(entry, file=origin.file, line=origin.line)
