"""The Kubernetes source's steps, counted: the bridge from its reporter to the metrics.

Must not know how either works inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from controlplane.debug.metrics import Metrics
from controlplane.model.kinds import Kind
from controlplane.sources.kubernetes.reporter import Reporter


class SourceMetrics(Reporter):
    """Counts what the Kubernetes source reports."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics: Final = metrics

    def events(self, kind: Kind, events: Mapping[str, int]) -> None:
        """Count events: of configuration and of what the registry of services is made of."""
        config = kind.group.endswith(".istio.io")
        for event, number in events.items():
            self._metrics.source_events(kind.kind, event, number, config=config)

    def relisted(self, kind: str) -> None:
        """Count the gap."""
        self._metrics.relisted(kind)

    def healed(self, kind: str, objects: int) -> None:
        """Count the objects."""
        self._metrics.healed(kind, objects)
