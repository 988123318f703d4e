"""Objects in the form in which they are kept: as small as they can be.

An EndpointSlice is read when its service is made and then only kept, a hundred thousand endpoints
of them in a large mesh: they are columns here. The rule that is easy to break: every field of
`SliceEndpoint` has its column, or it is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import repeat
from operator import is_not, itemgetter
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import structs

from controlplane.model.base import NO_LABELS, Labels, one
from controlplane.model.columns import Joined, column, joined, split, spread
from controlplane.model.core import (
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    KubernetesService,
    Pod,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.meta import Object, ObjectMeta, ObjectRef
from controlplane.model.virtual_service import VirtualService

Value = TypeVar("Value")

SERVICE_NAME: Final = "kubernetes.io/service-name"


class SliceRow(NamedTuple):
    """One address of an EndpointSlice."""

    address: str
    conditions: EndpointConditions
    target: ObjectRef | None  # usually a Pod
    node: str
    zone: str


class PackedSlice(Object, cache_hash=False):
    """An EndpointSlice, with one row for each address, in the order of the addresses.

    Its labels and annotations are left out, for nobody reads them beside `service`.
    """

    KIND: ClassVar[str] = EndpointSlice.KIND
    service: str = ""  # the name of the Service in the same namespace
    address_type: Literal["IPv4", "IPv6", "FQDN"] = "IPv4"
    ports: tuple[EndpointPort, ...] = ()
    addresses: Joined = ""  # as those of `PortEndpoints`
    conditions: tuple[EndpointConditions, ...] = ()
    target_kinds: tuple[tuple[str, str] | None, ...] = ()  # kind and namespace
    target_names: Joined = ""  # empty when nothing has a target
    nodes: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()

    def rows(self) -> Iterator[SliceRow]:
        """Yield the rows."""
        names = split(self.target_names) if self.target_names else repeat("")
        for address, conditions, kind, name, node, zone in zip(
            split(self.addresses), spread(self.conditions), spread(self.target_kinds), names,
            spread(self.nodes), spread(self.zones), strict=False,
        ):  # fmt: skip
            # The name is the text that the pod itself has.
            target = None if kind is None else ObjectRef(kind[0], kind[1], sys.intern(name))
            yield SliceRow(address, conditions, target, node, zone)


def packed(item: Object) -> Object:
    """Return an object in the form in which it is kept; it means the same."""
    match item:
        case EndpointSlice():
            return pack_slice(item)
        case KubernetesService(metadata=metadata, spec=spec):
            labels = metadata.labels
            return structs.replace(
                item,
                spec=structs.replace(
                    spec,
                    ports=one(spec.ports),
                    selector=labels if spec.selector == labels else spec.selector,
                ),
            )
        case Pod(spec=asked, status=status):
            return structs.replace(
                item,
                spec=structs.replace(
                    asked,
                    node_name=sys.intern(asked.node_name),
                    service_account_name=sys.intern(asked.service_account_name),
                    containers=one(asked.containers),
                ),
                status=structs.replace(
                    status,
                    phase=sys.intern(status.phase),
                    pod_ip=sys.intern(status.pod_ip),
                    pod_ips=interned(status.pod_ips),
                    conditions=one(status.conditions),
                ),
            )
        case VirtualService(spec=routes):
            return structs.replace(item, spec=interned(routes))
        case DestinationRule(spec=rules):
            return structs.replace(item, spec=interned(rules))
        case _:
            return item


def interned(value: Value) -> Value:
    """Return a value with each of its texts kept once: hosts and subsets repeat in routes."""
    made: Any = value
    if type(made) is str:  # and no word of an enumeration
        made = sys.intern(made)
    elif type(made) is tuple:
        entries = [interned(entry) for entry in made]
        if any(map(is_not, entries, made)):
            made = tuple(entries)
    elif isinstance(made, msgspec.Struct):
        changes = {}
        for name in made.__struct_fields__:
            entry = getattr(made, name)
            if entry and (kept := interned(entry)) is not entry:
                changes[name] = kept
        if changes:
            made = structs.replace(made, **changes)
    found: Value = made
    return found


def pack_slice(item: EndpointSlice) -> PackedSlice:
    """Return an EndpointSlice in columns."""
    meta = item.metadata
    rows = sorted(
        [
            (address, endpoint)
            for endpoint in item.endpoints or ()
            for address in endpoint.addresses
            if address
        ],
        key=itemgetter(0),
    )
    endpoints = [endpoint for _, endpoint in rows]
    targets = [
        None if endpoint.target_ref is None else _target(endpoint.target_ref, meta.namespace)
        for endpoint in endpoints
    ]
    names = ["" if target is None else target.name for target in targets]
    return PackedSlice(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            creation_timestamp=meta.creation_timestamp,
        ),
        service=meta.labels.get(SERVICE_NAME, ""),
        address_type=item.address_type,
        ports=one(item.ports or ()),
        addresses=joined([address for address, _ in rows]),
        conditions=column([endpoint.conditions for endpoint in endpoints]),
        target_kinds=column(
            [None if target is None else (target.kind, target.namespace) for target in targets]
        ),
        target_names=joined(names) if any(names) else "",
        nodes=column([sys.intern(endpoint.node_name or "") for endpoint in endpoints]),
        zones=column([endpoint.zone or "" for endpoint in endpoints]),
    )


_UNSAID: Final = SliceEndpoint(addresses=()).conditions


def unpacked(item: PackedSlice) -> EndpointSlice:
    """Return an EndpointSlice as it would be written, of what is kept of it."""
    meta = item.metadata
    labels = Labels({SERVICE_NAME: item.service}) if item.service else NO_LABELS
    return EndpointSlice(
        metadata=structs.replace(meta, labels=labels),
        address_type=item.address_type,
        ports=item.ports,
        endpoints=tuple(
            SliceEndpoint(
                addresses=(row.address,),
                # Nobody writes what is said by saying nothing; that is told by the object itself.
                conditions=row.conditions if row.conditions != _UNSAID else _UNSAID,
                target_ref=None
                if row.target is None
                else TargetRef(
                    kind=row.target.kind, namespace=row.target.namespace, name=row.target.name
                ),
                node_name=row.node or None,
                zone=row.zone or None,
            )
            for row in item.rows()
        ),
    )


def _target(target: TargetRef, namespace: str) -> ObjectRef | None:
    """Return what a reference names; one without a kind, or no object's name, names nothing."""
    if not target.kind or "\0" in target.name:
        return None
    return ObjectRef(target.kind, target.namespace or namespace, target.name)
