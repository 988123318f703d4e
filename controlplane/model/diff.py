"""What differs between two snapshots, found by identity.

The rule that is easy to break: nothing here compares by value. That what is equal is also
identical is the promise of `assemble`; a broken promise only costs work, never a lost change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from controlplane.model.base import Model
from controlplane.model.meta import ObjectRef, moved
from controlplane.model.names import Host
from controlplane.model.services import Service
from controlplane.model.snapshot import Snapshot
from controlplane.model.table import changed_keys
from controlplane.model.targets import moved_addresses


class Change(Model):
    """The parts of the mesh that differ between two snapshots.

    `objects` are routing and gateway objects and what declares services; `services` are hosts
    whose service differs, `endpoints` hosts whose endpoints do. `full` means that anything may
    differ: the settings of the mesh, its domain, or namespaces.
    """

    objects: frozenset[ObjectRef] = frozenset()
    services: frozenset[Host] = frozenset()
    endpoints: frozenset[Host] = frozenset()
    mesh: bool = False
    namespaces: bool = False

    @property
    def full(self) -> bool:
        """Whether the change reaches everything."""
        return self.mesh or self.namespaces

    @property
    def only_endpoints(self) -> bool:
        """Whether load assignments are all that can differ."""
        return bool(self.endpoints) and not (self.full or self.objects or self.services)

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.full or self.objects or self.services or self.endpoints)


NO_CHANGE: Final = Change()


def diff(old: Snapshot, new: Snapshot) -> Change:
    """Return what differs between two snapshots."""
    services = changed_keys(old.service_by_host, new.service_by_host)
    changed: set[ObjectRef] = set()
    for before, after in (
        (old.virtual_services, new.virtual_services),
        (old.destination_rules, new.destination_rules),
        (old.gateways, new.gateways),
    ):
        for group in moved(before, after):
            changed.update(item.ref for item in group)
    for host in services:
        for snapshot in (old, new):
            service: Service | None = snapshot.service_by_host.get(host)
            if service is not None:
                changed.add(service.ref)
    return Change(
        objects=frozenset(changed),
        services=frozenset(services),
        endpoints=frozenset(changed_keys(old.endpoints, new.endpoints)),
        mesh=old.mesh is not new.mesh or old.domain != new.domain,
        namespaces=old.namespaces is not new.namespaces,
    )


def changed_hosts(old: Snapshot, new: Snapshot) -> frozenset[Host] | None:
    """Return the hosts whose service, endpoints or DestinationRules differ, None for any host."""
    hosts = new.rules.changed_hosts(old.rules)
    if hosts is None:
        return None
    return hosts.union(
        changed_keys(old.service_by_host, new.service_by_host),
        changed_keys(old.endpoints, new.endpoints),
    )


def moved_frontends(old: Snapshot, new: Snapshot) -> frozenset[Host]:
    """Return the hosts of the services that came, went, or are addressed otherwise by clients."""
    before, after = old.service_by_host, new.service_by_host
    return frozenset(
        host
        for host in changed_keys(before, after)
        if not _same_frontend(before.get(host), after.get(host))
    )


def _same_frontend(old: Service | None, new: Service | None) -> bool:
    return old is not None and new is not None and old.frontend == new.frontend


def moved_between(old: Snapshot, new: Snapshot, hosts: Iterable[Host]) -> frozenset[str]:
    """Return the addresses at which the endpoints of these hosts end in one snapshot alone."""
    if old.targets is new.targets:
        return frozenset()
    return frozenset().union(
        *(moved_addresses(old.endpoints_of(host), new.endpoints_of(host)) for host in hosts)
    )
