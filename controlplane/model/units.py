"""What declares services, what each came to, and who has a host.

A *unit* is the reference of a Kubernetes Service or a ServiceEntry. Must not know snapshots other
than as what was there before. The rules that are easy to break: of several units that claim a host
the oldest has it, whatever came first; and what equals the last snapshot's is that very object.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from controlplane.model.collector import NOTHING, Found
from controlplane.model.conversion import from_kubernetes, from_service_entry
from controlplane.model.core import KubernetesService
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.endpoints import kubernetes_endpoints, service_entry_endpoints
from controlplane.model.grouping import Groups
from controlplane.model.meta import Object, ObjectRef, Record, by_age
from controlplane.model.names import Host
from controlplane.model.packed import PackedSlice
from controlplane.model.port_endpoints import known_endpoints, workloads
from controlplane.model.service_entry import ServiceEntry
from controlplane.model.services import NO_ENDPOINTS, Service, ServiceEndpoints
from controlplane.model.several import Several
from controlplane.model.snapshot import Snapshot
from controlplane.model.table import Table
from controlplane.model.targets import moved_addresses, moved_networks, networks

_MANY: Final = 100


class _Made(msgspec.Struct, frozen=True, gc=False):
    """What one unit came to for one of its hosts, and of which object that was made."""

    service: Service
    endpoints: ServiceEndpoints
    item: Object


class Units:
    """The services and endpoints of all units, and where they contradict each other."""

    def __init__(self, groups: Groups, domain: str) -> None:
        self._groups: Final = groups
        self._domain: Final = domain
        self._world: Final = groups.world._replace(awaits_pods=self._awaits_pods)
        self.service_by_host: Final[Table[Host, Service]] = Table()
        self.endpoints: Final[Table[Host, ServiceEndpoints]] = Table()
        self.networks: Final[Table[str, tuple[Host, ...]]] = Table()
        self.contested: Final[dict[Host, tuple[Diagnostic, ...]]] = {}
        self.waiting: Final[dict[ObjectRef, frozenset[str]]] = {}
        """Addresses that are no endpoints of a unit until their pods are known."""
        self._made: Final[Several[ObjectRef, _Made]] = Several()
        self._rivals: dict[Host, tuple[ObjectRef, ...]] = {}  # of hosts that several units claim
        self._in_parts: dict[ObjectRef, Found] = {}  # of Services with several EndpointSlices
        self._pods_used: dict[ObjectRef, tuple[tuple[str, str], ...]] = {}
        self._pod_sources: set[str] = set()

    @property
    def pod_sources(self) -> frozenset[str]:
        """The sources that tell of every pod."""
        return frozenset(self._pod_sources)

    def follow_pods(self, source: str, *, follows: bool) -> None:
        """Say whether a source tells of every pod, so that endpoints may wait for theirs."""
        if follows is not (source in self._pod_sources):
            (self._pod_sources.add if follows else self._pod_sources.discard)(source)
            self._in_parts.clear()  # other endpoints are left out than when these were made
            self._groups.dirty.update(self._made)

    def _awaits_pods(self, entry: PackedSlice) -> bool:
        if not self._pod_sources:
            return False
        record = self._groups.records.get(entry.ref)
        return record is not None and record.origin.source in self._pod_sources

    def remake(self, last: Snapshot) -> None:
        """Make the services of all dirty units again, and decide who has their hosts."""
        groups = self._groups
        if groups.dirty_nodes:
            groups.dirty.update(self._users_of_nodes(groups.dirty_nodes))
            groups.dirty_nodes.clear()
        with _garbage_left_alone(len(groups.dirty)):
            claims: dict[Host, tuple[ObjectRef, ...]] = {}
            for unit in groups.dirty:
                self._remake(unit, last, claims)
            for host, units in claims.items():
                self._settle(host, units)
        groups.dirty.clear()

    def _remake(
        self, unit: ObjectRef, last: Snapshot, claims: dict[Host, tuple[ObjectRef, ...]]
    ) -> None:
        """Make the services of one unit again; `claims` are those of all hosts concerned."""
        old = self._made.pop(unit)
        before = self._in_parts.pop(unit, NOTHING)
        record: Record | None = self._groups.records.get(unit)
        made = () if record is None else self._make(record, old, before, last)
        if record is not None and made:
            unit = record.ref  # the one that everybody keeps
            self._made.put(
                unit,
                tuple([_Made(service, found.endpoints, record.item) for service, found in made]),
            )
            if made[0][1].parts:
                self._in_parts[unit] = made[0][1]
        found = [found for _, found in made]
        self._note_pods(unit, found)
        self._note_waiting(unit, found)
        after = {service.host for service, _ in made}
        for host in {made.service.host for made in old} | after:
            known = claims.get(host)
            if known is None:
                known = self._claims(host)
            others = tuple([claim for claim in known if claim != unit])
            claims[host] = (*others, unit) if host in after else others

    def _claims(self, host: Host) -> tuple[ObjectRef, ...]:
        """Return the units that claim a host."""
        found = self._rivals.get(host)
        if found is not None:
            return found
        service: Service | None = self.service_by_host.get(host)
        return () if service is None else (service.ref,)

    def _users_of_nodes(self, nodes: set[str]) -> set[ObjectRef]:
        return {
            unit
            for unit, made in self._made.items()
            for endpoints in made.endpoints.groups
            for workload in workloads(endpoints)
            if workload.node in nodes
        }

    def _make(
        self, record: Record, old: tuple[_Made, ...], before: Found, last: Snapshot
    ) -> Sequence[tuple[Service, Found]]:
        """Return the services of a unit, each with what was found for it; `old` is what it came
        to last time."""
        item = record.item
        match item:
            case KubernetesService():
                if old and old[0].item is item:
                    service = old[0].service
                else:
                    declared = from_kubernetes(item, ref=record.ref, domain=self._domain)
                    service = _known_service(declared, last)
                meta = item.metadata
                found = kubernetes_endpoints(
                    item,
                    service,
                    slices=self._groups.slices_of(meta.namespace, meta.name),
                    endpoints=self._groups.endpoints_of(meta.namespace, meta.name),
                    world=self._world,
                    previous=before,
                )
                return [(service, _known_endpoints(found, last.endpoints.get(service.host)))]
            case ServiceEntry():
                by_host: dict[Host, tuple[Service, Found]] = {}
                for declared in from_service_entry(item, ref=record.ref):
                    service = _known_service(declared, last)
                    found = service_entry_endpoints(item, service, world=self._world)
                    known = last.endpoints.get(service.host)
                    by_host[service.host] = (service, _known_endpoints(found, known))
                return list(by_host.values())
            case _:
                raise AssertionError(f"{type(item).__name__} declares no services")

    def _note_pods(self, unit: ObjectRef, group: Iterable[Found]) -> None:
        users = self._groups.users_of_pod
        used = self._pods_used.pop(unit, ())
        before = frozenset(used)
        after = frozenset().union(*(found.pods for found in group))
        if after == before:
            if used:
                self._pods_used[unit] = used
            return
        for key in before - after:
            users.put(key, tuple([user for user in users.get(key) if user != unit]))
        for key in after - before:
            users.put(key, (*users.get(key), unit))
        if after:
            self._pods_used[unit] = tuple(after)

    def _note_waiting(self, unit: ObjectRef, group: Iterable[Found]) -> None:
        waiting = frozenset().union(*(found.waiting for found in group))
        if waiting:
            self.waiting[unit] = waiting
        else:
            self.waiting.pop(unit, None)

    def _settle(self, host: Host, units: tuple[ObjectRef, ...]) -> None:
        """Give a host to the oldest unit that claims it."""
        self.contested.pop(host, None)
        self._rivals.pop(host, None)
        if not units:
            self._assign(host, None, NO_ENDPOINTS)
            return
        first = units[0]
        if len(units) > 1:
            first, *losers = sorted(units, key=self._age)
            self._rivals[host] = units
            self.contested[host] = tuple(_lost_host(host, loser, first) for loser in losers)
        chosen = next(made for made in self._made.get(first) if made.service.host == host)
        self._assign(host, chosen.service, chosen.endpoints)

    def _age(self, unit: ObjectRef) -> tuple[str, str, str, str]:
        record: Record = self._groups.records.get(unit)
        return (*by_age(record.item), unit.kind)

    def _assign(self, host: Host, service: Service | None, endpoints: ServiceEndpoints) -> None:
        changed = self._groups.changed
        if self.service_by_host.get(host) is not service:
            changed.add("services")
            if service is None:
                self.service_by_host.drop(host)
            else:
                self.service_by_host.put(host, service)
        before = self.endpoints.get(host, NO_ENDPOINTS)
        if before is endpoints:
            return
        changed.add("endpoints")
        if endpoints:
            self.endpoints.put(host, endpoints)
        else:
            self.endpoints.drop(host)
        if not before:
            changed.add("targets")
            self._move(host, set(), networks(endpoints))
            return
        moved = moved_addresses(before, endpoints)
        if moved:
            changed.add("targets")
            self._move(host, *moved_networks(moved, before, endpoints))

    def _move(self, host: Host, left: set[str], entered: set[str]) -> None:
        """Note that something of a service is in other networks now."""
        index = self.networks
        for network in left:
            rest = tuple([other for other in index.get(network) if other != host])
            if rest:
                index.put(network, rest)
            else:
                index.drop(network)
        for network in entered:
            index.put(network, tuple(sorted((*index.get(network, ()), host))))


def _known_service(service: Service, snapshot: Snapshot) -> Service:
    last = snapshot.service_by_host.get(service.host)
    return last if last is not None and last == service else service


def _known_endpoints(found: Found, last: ServiceEndpoints | None) -> Found:
    """Return what was found with every part that equals the last one's as that very part."""
    if last is None:
        return found
    if last != found.endpoints:
        by_port = {
            name: known_endpoints(made, last.at(name))
            for name, made in found.endpoints.by_port.items()
        }
        return found._replace(endpoints=ServiceEndpoints.of(by_port, found.endpoints.leaving))
    return found._replace(endpoints=last)


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


def _lost_host(host: Host, loser: ObjectRef, winner: ObjectRef) -> Diagnostic:
    return Diagnostic(
        level=Level.WARNING,
        code="DuplicateHost",
        ref=loser,
        message=f"{host} is already declared by the older {winner}, which is used",
    )
