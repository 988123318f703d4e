"""The reporter that writes the log: one line for what an operator has to know or do."""

from __future__ import annotations

from typing import Any, Final

import structlog

from controlplane.kubernetes.errors import ForbiddenError, KubernetesError
from controlplane.kubernetes.paths import Resource
from controlplane.model.kinds import Kind
from controlplane.sources.kubernetes.reporter import Reporter


class LogReporter(Reporter):
    """Writes structlog events."""

    def __init__(self) -> None:
        self._log: Final[Any] = structlog.get_logger("controlplane.kubernetes")

    def served(self, kind: Kind, resource: Resource | None) -> None:
        """Log kinds that come and go; that those of Kubernetes itself are there is no news."""
        if resource is None:
            self._log.info("kubernetes.kind_gone", kind=kind.qualified)
        elif kind.group:
            self._log.info("kubernetes.watching", kind=kind.qualified, version=resource.version)

    def forbidden(self, kind: str, error: ForbiddenError) -> None:
        """Log the refusal with the rule that is missing."""
        self._log.warning("kubernetes.forbidden", kind=kind, error=str(error))

    def allowed(self, kind: str) -> None:
        """Log the end of a refusal."""
        self._log.info("kubernetes.allowed", kind=kind)

    def away(self, error: KubernetesError) -> None:
        """Log that the state will grow old."""
        self._log.warning("kubernetes.unreachable", error=str(error))

    def back(self, seconds: float) -> None:
        """Log for how long there was no contact."""
        self._log.info("kubernetes.reachable", after=round(seconds, 1))

    def relisted(self, kind: str) -> None:
        """Log a gap that was closed."""
        self._log.info("kubernetes.relisted", kind=kind)

    def healed(self, kind: str, objects: int) -> None:
        """Log what must not happen."""
        self._log.error("kubernetes.healed", kind=kind, objects=objects)

    def synced(self, objects: int) -> None:
        """Log that everything was read."""
        self._log.info("kubernetes.synced", objects=objects)
