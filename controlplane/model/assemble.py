"""Objects folded into snapshots, one service at a time.

Owns the identity of what did not change, and who wins a host. Must not know sources, time or
how often snapshots are made. The rule that is easy to break: a value that equals the one of the
last snapshot must be that very object, because everything behind the snapshot finds changes by
identity.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

from msgspec import structs

from controlplane.model.aged import Moved
from controlplane.model.checks import Checks
from controlplane.model.collector import NOTHING, Found
from controlplane.model.conversion import from_kubernetes, from_service_entry
from controlplane.model.core import EndpointSlice, KubernetesService
from controlplane.model.destination_rules import DestinationRules
from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.discovery import Discovery, Passed
from controlplane.model.endpoints import kubernetes_endpoints, service_entry_endpoints
from controlplane.model.grouping import Groups
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import NOWHERE, Object, ObjectRef, Provenance, Record, by_age
from controlplane.model.names import Host
from controlplane.model.packed import PackedSlice, pack_slice
from controlplane.model.port_endpoints import known_endpoints, workloads
from controlplane.model.records import ObjectsOf, OriginsOf
from controlplane.model.service_entry import ServiceEntry
from controlplane.model.services import NO_ENDPOINTS, Service, ServiceEndpoints
from controlplane.model.snapshot import EMPTY, Snapshot
from controlplane.model.table import Table
from controlplane.model.targets import TargetIndex, moved_addresses, moved_networks
from controlplane.model.virtual_service import VirtualService
from controlplane.model.virtual_services import VirtualServices

ObjectT = TypeVar("ObjectT", bound=Object)
K = TypeVar("K")
V = TypeVar("V")


class _Made(NamedTuple):
    """What one unit came to for one of its hosts: the service and what was found for it."""

    service: Service
    found: Found


_MANY: Final = 100


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
        self._mesh = mesh or MeshConfig()
        self._last = previous or EMPTY
        self._inherited = previous is not None
        self._discovery: Final = Discovery(self._mesh.discovery_selectors, self._present)
        self._groups: Final = Groups(cluster_id)
        self._world: Final = self._groups.world._replace(awaits_pods=self._awaits_pods)
        self._pod_sources: set[str] = set()
        self._waiting: dict[ObjectRef, frozenset[str]] = {}
        self._made: dict[ObjectRef, tuple[_Made, ...]] = {}
        self._claims: dict[Host, tuple[ObjectRef, ...]] = {}
        self._pods_used: dict[ObjectRef, frozenset[tuple[str, str]]] = {}
        self._service_by_host: Final[Table[Host, Service]] = Table()
        self._endpoints: Final[Table[Host, ServiceEndpoints]] = Table()
        self._networks: Final[Table[str, tuple[Host, ...]]] = Table()
        self._contested: dict[Host, tuple[Diagnostic, ...]] = {}
        self._checks: Final = Checks()

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

    def _present(self) -> Iterable[Record]:
        return self._groups.records.read.values()

    def set_mesh(self, mesh: MeshConfig) -> None:
        """Replace the settings of the mesh."""
        if mesh != self._mesh:
            self._mesh = mesh
            self._pass(self._discovery.select(mesh.discovery_selectors))

    def follow_pods(self, source: str, *, follows: bool) -> None:
        """Say whether a source tells of every pod, so that endpoints may wait for theirs."""
        if follows is not (source in self._pod_sources):
            (self._pod_sources.add if follows else self._pod_sources.discard)(source)
            self._groups.dirty.update(self._made)

    def _awaits_pods(self, entry: PackedSlice) -> bool:
        if not self._pod_sources:
            return False
        record = self._groups.records.get(entry.ref)
        return record is not None and record.origin.source in self._pod_sources

    def snapshot(self, diagnostics: Iterable[Diagnostic] = ()) -> Snapshot:
        """Return the snapshot of everything applied so far."""
        self._remake()
        groups, last = self._groups, self._last
        same_mesh = last.mesh == self._mesh and last.domain == self._domain
        virtual_services, moved = groups.virtual_services.publish()
        destination_rules = _known(groups.destination_rules.publish()[0], last.destination_rules)
        objects, provenance = self._kept_records()
        made = Snapshot(
            mesh=last.mesh if last.mesh == self._mesh else self._mesh,
            domain=self._domain,
            services=self._services(),
            service_by_host=self._keep(self._service_by_host, last.service_by_host, "services"),
            endpoints=self._keep(self._endpoints, last.endpoints, "endpoints"),
            targets=self._targets(),
            virtual_services=_known(virtual_services, last.virtual_services),
            destination_rules=destination_rules,
            rules=last.rules
            if same_mesh and destination_rules is last.destination_rules
            else DestinationRules.build(destination_rules, self._mesh, self._domain),
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

    def _diagnostics(
        self, snapshot: Snapshot, given: Iterable[Diagnostic]
    ) -> tuple[Diagnostic, ...]:
        found = set(given)
        for entry in (
            *(entry for group in self._contested.values() for entry in group),
            *self._checks.run(snapshot),
        ):
            found.add(_placed(entry, snapshot.provenance))
        made = tuple(sorted(found, key=order))
        return self._last.diagnostics if made == self._last.diagnostics else made

    def _waiting_addresses(self) -> frozenset[str]:
        last = self._last.waiting_for_pods
        found = frozenset().union(*self._waiting.values())
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
        if "services" not in self._groups.changed and len(last) == len(self._service_by_host):
            return last
        made = tuple(sorted(self._service_by_host.read.values(), key=_service_age))
        return last if made == last else made

    def _targets(self) -> TargetIndex:
        last = self._last
        if "targets" not in self._groups.changed:
            return last.targets
        same = self._inherited and all(
            not moved_addresses(last.endpoints_of(host), self._endpoints.get(host, NO_ENDPOINTS))
            for host in {*last.endpoints, *self._endpoints.read}
        )
        return last.targets if same else TargetIndex(self._networks.publish())

    def _remake(self) -> None:
        """Make the services of all dirty units again, and decide who has their hosts."""
        groups = self._groups
        if groups.dirty_nodes:
            groups.dirty.update(self._users_of_nodes(groups.dirty_nodes))
            groups.dirty_nodes.clear()
        with _garbage_left_alone(len(groups.dirty)):
            self._remake_units(groups.dirty)
        groups.dirty.clear()

    def _remake_units(self, units: set[ObjectRef]) -> None:
        groups = self._groups
        touched: set[Host] = set()
        for unit in units:
            old = self._made.pop(unit, ())
            record = groups.records.get(unit)
            new = () if record is None else self._make(record, old)
            if record is not None and new:
                self._made[record.ref] = new
            self._note_pods(unit, new)
            self._note_waiting(unit, new)
            before = {made.service.host for made in old}
            after = {made.service.host for made in new}
            for host in before - after:
                self._claims[host] = tuple(claim for claim in self._claims[host] if claim != unit)
            for host in after - before:
                self._claims[host] = (*self._claims.get(host, ()), unit)
            touched |= before | after
        for host in touched:
            self._settle(host)

    def _users_of_nodes(self, nodes: set[str]) -> set[ObjectRef]:
        return {
            unit
            for unit, group in self._made.items()
            for made in group
            for endpoints in made.found.endpoints.groups
            for workload in workloads(endpoints)
            if workload.node in nodes
        }

    def _make(self, record: Record, old: tuple[_Made, ...]) -> tuple[_Made, ...]:
        item = record.item
        match item:
            case KubernetesService():
                service = self._known_service(
                    from_kubernetes(item, ref=record.ref, domain=self._domain)
                )
                meta = item.metadata
                found = kubernetes_endpoints(
                    item,
                    service,
                    slices=self._groups.slices_of(meta.namespace, meta.name),
                    endpoints=self._groups.endpoints_of(meta.namespace, meta.name),
                    world=self._world,
                    previous=old[0].found if old else NOTHING,
                )
                return (_Made(service, self._known_endpoints(service.host, found)),)
            case ServiceEntry():
                services = [
                    self._known_service(service)
                    for service in from_service_entry(item, ref=record.ref)
                ]
                by_host = {
                    service.host: _Made(
                        service,
                        self._known_endpoints(
                            service.host,
                            service_entry_endpoints(item, service, world=self._world),
                        ),
                    )
                    for service in services
                }
                return tuple(by_host.values())
            case _:
                raise AssertionError(f"{type(item).__name__} declares no services")

    def _known_service(self, service: Service) -> Service:
        last = self._last.service_by_host.get(service.host)
        return last if last is not None and last == service else service

    def _known_endpoints(self, host: Host, found: Found) -> Found:
        """Return what was found with every part that equals the last one's as that very part."""
        last = self._last.endpoints.get(host)
        if last is None:
            return found
        endpoints = last
        if last != found.endpoints:
            endpoints = ServiceEndpoints.of(
                {
                    name: known_endpoints(made, last.at(name))
                    for name, made in found.endpoints.by_port.items()
                },
                found.endpoints.leaving,
            )
        return found._replace(endpoints=endpoints)

    def _note_pods(self, unit: ObjectRef, group: tuple[_Made, ...]) -> None:
        users = self._groups.users_of_pod
        before = self._pods_used.pop(unit, frozenset())
        after = frozenset().union(*(made.found.pods for made in group))
        if after == before:
            if before:
                self._pods_used[unit] = before
            return
        for key in before - after:
            users[key].discard(unit)
            if not users[key]:
                del users[key]
        for key in after - before:
            users.setdefault(key, set()).add(unit)
        if after:
            self._pods_used[unit] = after

    def _note_waiting(self, unit: ObjectRef, group: tuple[_Made, ...]) -> None:
        waiting = frozenset().union(*(made.found.waiting for made in group))
        if waiting:
            self._waiting[unit] = waiting
        else:
            self._waiting.pop(unit, None)

    def _settle(self, host: Host) -> None:
        """Give a host to the oldest unit that claims it."""
        units = self._claims.get(host, ())
        self._contested.pop(host, None)
        if not units:
            self._claims.pop(host, None)
            self._assign(host, None, NOTHING)
            return
        ordered = sorted(units, key=self._age)
        chosen = next(made for made in self._made[ordered[0]] if made.service.host == host)
        self._assign(host, chosen.service, chosen.found)
        if len(ordered) > 1:
            self._contested[host] = tuple(
                _lost_host(host, loser, ordered[0]) for loser in ordered[1:]
            )

    def _age(self, unit: ObjectRef) -> tuple[str, str, str, str]:
        record: Record = self._groups.records.get(unit)
        return (*by_age(record.item), unit.kind)

    def _assign(self, host: Host, service: Service | None, found: Found) -> None:
        changed = self._groups.changed
        if self._service_by_host.get(host) is not service:
            changed.add("services")
            if service is None:
                self._service_by_host.drop(host)
            else:
                self._service_by_host.put(host, service)
        before, endpoints = self._endpoints.get(host, NO_ENDPOINTS), found.endpoints
        if before is endpoints:
            return
        changed.add("endpoints")
        if endpoints:
            self._endpoints.put(host, endpoints)
        else:
            self._endpoints.drop(host)
        moved = moved_addresses(before, endpoints)
        if moved:
            changed.add("targets")
            self._move(host, *moved_networks(moved, before, endpoints))

    def _move(self, host: Host, left: set[str], entered: set[str]) -> None:
        """Note that something of a service is in other networks now."""
        index = self._networks
        for network in left:
            rest = tuple([other for other in index.get(network) if other != host])
            if rest:
                index.put(network, rest)
            else:
                index.drop(network)
        for network in entered:
            index.put(network, tuple(sorted((*index.get(network, ()), host))))


@contextmanager
def _garbage_left_alone(units: int) -> Iterator[None]:
    """Keep the collector from walking a big mesh again and again while it is being built."""
    if units < _MANY or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _known(made: tuple[ObjectT, ...], last: tuple[ObjectT, ...]) -> tuple[ObjectT, ...]:
    return last if made == last else made


def _service_age(service: Service) -> tuple[str, Host]:
    return (service.creation_timestamp, service.host)


def _placed(entry: Diagnostic, provenance: Mapping[ObjectRef, Provenance]) -> Diagnostic:
    """Return a diagnostic with the file and line of its object."""
    origin = None if entry.ref is None else provenance.get(entry.ref)
    if origin is None or not origin.file:
        return entry
    return structs.replace(entry, file=origin.file, line=origin.line)


def _lost_host(host: Host, loser: ObjectRef, winner: ObjectRef) -> Diagnostic:
    return Diagnostic(
        level=Level.WARNING,
        code="DuplicateHost",
        ref=loser,
        message=f"{host} is already declared by the older {winner}, which is used",
    )
