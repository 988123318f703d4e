"""A Snapshot: everything the mesh is made of at one moment, indexed and immutable.

The registry makes one, publishes it by assigning one reference, and never touches it again.
Parts that did not change are the same Python objects as in the snapshot before, so that a
comparison by identity finds what changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from controlplane.model.base import FrozenDict, Labels
from controlplane.model.core import Pod
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.destination_rules import EMPTY_RULES, DestinationRules
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.gateway import Gateway
from controlplane.model.matching import selects, visible
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectRef, Provenance
from controlplane.model.names import Host
from controlplane.model.services import NO_ENDPOINTS, Service, ServiceEndpoints
from controlplane.model.targets import NO_TARGETS, ServiceTarget, TargetIndex, targets_at
from controlplane.model.virtual_service import VirtualService
from controlplane.model.virtual_services import NO_VIRTUAL_SERVICES, VirtualServices

__all__ = ["EMPTY", "ServiceTarget", "Snapshot", "selects", "visible"]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, gc=True):
    """The mesh at one moment. All collections are read only, in an order that never depends
    on arrival (`meta.by_age`; services by creation time, then host)."""

    mesh: MeshConfig = MeshConfig()
    domain: str = "cluster.local"
    services: tuple[Service, ...] = ()
    service_by_host: Mapping[Host, Service] = FrozenDict()
    endpoints: Mapping[Host, ServiceEndpoints] = FrozenDict()
    targets: TargetIndex = NO_TARGETS
    virtual_services: tuple[VirtualService, ...] = ()
    destination_rules: tuple[DestinationRule, ...] = ()
    rules: DestinationRules = EMPTY_RULES
    routing: VirtualServices = NO_VIRTUAL_SERVICES
    gateways: tuple[Gateway, ...] = ()
    pods_by_ip: Mapping[str, Pod] = FrozenDict()
    namespaces: Mapping[str, Labels] = FrozenDict()
    # Every object that a source delivered, whatever its kind, with the side tables of rule 3.
    objects: Mapping[ObjectRef, Object] = FrozenDict()
    provenance: Mapping[ObjectRef, Provenance] = FrozenDict()
    diagnostics: tuple[Diagnostic, ...] = ()
    # Addresses that EndpointSlices name and that are no endpoints until their pods are known.
    waiting_for_pods: frozenset[str] = frozenset()

    def endpoints_of(self, host: Host) -> ServiceEndpoints:
        """Return the endpoints of a service, an empty value when it has none."""
        return self.endpoints.get(host, NO_ENDPOINTS)

    def targets_at(self, address: str) -> tuple[ServiceTarget, ...]:
        """Return the service ports that end at an IP address, in the order of the hosts."""
        found: set[ServiceTarget] = set()
        for host in self.targets.near(address):
            service = self.service_by_host.get(host)
            if service is not None:
                found.update(targets_at(address, service, self.endpoints_of(host)))
        return tuple(sorted(found))


EMPTY: Final = Snapshot()
