"""The endpoints of an EndpointSlice as one piece of bytes.

A slice is read once when its service is made and then only kept, a hundred thousand endpoints of
them in a large mesh: packed they take a tenth. The rule that is easy to break: every field of
`SliceEndpoint` has its place in a row, or it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Self, overload

import msgspec

from controlplane.model.base import one
from controlplane.model.core import (
    EndpointConditions,
    EndpointSlice,
    KubernetesService,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.meta import Object


class _Row(msgspec.Struct, array_like=True, gc=False):
    addresses: tuple[str, ...]
    ready: bool | None
    serving: bool | None
    terminating: bool | None
    kind: str | None  # None without a target
    name: str
    namespace: str
    node_name: str | None
    zone: str | None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[_Row])
_CONDITIONS: Final = {
    (ready, serving, terminating): EndpointConditions(
        ready=ready, serving=serving, terminating=terminating
    )
    for ready in (None, False, True)
    for serving in (None, False, True)
    for terminating in (None, False, True)
}


class PackedEndpoints(Sequence[SliceEndpoint]):
    """Endpoints that are unpacked each time they are looked at. Immutable."""

    __slots__ = ("_data", "_length")

    def __init__(self, data: bytes, length: int) -> None:
        self._data: Final = data
        self._length: Final = length

    @classmethod
    def of(cls, endpoints: Iterable[SliceEndpoint]) -> Self:
        """Return endpoints packed."""
        rows = [_row(endpoint) for endpoint in endpoints]
        return cls(_ENCODER.encode(rows), len(rows))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[SliceEndpoint]:
        return map(_endpoint, _DECODER.decode(self._data))

    @overload
    def __getitem__(self, index: int) -> SliceEndpoint: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[SliceEndpoint, ...]: ...
    def __getitem__(self, index: int | slice) -> SliceEndpoint | tuple[SliceEndpoint, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedEndpoints):
            return self._data == other._data
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


def packed(item: Object) -> Object:
    """Return an object in the form in which it is kept: equal, and as small as it can be."""
    match item:
        case EndpointSlice(endpoints=endpoints) if endpoints:
            return msgspec.structs.replace(
                item,
                endpoints=PackedEndpoints.of(endpoints),
                ports=None if item.ports is None else one(item.ports),
            )
        case KubernetesService(metadata=metadata, spec=spec):
            labels = metadata.labels
            return msgspec.structs.replace(
                item,
                spec=msgspec.structs.replace(
                    spec,
                    ports=one(spec.ports),
                    selector=labels if spec.selector == labels else spec.selector,
                ),
            )
        case _:
            return item


def _row(endpoint: SliceEndpoint) -> _Row:
    conditions, target = endpoint.conditions, endpoint.target_ref
    return _Row(
        tuple(endpoint.addresses),
        conditions.ready,
        conditions.serving,
        conditions.terminating,
        None if target is None else target.kind,
        "" if target is None else target.name,
        "" if target is None else target.namespace,
        endpoint.node_name,
        endpoint.zone,
    )


def _endpoint(row: _Row) -> SliceEndpoint:
    kind = row.kind
    return SliceEndpoint(
        addresses=row.addresses,
        conditions=_CONDITIONS[row.ready, row.serving, row.terminating],
        target_ref=None
        if kind is None
        else TargetRef(kind=kind, name=row.name, namespace=row.namespace),
        node_name=row.node_name,
        zone=row.zone,
    )
