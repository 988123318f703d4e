"""What translation returns: resources as bytes, with their versions, uses and origins.

A resource is serialised once and hashed once. Origins are a side table: they are no part of
equality, version or bytes.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, Protocol

import msgspec

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef


class ResourceType(enum.Enum):
    """The xDS resource types; the value is the type URL."""

    __hash__ = object.__hash__  # the one of enums is a Python function, and dictionaries ask often

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    NAME_TABLE = "type.googleapis.com/istio.networking.nds.v1.NameTable"

    @property
    def url(self) -> str:
        """The type URL."""
        return self.value


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The object and field that made one part of a resource.

    `part` is a path inside the resource (`virtual_hosts[reviews.default.svc.cluster.local:9080]
    .routes[0]`), empty for the whole of it. `field` is a path inside the object (`spec.http[0]`).
    """

    part: str
    ref: ObjectRef
    field: str = ""


class Part(Protocol):
    """A piece that a resource was joined from: many resources share it."""

    @property
    def clusters(self) -> tuple[str, ...]:
        """The names of the clusters that the piece refers to."""
        ...

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the piece comes from."""
        ...


class Resource:
    """One xDS resource: immutable, equal to another when type and bytes are equal.

    `uses` holds the names of other resources that this one refers to: of a listener the route
    configurations that it asks RDS for, of a route configuration (and of a listener with inline
    routes or TCP proxies) the clusters. `eds_name` is the service that an EDS cluster asks for.
    `size` is that of the message in bytes, `any_bytes` the message framed as a protobuf Any.
    """

    __slots__ = ("_clusters", "_origins", "_parts", "any_bytes", "eds_name", "name", "routes",
                 "size", "type", "version")  # fmt: skip

    def __init__(
        self,
        kind: ResourceType,
        name: str,
        body: bytes,
        *,
        clusters: frozenset[str] = frozenset(),
        routes: frozenset[str] = frozenset(),
        eds_name: str = "",
        origins: tuple[Origin, ...] = (),
        parts: Sequence[Part] = (),
        version: str = "",
    ) -> None:
        """`parts` are what the body was joined from, `version` a hash that follows from theirs."""
        self.type: Final = kind
        self.name: Final = name
        self._clusters = clusters
        self.routes: Final = routes
        self.eds_name: Final = eds_name
        self._origins: Final = origins
        self._parts: Final = parts
        self.version: Final = version or content_hash(body)
        self.any_bytes: Final = frame_any(kind.url, body)
        self.size: Final = len(body)

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that this refers to."""
        if self._parts and not self._clusters:
            self._clusters = frozenset().union(*(part.clusters for part in self._parts))
        return self._clusters

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the parts of the resource come from, in their order."""
        if self._parts:
            return tuple(chain.from_iterable(part.origins for part in self._parts))
        return self._origins

    @property
    def body(self) -> bytes:
        """The serialised message. It is cut out anew each time: only the framed bytes are kept."""
        return self.any_bytes[len(self.any_bytes) - self.size :]

    def __repr__(self) -> str:
        return f"Resource({self.type.name}, {self.name!r}, version={self.version})"


class Translated(msgspec.Struct, frozen=True, gc=False):
    """One resource and what was noticed while it was made; None when nothing is to be sent."""

    resource: Resource | None
    diagnostics: tuple[Diagnostic, ...] = ()


def content_hash(body: bytes) -> str:
    """Return 16 hexadecimal digits that depend on the content alone."""
    return digest(body).hex()


def digest(body: bytes) -> bytes:
    """Return a hash of 8 bytes."""
    return hashlib.blake2b(body, digest_size=8).digest()


def frame_any(type_url: str, body: bytes) -> bytes:
    """Return the serialised google.protobuf.Any of a message's bytes."""
    return b"".join(
        (length_delimited(1, type_url.encode()), varint(2 << 3 | 2), varint(len(body)), body)
    )


_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))


def length_delimited(number: int, payload: bytes) -> bytes:
    """Return one length-delimited protobuf field: key, length, payload."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """Return the base-128 encoding of a non-negative integer."""
    # Almost all are keys and lengths of one or two bytes.
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def serialise(message: Any) -> bytes:
    """Return a protobuf message's bytes, the same in every process (map keys sorted)."""
    payload: bytes = message.SerializeToString(deterministic=True)
    return payload
