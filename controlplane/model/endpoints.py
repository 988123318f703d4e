"""The endpoints of one service, from slices, Endpoints, pods and WorkloadEntries.

Pure: everything that may be looked at comes in as a `World`. The rules that are easy to break:
the order of endpoints is (address, port) and never that of arrival; a pod that is shutting
down is no endpoint any more but still has its inbound listeners (`Found.targets`); and an endpoint
whose pod is not known yet would be one without labels and identity, so it is left out
(`World.awaits_pods`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Final, NamedTuple

from controlplane.model.base import NO_LABELS, FrozenDict, Labels, one
from controlplane.model.core import (
    EndpointConditions,
    Endpoints,
    EndpointSlice,
    KubernetesService,
    Node,
    Pod,
    TargetRef,
)
from controlplane.model.meta import ObjectRef
from controlplane.model.port_endpoints import PortEndpoints
from controlplane.model.service_entry import ServiceEntry, WorkloadEntry, WorkloadEntrySpec
from controlplane.model.services import (
    NO_ENDPOINTS,
    Endpoint,
    Health,
    Protocol,
    Service,
    ServiceEndpoints,
    ServicePort,
    Workload,
)
from controlplane.model.snapshot import ServiceTarget, selects
from controlplane.model.workloads import (
    container_port,
    entry_workload,
    place_locality,
    pod_ips,
    pod_ready,
    pod_workload,
)

PERSISTENT_SESSION: Final = "istio.io/persistent-session"
UNIX: Final = "unix://"


class World(NamedTuple):
    """What the endpoints of a service may depend on beside the service's own objects."""

    pods: Mapping[tuple[str, str], Pod]  # by namespace and name
    nodes: Mapping[str, Node]
    pods_in: Callable[[str], Iterable[Pod]]  # by namespace
    entries_in: Callable[[str], Iterable[WorkloadEntry]]  # by namespace
    cluster: str = ""  # the name of the cluster that the objects come from
    moves: Callable[[], int] = lambda: -1  # how often pods or nodes changed, negative: not known
    # Whether every pod is told of from where a slice comes: its endpoints wait for theirs (as in
    # istiod, for ever: wrong labels would decide about subsets, policies and TLS).
    awaits_pods: Callable[[EndpointSlice], bool] = lambda _: False


class Targets(NamedTuple):
    """What ends at some addresses: all of a service's are usually alike."""

    targets: tuple[ServiceTarget, ...]
    addresses: tuple[str, ...]


class Part(NamedTuple):
    """What one EndpointSlice adds to a service, beside everything that it was made of."""

    slice: EndpointSlice
    service: Service
    publish_not_ready: bool
    pods: Mapping[tuple[str, str], Pod | None]
    nodes: Mapping[str, Node | None]
    found: Mapping[str, Mapping[tuple[str, int], Endpoint]]
    targets: Mapping[str, tuple[ServiceTarget, ...]]
    awaits_pods: bool
    waiting: frozenset[str]

    def holds(
        self,
        entry: EndpointSlice,
        service: Service,
        world: World,
        *,
        publish_not_ready: bool,
        still: bool,
    ) -> bool:
        """Whether it would be made the same again: of the very same objects.

        `still` says that no pod and no node has changed since it was made.
        """
        return (
            self.slice is entry
            and self.service is service
            and self.publish_not_ready is publish_not_ready
            and self.awaits_pods is world.awaits_pods(entry)
            and (
                still
                or (
                    all(map(is_, map(world.pods.get, self.pods), self.pods.values()))
                    and all(map(is_, map(world.nodes.get, self.nodes), self.nodes.values()))
                )
            )
        )


class Found(NamedTuple):
    """The endpoints of a service, who of the workloads they concern, and which pods were used.

    `parts` are kept by name of the slice when there are several: a change of one then leaves the
    work for the others alone. `waiting` are addresses that were left out because their pods are
    not known.
    """

    endpoints: ServiceEndpoints = NO_ENDPOINTS
    targets: tuple[Targets, ...] = ()
    pods: frozenset[tuple[str, str]] = frozenset()
    parts: Mapping[str, Part] = FrozenDict()
    moves: int = -1  # of the world, when this was found
    waiting: frozenset[str] = frozenset()


NOTHING: Final = Found()
_NO_PODS: Final[frozenset[tuple[str, str]]] = frozenset()
_NOBODY: Final[frozenset[str]] = frozenset()
_NO_PARTS: Final[Mapping[str, Part]] = FrozenDict()


