"""What the debug endpoints are given: callables that return immutable values.

Owns the seam between serving and its readers. Must not know who implements it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from controlplane.ads.journal import Entry
from controlplane.ads.progress import Progress
from controlplane.ads.status import ConnectionStatus, ServingStatus
from controlplane.debug.auth import Doors
from controlplane.debug.metrics import Metrics
from controlplane.errors import PylotError
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef
from controlplane.model.snapshot import Snapshot
from controlplane.sources.kubernetes.status import SourceStatus
from controlplane.translate.resources import Resource, ResourceType
from controlplane.translate.scope import ProxyClass


class ResourceGenerator(Protocol):
    """What makes resources (`translate.build.Generator`); the snapshot is always named."""

    def clusters(self, snapshot: Snapshot, cls: ProxyClass, /) -> tuple[Resource, ...]:
        """Return the clusters of a class in wire order."""
        ...

    def listeners(self, snapshot: Snapshot, cls: ProxyClass, /) -> tuple[Resource, ...]:
        """Return the listeners of a class in wire order."""
        ...

    def route(self, snapshot: Snapshot, cls: ProxyClass, name: str, /) -> Resource:
        """Return one route configuration, empty for an unknown name."""
        ...

    def load_assignment(
        self, snapshot: Snapshot, cls: ProxyClass, cluster_name: str, /
    ) -> Resource:
        """Return one load assignment, empty for an unknown cluster."""
        ...

    def diagnostics(self, snapshot: Snapshot, cls: ProxyClass, /) -> tuple[Diagnostic, ...]:
        """Return what was noticed while the resources of a class were made."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether every source has delivered its first full state, and the webhooks are trusted.

    `missing` names what is waited for; `warnings` are shown in the body, such as a kind
    that the API server forbids. `stopping` says that it was ready and ends now.
    """

    ready: bool
    stopping: bool = False
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A Lease as this replica sees it; `holder` is empty when nobody has it, or nobody knows."""

    name: str
    namespace: str
    identity: str
    holder: str
    leads: bool


def _nothing() -> tuple[Resource, ...]:
    return ()


def _no_progress(_: ObjectRef) -> Progress:
    return Progress()


def _published(_: ObjectRef) -> bool:
    return False


def _no_kubernetes() -> SourceStatus | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugContext:
    """Everything the HTTP side reads.

    `cached` lists the resources that translation keeps in memory, `journal` the last pushes,
    oldest first. `progress` says how far proxies are with an object, `unpublished` whether a
    newer version of one waits for its push, `findings` what serving found wrong with objects,
    `kubernetes` how old its source's state is and `leases` who leads. All
    callables are called on the event loop and must return at once.
    """

    snapshot: Callable[[], Snapshot]
    serving: Callable[[], ServingStatus]
    generator: ResourceGenerator
    ready: Callable[[], Readiness]
    metrics: Metrics
    doors: Doors
    cached: Callable[[], Iterable[Resource]] = _nothing
    journal: Callable[[], tuple[Entry, ...]] = tuple
    progress: Callable[[ObjectRef], Progress] = _no_progress
    unpublished: Callable[[ObjectRef], bool] = _published
    findings: Callable[[], tuple[Diagnostic, ...]] = tuple
    kubernetes: Callable[[], SourceStatus | None] = _no_kubernetes
    leases: Callable[[], tuple[LeaseView, ...]] = tuple
    cluster_id: str = "Kubernetes"
    revision: str = "default"


class ViewError(PylotError):
    """A debug request that cannot be answered: an HTTP status and a sentence for the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


NOT_CONNECTED = "Proxy not connected to this Pilot instance"


def asks_names_only(connection: ConnectionStatus) -> bool:
    """Whether this is the stream by which an agent gets its name table, beside its Envoy's."""
    return set(connection.watches) == {ResourceType.NAME_TABLE.url}


def find_connection(serving: ServingStatus, proxy_id: str) -> ConnectionStatus:
    """Return the connection that `proxyID` means: an exact id or name, else the first that
    contains it.

    Raises ViewError 400 when it is empty and 404 when no connection matches.
    """
    if not proxy_id:
        raise ViewError(400, "You must provide a proxyID in the query string")
    connections = sorted(serving.connections, key=asks_names_only)
    for connection in connections:
        if proxy_id in (connection.connection_id, connection.proxy.name):
            return connection
    for connection in connections:
        if proxy_id in connection.connection_id:
            return connection
    raise ViewError(404, f"{NOT_CONNECTED}. It may be connected to another instance: {proxy_id}")
