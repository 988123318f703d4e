"""The objects at this moment, grouped so that a change finds the services it concerns.

Owns which object changes which service. Must not know snapshots. A *unit* is the reference of
an object that declares services: a Kubernetes Service or a ServiceEntry. The rule that is easy
to break: whatever a unit's endpoints are made of must mark that unit dirty when it changes,
also when it comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from controlplane.model.aged import Aged
from controlplane.model.base import Labels
from controlplane.model.collector import World
from controlplane.model.core import (
    Endpoints,
    KubernetesService,
    Namespace,
    Node,
    Pod,
)
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.endpoints import entry_labels
from controlplane.model.gateway import Gateway
from controlplane.model.meta import Object, ObjectRef, Record
from controlplane.model.packed import PackedSlice
from controlplane.model.service_entry import ServiceEntry, WorkloadEntry
from controlplane.model.several import Several
from controlplane.model.snapshot import selects
from controlplane.model.table import Table
from controlplane.model.virtual_service import VirtualService
from controlplane.model.workloads import REGION, SUBZONE, ZONE, pod_ips

_PLACE: Final = (REGION, ZONE, SUBZONE)

Key = tuple[str, str]  # namespace and name


class Groups:
    """All objects by what they are for. `dirty` are the units whose services may differ now.

    `changed` names the Snapshot fields that may differ now; whoever reads both clears them.
    """

    def __init__(self, cluster_id: str = "") -> None:
        self._cluster_id: Final = cluster_id
        self.records: Final[Table[ObjectRef, Record]] = Table()
        self.virtual_services: Final[Aged[VirtualService]] = Aged()
        self.destination_rules: Final[Aged[DestinationRule]] = Aged()
        self.gateways: Final[Aged[Gateway]] = Aged()
        self.namespaces: Final[Table[str, Labels]] = Table()
        self.nodes: dict[str, Node] = {}
        self.pods: dict[Key, Pod] = {}
        self.pods_by_ip: Final[Table[str, Pod]] = Table()
        self.dirty: set[ObjectRef] = set()
        self.dirty_nodes: set[str] = set()
        self.changed: set[str] = set()
        self.users_of_pod: Final[Several[Key, ObjectRef]] = Several()
        self._moves = 0
        self._pods_in: dict[str, dict[str, Pod]] = {}
        self._owners_of_ip: dict[str, tuple[Key, ...]] = {}
        self._entries_in: dict[str, dict[str, WorkloadEntry]] = {}
        self._slices: dict[str, Several[str, PackedSlice]] = {}  # namespace, service
        self._endpoints: dict[Key, Endpoints] = {}
        # Units whose endpoints are what they select: no slices and no Endpoints say them.
        self._selecting: dict[str, dict[ObjectRef, Labels | None]] = {}

    @property
    def world(self) -> World:
        """What endpoints may be made of; a view that follows later changes."""
        return World(
            pods=self.pods,
            nodes=self.nodes,
            pods_in=lambda namespace: self._pods_in.get(namespace, {}).values(),
            entries_in=lambda namespace: self._entries_in.get(namespace, {}).values(),
            cluster=self._cluster_id,
            moves=lambda: self._moves,
        )

    def slices_of(self, namespace: str, name: str) -> Iterable[PackedSlice]:
        """Return the PackedSlices of a Service."""
        known = self._slices.get(namespace)
        return () if known is None else known.get(name)

    def endpoints_of(self, namespace: str, name: str) -> Endpoints | None:
        """Return the Endpoints object of a Service."""
        return self._endpoints.get((namespace, name))

    def put(self, new: Record) -> None:
        """Take an object in, in place of the one with its reference."""
        old = self.records.get(new.ref)
        if old is new:
            return
        self.records.put(new.ref, new)
        self.changed.add("records")
        before = None if old is None else old.item
        if before is not new.item:
            self._note(new.ref, before, new.item)

    def remove(self, ref: ObjectRef) -> None:
        """Take an object out; one that is not there is no mistake."""
        old = self.records.get(ref)
        if old is not None:
            self.records.drop(ref)
            self.changed.add("records")
            self._note(ref, old.item, None)

    def _note(self, ref: ObjectRef, old: Object | None, new: Object | None) -> None:
        either = new if new is not None else old
        key = (ref.namespace, ref.name)
        match either:
            case VirtualService():
                self.virtual_services.note(ref, new)
            case DestinationRule():
                self.destination_rules.note(ref, new)
            case Gateway():
                self.gateways.note(ref, new)
            case KubernetesService() | ServiceEntry():
                self._look_at_unit(ref)
            case PackedSlice():
                self._place_slice(ref, old, new)
            case Endpoints():
                _place(self._endpoints, key, new)
                self._look_at_unit(ObjectRef(KubernetesService.KIND, *key))
            case Pod():
                self._moves += 1
                _place(self.pods, key, new)
                _place(self._pods_in.setdefault(ref.namespace, {}), ref.name, new)
                self._note_pod(key, old, new)
            case WorkloadEntry():
                _place(self._entries_in.setdefault(ref.namespace, {}), ref.name, new)
                for item in (old, new):
                    if isinstance(item, WorkloadEntry):
                        self._dirty_selectors(ref.namespace, entry_labels(item))
            case Node():
                self._moves += 1
                _place(self.nodes, ref.name, new)
                if _place_of(old) != _place_of(new):
                    self.dirty_nodes.add(ref.name)
            case Namespace():
                if new is None:
                    self.namespaces.drop(ref.name)
                else:
                    self.namespaces.put(ref.name, new.metadata.labels)
                self.changed.add("namespaces")
            case _:
                pass  # a kind that is accepted and not translated: it is only kept

    def _look_at_unit(self, ref: ObjectRef) -> None:
        """Note that a unit, or what says its endpoints, is another one now."""
        self.dirty.add(ref)
        record: Record | None = self.records.get(ref)
        selecting = self._selecting.setdefault(ref.namespace, {})
        selecting.pop(ref, None)
        match None if record is None else record.item:
            case KubernetesService(spec=spec) if spec.selector:
                sliced = self.slices_of(ref.namespace, ref.name)
                if not sliced and self.endpoints_of(ref.namespace, ref.name) is None:
                    selecting[ref] = spec.selector
            case ServiceEntry(spec=spec) if spec.workload_selector is not None:
                selecting[ref] = spec.workload_selector.labels
            case _:
                pass

    def _place_slice(self, ref: ObjectRef, old: Object | None, new: Object | None) -> None:
        by_service = self._slices.setdefault(ref.namespace, Several())
        for item in (old, new):
            name = item.service if isinstance(item, PackedSlice) else ""
            if not name:
                continue
            slices = [entry for entry in by_service.get(name) if entry.metadata.name != ref.name]
            if item is new and isinstance(new, PackedSlice):
                slices.append(new)
            by_service.put(name, tuple(sorted(slices, key=lambda entry: entry.metadata.name)))
            self._look_at_unit(ObjectRef(KubernetesService.KIND, ref.namespace, name))

    def _note_pod(self, key: Key, old: Object | None, new: Object | None) -> None:
        self.dirty.update(self.users_of_pod.get(key))
        for item in (old, new):
            if isinstance(item, Pod):
                self._dirty_selectors(key[0], item.metadata.labels)
        before = set(pod_ips(old)) if isinstance(old, Pod) else set()
        after = set(pod_ips(new)) if isinstance(new, Pod) else set()
        for ip in before | after:
            others = tuple(owner for owner in self._owners_of_ip.get(ip, ()) if owner != key)
            owners = (*others, key) if ip in after else others
            if owners:
                self._owners_of_ip[ip] = owners
                self.pods_by_ip.put(ip, min((self.pods[owner] for owner in owners), key=_claim))
            else:
                del self._owners_of_ip[ip]
                self.pods_by_ip.drop(ip)
            self.changed.add("pods_by_ip")

    def _dirty_selectors(self, namespace: str, labels: Labels) -> None:
        """Mark the units of a namespace whose endpoints come from what has these labels."""
        for ref, selector in self._selecting.get(namespace, {}).items():
            if selects(selector, labels):
                self.dirty.add(ref)


def _place(group: dict[Any, Any], key: Any, new: Any) -> None:
    if new is None:
        group.pop(key, None)
    else:
        group[key] = new


def _place_of(node: Object | None) -> tuple[str | None, ...]:
    labels = {} if node is None else node.metadata.labels
    return tuple(labels.get(key) for key in _PLACE)


def _claim(pod: Pod) -> tuple[bool, bool, str, str]:
    """Sort key among pods that say the same address: the pod network's own, running one."""
    return (
        pod.spec.host_network,
        pod.status.phase not in ("", "Running"),
        pod.metadata.namespace,
        pod.metadata.name,
    )