def at_endpoints(found: tuple[Targets, ...], endpoints: ServiceEndpoints) -> tuple[Targets, ...]:
    """Return targets with the addresses of endpoints, which mostly are the same, kept once."""
    same = {
        group.addresses: group.addresses
        for group in endpoints.by_port.values()
        if isinstance(group, PortEndpoints)
    }
    return tuple(
        group._replace(addresses=same.get(group.addresses, group.addresses)) for group in found
    )


class _Collector:
    """Gathers the endpoints of one service."""

    def __init__(self, service: Service, world: World) -> None:
        self.service = service
        self.world = world
        self.ports = {
            port.name: port for port in service.ports if port.protocol is not Protocol.UDP
        }
        self.found: dict[str, dict[tuple[str, int], Endpoint]] = {name: {} for name in self.ports}
        self.targets: dict[str, tuple[ServiceTarget, ...]] = {}
        self._alone: dict[tuple[str, int], tuple[ServiceTarget]] = {}
        self.pods: dict[tuple[str, str], Pod | None] = {}
        self.nodes: dict[str, Node | None] = {}
        self.waiting: set[str] = set()
        self.drains = PERSISTENT_SESSION in service.labels
        self._workloads: dict[tuple[str, str, str], Workload] = {}

    def part(self) -> _Collector:
        """Return a collector for a part of the same service, which shares what is equal."""
        made = _Collector(self.service, self.world)
        made._alone, made._workloads = self._alone, self._workloads
        return made

    def merge(self, part: Part) -> None:
        """Take everything that a part has."""
        self.pods.update(part.pods)
        self.waiting |= part.waiting
        for name, more in part.found.items():
            known = self.found[name]
            if known.keys().isdisjoint(more):
                known.update(more)
                continue
            for key, made in more.items():
                before = known.get(key)
                if before is None or _rank(made) < _rank(before):
                    known[key] = made
        if self.targets.keys().isdisjoint(part.targets):
            self.targets.update(part.targets)
            return
        for address, targets in part.targets.items():
            others = self.targets.get(address, ())
            self.targets[address] = tuple(sorted({*others, *targets})) if others else targets

    def add(
        self,
        port: ServicePort,
        address: str,
        *,
        number: int,
        health: Health | None,
        workload: Workload,
        weight: int = 1,
        source: ObjectRef | None = None,
    ) -> None:
        """Take one endpoint; without health it is only a target, as a pod that shuts down."""
        target = self._target(port, number)
        others = self.targets.get(address)
        if others is None:
            self.targets[address] = target
        elif target[0] not in others:
            self.targets[address] = tuple(sorted((*others, *target)))
        if health is None:
            return
        made = Endpoint(
            address=address,
            port=number,
            health=health,
            weight=weight,
            workload=workload,
            source=source,
        )
        known = self.found[port.name]
        key = (address, number)
        before = known.get(key)
        if before is None or _rank(made) < _rank(before):
            known[key] = made

    def workload(
        self, target: TargetRef | None, namespace: str, *, node: str, zone: str
    ) -> Workload:
        """Return the workload behind an endpoint, from its pod when that is known."""
        if target is not None and target.kind == "Pod":
            key = (target.namespace or namespace, target.name)
            pod = self.world.pods.get(key)
            self.pods[key] = pod
            if pod is not None:
                return pod_workload(
                    pod,
                    self._node(pod.spec.node_name or node),
                    zone=zone,
                    cluster=self.world.cluster,
                )
        shared = (namespace, node, zone)
        place = self._node(node)
        made = self._workloads.get(shared)
        if made is None:
            made = _bare_workload(namespace, node, place_locality(place, zone), self.world.cluster)
            self._workloads[shared] = made
        return made

    def lacks_pod(self, target: TargetRef | None, namespace: str) -> bool:
        """Whether an endpoint names a pod that is not known."""
        if target is None or target.kind != "Pod":
            return False
        key = (target.namespace or namespace, target.name)
        pod = self.pods[key] = self.world.pods.get(key)
        return pod is None

    def _node(self, name: str) -> Node | None:
        found = self.world.nodes.get(name)
        self.nodes[name] = found
        return found

    def _target(self, port: ServicePort, number: int) -> tuple[ServiceTarget]:
        """Return the target of a port, one object for all endpoints of the service."""
        key = (port.name, number)
        found = self._alone.get(key)
        if found is None:
            found = (ServiceTarget(self.service.host, port.number, port.name, number),)
            self._alone[key] = found
        return found

    def result(self, parts: Mapping[str, Part] | None = None) -> Found:
        """Return everything in its fixed order."""
        by_port: FrozenDict[str, Sequence[Endpoint]] = FrozenDict(
            (name, PortEndpoints.of([known[key] for key in sorted(known)]))
            for name, known in self.found.items()
            if known
        )
        groups: dict[tuple[ServiceTarget, ...], list[str]] = {}
        for address, targets in self.targets.items():
            groups.setdefault(targets, []).append(address)
        endpoints = ServiceEndpoints(by_port=by_port) if by_port else NO_ENDPOINTS
        made = tuple(Targets(targets, tuple(sorted(found))) for targets, found in groups.items())
        return Found(
            endpoints,
            at_endpoints(made, endpoints),
            frozenset(self.pods) if self.pods else _NO_PODS,
            parts or _NO_PARTS,
            self.world.moves(),
            frozenset(self.waiting) if self.waiting else _NOBODY,
        )


