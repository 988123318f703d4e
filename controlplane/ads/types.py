"""The one table of resource types, and the two small interfaces the engine meets the world by.

Everything that depends on a type (wildcard, completeness, order) is read from this table. The
rule that is easy to break: `TYPES` is in push order, and make before break rests on it.

A type that is not in the table is not served yet. A request for one is answered by silence,
never by an error: an Envoy that asks for a secret or a runtime layer would take an empty answer
for a fault, and ending the stream would take the served types away too. The exception are the
on-demand types of the ambient mesh in delta, whose clients wait to be told that a name does not
exist: those get the names back as removed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple, NewType, Protocol

from controlplane.model.proxy import Proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate.resources import Resource, ResourceType
from controlplane.translate.scope import ProxyClass

Nonce = NewType("Nonce", str)
Version = NewType("Version", str)
Names = frozenset[str]

WILDCARD: Final = "*"
ACKNOWLEDGE_LIMIT: Final = 5.0
"""Seconds that anything waits for an acknowledgement; nothing waits for ever."""


class TypeInfo(NamedTuple):
    """What the protocol says about one resource type.

    `wildcard`: a client may subscribe to everything. `complete`: a state-of-the-world response
    holds every subscribed resource, and one that is missing was deleted (xDS protocol, "grouping
    resources into responses").
    """

    kind: ResourceType
    short: str
    wildcard: bool
    complete: bool

    @property
    def url(self) -> str:
        """The type URL."""
        return self.kind.url


CDS: Final = TypeInfo(ResourceType.CLUSTER, "CDS", wildcard=True, complete=True)
EDS: Final = TypeInfo(ResourceType.ENDPOINT, "EDS", wildcard=False, complete=False)
LDS: Final = TypeInfo(ResourceType.LISTENER, "LDS", wildcard=True, complete=True)
RDS: Final = TypeInfo(ResourceType.ROUTE, "RDS", wildcard=False, complete=False)

NDS: Final = TypeInfo(ResourceType.NAME_TABLE, "NDS", wildcard=True, complete=True)

TYPES: Final = (CDS, EDS, LDS, RDS, NDS)
"""Every served type, in the order in which one change is pushed."""

TYPE_BY_URL: Final[Mapping[str, TypeInfo]] = {info.url: info for info in TYPES}

ON_DEMAND_URLS: Final = frozenset(
    {
        "type.googleapis.com/istio.workload.Address",
        "type.googleapis.com/istio.workload.Workload",
        "type.googleapis.com/istio.workload.Service",
    }
)
"""Types not served yet whose delta clients wait for an answer about each name."""

UNREAD_KINDS: Final[Mapping[ResourceType, frozenset[str]]] = {
    ResourceType.CLUSTER: frozenset({"Gateway", "VirtualService"}),
    ResourceType.ENDPOINT: frozenset({"Gateway", "VirtualService"}),
    ResourceType.LISTENER: frozenset({"VirtualService"}),
    ResourceType.ROUTE: frozenset(),
    ResourceType.NAME_TABLE: frozenset({"Gateway", "VirtualService", "DestinationRule"}),
}
"""Kinds whose objects a type's translation never reads: a change of those alone skips it."""


class ResourceGenerator(Protocol):
    """What makes resources. Every method is pure for one snapshot and remembers its results."""

    def clusters(self, snapshot: Snapshot, cls: ProxyClass, /) -> tuple[Resource, ...]:
        """All clusters of a class, no name twice."""
        ...

    def listeners(self, snapshot: Snapshot, cls: ProxyClass, /) -> tuple[Resource, ...]:
        """All listeners of a class, no name twice."""
        ...

    def route(self, snapshot: Snapshot, cls: ProxyClass, name: str, /) -> Resource:
        """The route configuration with that name; empty when nobody knows it."""
        ...

    def load_assignment(self, snapshot: Snapshot, cls: ProxyClass, cluster: str, /) -> Resource:
        """The load assignment of a cluster; empty when nobody knows it."""
        ...

    def load_assignments(
        self, snapshot: Snapshot, cls: ProxyClass, clusters: tuple[str, ...], /
    ) -> tuple[Resource, ...]:
        """The load assignments of many clusters, in their order."""
        ...

    def name_table(self, snapshot: Snapshot, cls: ProxyClass, /) -> Resource:
        """The one name table of a class, for the DNS proxies of its agents."""
        ...


class Classify(Protocol):
    """What finds the class of a proxy in a snapshot."""

    def __call__(self, proxy: Proxy, snapshot: Snapshot, /) -> ProxyClass:
        """Return the class."""
        ...


class KeepsClasses(Protocol):
    """What knows when no proxy can have moved."""

    def __call__(self, before: Snapshot, after: Snapshot, /) -> bool:
        """Whether every proxy has the same class in both."""
        ...


class Status(enum.Enum):
    """The gRPC status a stream is ended with."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAVAILABLE = "UNAVAILABLE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"


class Nothing(NamedTuple):
    """Effect: there is nothing to do."""


class Ready(NamedTuple):
    """Effect: `take` may have something to send now."""


class Close(NamedTuple):
    """Effect: end the stream."""

    status: Status
    message: str


Effect = Nothing | Ready | Close
NOTHING: Final = Nothing()
READY: Final = Ready()


class Send(NamedTuple):
    """Effect: one response, ready for the wire.

    `names` are the resources in it, `removed` those that it takes away. `push` is the journal's
    number of the push that caused it, 0 for the answer to a request.
    """

    type_url: str
    short: str
    nonce: Nonce
    version: Version
    payload: bytes
    names: tuple[str, ...]
    removed: tuple[str, ...] = ()
    push: int = 0
