"""What translation returns: resources as bytes, with their versions, uses and origins.

A resource is serialised once and hashed once. Origins are a side table: they are no part of
equality, version or bytes.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

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


class Sourced(Protocol):
    """Something that knows where what was made of it comes from."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where it comes from."""
        ...


class Part(Sourced, Protocol):
    """A piece that a resource is joined from: many resources share it."""

    @property
    def framed(self) -> bytes:
        """The piece as it stands in the message."""
        ...

    @property
    def clusters(self) -> tuple[str, ...]:
        """The names of the clusters that the piece refers to."""
        ...


class Joined:
    """A message that is joined from pieces when it is sent, since they are kept anyway."""

    __slots__ = ("_clusters", "_size", "head", "parts", "tail")

    def __init__(self, head: bytes, parts: Sequence[Part], tail: bytes) -> None:
        self.head: Final = head
        self.parts: Final = parts
        self.tail: Final = tail
        self._size: Final = len(head) + sum(len(part.framed) for part in parts) + len(tail)
        self._clusters: frozenset[str] | None = None

    def __len__(self) -> int:
        """Return the length of the message in bytes."""
        return self._size

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """What the message is joined from."""
        return (self.head, *[part.framed for part in self.parts], self.tail)

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that the pieces refer to."""
        if self._clusters is None:
            self._clusters = frozenset().union(*(part.clusters for part in self.parts))
        return self._clusters

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the pieces come from, in their order."""
        return tuple(chain.from_iterable(part.origins for part in self.parts))


class _Uses(NamedTuple):
    """The names that a resource refers to."""

    clusters: frozenset[str]
    routes: frozenset[str]


_NOTHING_USED: Final = _Uses(frozenset(), frozenset())


class Resource:
    """One xDS resource: immutable, equal to another when type and bytes are equal.

    `routes` holds the names of the route configurations that a listener asks RDS for, `clusters`
    those of the clusters that a route configuration (and a listener with inline routes or TCP
    proxies) refers to. `eds_name` is the service that an EDS cluster asks for, `message` the
    serialised message or what it is joined from.
    """

    __slots__ = ("_origins", "_uses", "eds_name", "message", "name", "type", "version")

    def __init__(
        self,
        kind: ResourceType,
        name: str,
        body: bytes | Joined,
        *,
        clusters: frozenset[str] = frozenset(),
        routes: frozenset[str] = frozenset(),
        eds_name: str = "",
        origins: tuple[Origin, ...] | Sourced = (),
        version: str = "",
    ) -> None:
        """`origins` may be what knows them, `version` a hash that follows from those of parts."""
        self.type: Final = kind
        self.name: Final = name
        self.message: Final = body
        self._uses: Final = _Uses(clusters, routes) if clusters or routes else _NOTHING_USED
        self.eds_name: Final = eds_name
        self._origins: Final = origins
        self.version: Final = version or content_hash(self.body)

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that this refers to."""
        body = self.message
        return body.clusters if isinstance(body, Joined) else self._uses.clusters

    @property
    def routes(self) -> frozenset[str]:
        """The names of the route configurations that this refers to."""
        return self._uses.routes

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the parts of the resource come from, in their order."""
        body, origins = self.message, self._origins
        if isinstance(body, Joined):
            return body.origins
        return origins if isinstance(origins, tuple) else origins.origins

    @property
    def body(self) -> bytes:
        """The serialised message; that of a route configuration is joined anew each time."""
        body = self.message
        return body if isinstance(body, bytes) else b"".join(body.pieces)

    @property
    def size(self) -> int:
        """The length of the message in bytes."""
        return len(self.message)

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