@functools.lru_cache(maxsize=1024)
def _bare_workload(namespace: str, node: str, locality: str, cluster: str) -> Workload:
    """Return a workload of which only the place is known, one object for equal ones."""
    return one(Workload(namespace=namespace, node=node, locality=locality, cluster=cluster))


def _rank(endpoint: Endpoint) -> tuple[int, str, str]:
    """Sort key among endpoints of one address and port: the healthy one is the right one."""
    return (int(endpoint.health), endpoint.workload.name, str(endpoint.source or ""))


def kubernetes_endpoints(
    item: KubernetesService,
    service: Service,
    *,
    slices: Iterable[EndpointSlice],
    endpoints: Endpoints | None,
    world: World,
    previous: Found = NOTHING,
) -> Found:
    """Return the endpoints of a Kubernetes Service.

    EndpointSlices count alone when there is one, then Endpoints, then what the selector
    matches (pods and WorkloadEntries). `previous` is what was found last time.
    """
    if service.alias_of is not None:
        return NOTHING
    collector = _Collector(service, world)
    relevant = [entry for entry in slices if entry.address_type != "FQDN"]
    if len(relevant) > 1:
        return _from_slices(relevant, item, collector, previous)
    if relevant:
        _from_slice(relevant[0], item, collector)
    elif endpoints is not None:
        _from_endpoints(endpoints, item, collector)
    elif service.selector:
        _from_selector(item.spec.publish_not_ready_addresses, collector)
    else:
        return NOTHING
    return collector.result()


def _from_slices(
    slices: Iterable[EndpointSlice],
    item: KubernetesService,
    collector: _Collector,
    previous: Found,
) -> Found:
    parts: dict[str, Part] = {}
    always = item.spec.publish_not_ready_addresses
    service, world = collector.service, collector.world
    still = 0 <= previous.moves == world.moves()
    for entry in slices:
        name = entry.metadata.name
        part = previous.parts.get(name)
        if part is None or not part.holds(
            entry, service, world, publish_not_ready=always, still=still
        ):
            alone = collector.part()
            _from_slice(entry, item, alone)
            part = Part(
                entry, service, always, alone.pods, alone.nodes, alone.found, alone.targets,
                world.awaits_pods(entry), frozenset(alone.waiting),
            )  # fmt: skip
        collector.merge(part)
        parts[name] = part
    return collector.result(parts)


def _from_slice(entry: EndpointSlice, item: KubernetesService, collector: _Collector) -> None:
    ports = [
        (collector.ports[port.name or ""], port.port)
        for port in entry.ports or ()
        if (port.name or "") in collector.ports and port.port is not None
    ]
    if not ports:
        return
    namespace = entry.metadata.namespace
    awaits_pods = collector.world.awaits_pods(entry)
    for endpoint in entry.endpoints or ():
        if awaits_pods and collector.lacks_pod(endpoint.target_ref, namespace):
            collector.waiting.update(endpoint.addresses)
            continue
        health = _health(
            endpoint.conditions,
            always=item.spec.publish_not_ready_addresses,
            drains=collector.drains,
        )
        target = endpoint.target_ref
        workload = collector.workload(
            target, namespace, node=endpoint.node_name or "", zone=endpoint.zone or ""
        )
        source = _target_source(target, namespace)
        for address in endpoint.addresses:
            for port, number in ports:
                collector.add(
                    port, address, number=number, health=health, workload=workload, source=source
                )


def _health(conditions: EndpointConditions, *, always: bool, drains: bool) -> Health | None:
    """Return an endpoint's health, None for one that is to be left out (Istio's rule)."""
    if conditions.ready is not False or always:
        return Health.HEALTHY
    if conditions.terminating:
        return Health.DRAINING if conditions.serving and drains else None
    return Health.UNHEALTHY


def _target_source(target: TargetRef | None, namespace: str) -> ObjectRef | None:
    if target is None or not target.kind:
        return None
    return ObjectRef(target.kind, target.namespace or namespace, target.name)


