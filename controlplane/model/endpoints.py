"""The endpoints of one service, from slices, Endpoints, pods and WorkloadEntries.

Pure: everything that may be looked at comes in as a `World`. The rules that are easy to break:
what is read of an object is also what marks its service dirty (`grouping`); and an endpoint whose
pod is not known yet would be one without labels and identity, so it is left out
(`World.awaits_pods`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from controlplane.model.base import NO_LABELS, Labels
from controlplane.model.collector import (
    NOBODY,
    NONE_LEAVE,
    NOTHING,
    Collector,
    Found,
    Part,
    World,
)
from controlplane.model.core import EndpointConditions, Endpoints, KubernetesService, Pod, TargetRef
from controlplane.model.meta import ObjectRef
from controlplane.model.packed import PackedSlice
from controlplane.model.port_endpoints import Facts
from controlplane.model.service_entry import ServiceEntry, WorkloadEntry, WorkloadEntrySpec
from controlplane.model.services import Health, Service, Workload
from controlplane.model.snapshot import selects
from controlplane.model.workloads import (
    container_port,
    entry_workload,
    pod_ips,
    pod_ready,
    pod_workload,
)

UNIX: Final = "unix://"


def kubernetes_endpoints(
    item: KubernetesService,
    service: Service,
    *,
    slices: Iterable[PackedSlice],
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
    collector = Collector(service, world)
    relevant = [entry for entry in slices if entry.address_type != "FQDN"]
    if len(relevant) > 1:
        return _from_slices(relevant, item, collector, previous)
    if relevant:
        _from_slice(relevant[0], item, collector)
        return collector.result(texts=(relevant[0].addresses,))
    if endpoints is not None:
        _from_endpoints(endpoints, item, collector)
    elif service.selector:
        _from_selector(item.spec.publish_not_ready_addresses, collector)
    else:
        return NOTHING
    return collector.result()


def _from_slices(
    slices: Iterable[PackedSlice],
    item: KubernetesService,
    collector: Collector,
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
                entry, service, always, alone.pods, alone.nodes, alone.found,
                frozenset(alone.leaving) if alone.leaving else NONE_LEAVE,
                frozenset(alone.waiting) if alone.waiting else NOBODY,
            )  # fmt: skip
        collector.merge(part)
        parts[name] = part
    return collector.result(parts)


def _from_slice(entry: PackedSlice, item: KubernetesService, collector: Collector) -> None:
    ports = [
        (collector.ports[port.name or ""], port.port)
        for port in entry.ports
        if (port.name or "") in collector.ports and port.port is not None
    ]
    if not ports:
        return
    namespace, always = entry.metadata.namespace, item.spec.publish_not_ready_addresses
    alike: dict[tuple[EndpointConditions, str, str], Facts | None] = {}
    awaits_pods = collector.world.awaits_pods(entry)
    for address, conditions, target, node, zone in entry.rows():
        if awaits_pods and collector.lacks_pod(target):
            collector.waiting.add(address)
            continue
        kind = (conditions, node, zone)
        if target is None and kind in alike:
            facts = alike[kind]
        else:
            health = _health(conditions, always=always, drains=collector.drains)
            workload = collector.workload(target, namespace, node=node, zone=zone)
            facts = None if health is None else Facts(health, 1, workload, target)
            if target is None:
                alike[kind] = facts
        for port, number in ports:
            collector.add(port, address, number, facts)


def _health(conditions: EndpointConditions, *, always: bool, drains: bool) -> Health | None:
    """Return an endpoint's health, None for one that is to be left out (Istio's rule)."""
    if conditions.ready is not False or always:
        return Health.HEALTHY
    if conditions.terminating:
        return Health.DRAINING if conditions.serving and drains else None
    return Health.UNHEALTHY


def _target(target: TargetRef | None, namespace: str) -> ObjectRef | None:
    if target is None or not target.kind:
        return None
    return ObjectRef(target.kind, target.namespace or namespace, target.name)


def _from_endpoints(entry: Endpoints, item: KubernetesService, collector: Collector) -> None:
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
                target = _target(address.target_ref, namespace)
                workload = collector.workload(
                    target, namespace, node=address.node_name or "", zone=""
                )
                for port, number in ports:
                    collector.add(port, address.ip, number, Facts(health, 1, workload, target))


def _from_selector(publish_not_ready: bool, collector: Collector) -> None:
    service, world = collector.service, collector.world
    for pod in world.pods_in(service.namespace):
        if selects(service.selector, pod.metadata.labels):
            _add_pod(pod, collector, always=publish_not_ready)
    for entry in world.entries_in(service.namespace):
        labels = entry_labels(entry)
        if selects(service.selector, labels):
            _add_entry(entry, labels, collector)


def _add_pod(pod: Pod, collector: Collector, *, always: bool = False) -> None:
    addresses = pod_ips(pod)
    if not addresses:
        return
    world = collector.world
    workload = pod_workload(pod, world.nodes.get(pod.spec.node_name), cluster=world.cluster)
    health = Health.HEALTHY if always or pod_ready(pod) else Health.UNHEALTHY
    facts = Facts(health, 1, workload, pod.ref)
    for port in collector.ports.values():
        target = port.target_port
        number = container_port(pod, target) if isinstance(target, str) else target or port.number
        if not number:
            continue
        for address in addresses:
            collector.add(port, address, number, facts)


def entry_labels(entry: WorkloadEntry) -> Labels:
    """Return the labels of a WorkloadEntry: those of its metadata, and over them its spec's."""
    if not entry.metadata.labels:
        return entry.spec.labels or NO_LABELS
    return Labels({**entry.metadata.labels, **(entry.spec.labels or {})})


def _add_entry(entry: WorkloadEntry, labels: Labels, collector: Collector) -> None:
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
    spec: WorkloadEntrySpec, workload: Workload, collector: Collector, *, source: ObjectRef
) -> None:
    address = spec.address
    if not address:
        return
    facts = Facts(Health.HEALTHY, spec.weight or 1, workload, source)
    for port in collector.ports.values():
        target = port.target_port
        default = target if isinstance(target, int) and target else port.number
        number = (spec.ports.get(port.name) if spec.ports else 0) or default
        collector.add(
            port, address.removeprefix(UNIX), 0 if address.startswith(UNIX) else number, facts
        )


def service_entry_endpoints(item: ServiceEntry, service: Service, *, world: World) -> Found:
    """Return the endpoints of one host of a ServiceEntry.

    A DNS entry without endpoints is its own endpoint; an entry with resolution NONE has none.
    """
    spec = item.spec
    collector = Collector(service, world)
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
