"""What every view is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.ads.journal import Entry
from controlplane.ads.progress import Progress
from controlplane.ads.status import ConnectionStatus, ServingStatus
from controlplane.debug.context import LeaseView, ResourceGenerator, ViewError, find_connection
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef
from controlplane.model.snapshot import Snapshot
from controlplane.sources.kubernetes.status import SourceStatus
from controlplane.translate.resources import Resource
from controlplane.translate.scope import Classifier, ProxyClass

Rendering = Callable[[], Any]
"""Makes the data; pure, slow, may run in any thread."""


def _no_progress(_: ObjectRef) -> Progress:
    return Progress()


def _published(_: ObjectRef) -> bool:
    return False


def _no_kubernetes() -> SourceStatus | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequest:
    """One question: the values of this moment and the query parameters."""

    snapshot: Snapshot
    serving: ServingStatus
    generator: ResourceGenerator
    params: Mapping[str, str] = field(default_factory=dict)
    cached: Callable[[], Iterable[Resource]] = tuple
    journal: Callable[[], tuple[Entry, ...]] = tuple
    progress: Callable[[ObjectRef], Progress] = _no_progress
    unpublished: Callable[[ObjectRef], bool] = _published
    kubernetes: Callable[[], SourceStatus | None] = _no_kubernetes
    leases: Callable[[], tuple[LeaseView, ...]] = tuple
    cluster_id: str = "Kubernetes"
    revision: str = "default"

    def flag(self, name: str) -> bool:
        """Whether a parameter is there and does not say false."""
        value = self.params.get(name)
        return value is not None and value.lower() not in ("false", "0")

    def connection(self) -> ConnectionStatus:
        """Return the connection that `proxyID` means; raises ViewError 400 or 404."""
        return find_connection(self.serving, self.params.get("proxyID", ""))

    def class_of(self, connection: ConnectionStatus) -> ProxyClass:
        """Return the class that the connection is served as."""
        if connection.proxy_class is not None:
            return connection.proxy_class
        return Classifier(self.snapshot).classify(connection.proxy)

    def class_diagnostics(self) -> tuple[tuple[str, Diagnostic], ...]:
        """Return what translation noticed for the connected classes, each finding once, with
        the id of the first connection that it concerns."""
        found: dict[Diagnostic, str] = {}
        seen: set[ProxyClass] = set()
        for connection in self.serving.connections:
            cls = connection.proxy_class
            if cls is None or cls in seen:
                continue
            seen.add(cls)
            for diagnostic in self.generator.diagnostics(self.snapshot, cls):
                found.setdefault(diagnostic, connection.connection_id)
        return tuple((connection_id, diagnostic) for diagnostic, connection_id in found.items())


__all__ = ["Rendering", "ViewError", "ViewRequest"]