def _from_endpoints(entry: Endpoints, item: KubernetesService, collector: _Collector) -> None:
    namespace = entry.metadata.namespace
    unready = Health.HEALTHY if item.spec.publish_not_ready_addresses else Health.UNHEALTHY
    for subset in entry.subsets or ():
        ports = [
            (collector.ports[port.name or ""], port.port)
            for port in subset.ports or ()
            if (port.name or "") in collector.ports and port.port is not None
        ]
        groups = ((subset.addresses, Health.HEALTHY), (subset.not_ready_addresses, unready))
        for addresses, health in groups:
            for address in addresses or ():
                target = address.target_ref
                workload = collector.workload(
                    target, namespace, node=address.node_name or "", zone=""
                )
                for port, number in ports:
                    collector.add(
                        port, address.ip, number=number, health=health, workload=workload,
                        source=_target_source(target, namespace),
                    )  # fmt: skip


def _from_selector(publish_not_ready: bool, collector: _Collector) -> None:
    service, world = collector.service, collector.world
    for pod in world.pods_in(service.namespace):
        if selects(service.selector, pod.metadata.labels):
            _add_pod(pod, collector, always=publish_not_ready)
    for entry in world.entries_in(service.namespace):
        labels = entry_labels(entry)
        if selects(service.selector, labels):
            _add_entry(entry, labels, collector)


def _add_pod(pod: Pod, collector: _Collector, *, always: bool = False) -> None:
    addresses = pod_ips(pod)
    if not addresses:
        return
    world = collector.world
    workload = pod_workload(pod, world.nodes.get(pod.spec.node_name), cluster=world.cluster)
    health = Health.HEALTHY if always or pod_ready(pod) else Health.UNHEALTHY
    for port in collector.ports.values():
        target = port.target_port
        number = container_port(pod, target) if isinstance(target, str) else target or port.number
        if not number:
            continue
        for address in addresses:
            collector.add(
                port, address, number=number, health=health, workload=workload, source=pod.ref
            )


def entry_labels(entry: WorkloadEntry) -> Labels:
    """Return the labels of a WorkloadEntry: those of its metadata, and over them its spec's."""
    if not entry.metadata.labels:
        return entry.spec.labels or NO_LABELS
    return Labels({**entry.metadata.labels, **(entry.spec.labels or {})})


def _add_entry(entry: WorkloadEntry, labels: Labels, collector: _Collector) -> None:
    meta = entry.metadata
    workload = entry_workload(
        entry.spec,
        name=meta.name,
        namespace=meta.namespace,
        labels=labels,
        external=collector.service.external,
        cluster=collector.world.cluster,
    )
    _add_address(entry.spec, workload, collector, source=entry.ref)


def _add_address(
    spec: WorkloadEntrySpec, workload: Workload, collector: _Collector, *, source: ObjectRef
) -> None:
    address = spec.address
    if not address:
        return
    for port in collector.ports.values():
        target = port.target_port
        default = target if isinstance(target, int) and target else port.number
        number = (spec.ports.get(port.name) if spec.ports else 0) or default
        collector.add(
            port,
            address.removeprefix(UNIX),
            number=0 if address.startswith(UNIX) else number,
            health=Health.HEALTHY,
            workload=workload,
            weight=spec.weight or 1,
            source=source,
        )


def service_entry_endpoints(item: ServiceEntry, service: Service, *, world: World) -> Found:
    """Return the endpoints of one host of a ServiceEntry.

    A DNS entry without endpoints is its own endpoint; an entry with resolution NONE has none.
    """
    spec = item.spec
    collector = _Collector(service, world)
    namespace = item.metadata.namespace
    selector = spec.workload_selector
    if selector is not None:
        for pod in world.pods_in(namespace):
            if selects(selector.labels, pod.metadata.labels):
                _add_pod(pod, collector)
        for entry in world.entries_in(namespace):
            labels = entry_labels(entry)
            if selects(selector.labels, labels):
                _add_entry(entry, labels, collector)
    elif spec.endpoints:
        for endpoint in spec.endpoints:
            workload = entry_workload(
                endpoint,
                name=item.metadata.name,
                namespace=namespace,
                labels=endpoint.labels or NO_LABELS,
                external=service.external,
                cluster=world.cluster,
            )
            _add_address(endpoint, workload, collector, source=item.ref)
    elif spec.resolution in ("DNS", "DNS_ROUND_ROBIN"):
        itself = WorkloadEntrySpec(address=service.host)
        workload = Workload(name=item.metadata.name, namespace=namespace, cluster=world.cluster)
        _add_address(itself, workload, collector, source=item.ref)
    else:
        return NOTHING
    return collector.result()
