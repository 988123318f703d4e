"""What the source tells whoever wants to know: one method for each thing that happens.

The source itself neither logs nor counts. Every method does nothing here, so that a listener
says only what it cares for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from controlplane.kubernetes.errors import ForbiddenError, KubernetesError
from controlplane.kubernetes.paths import Resource
from controlplane.model.kinds import Kind


class Reporter:
    """Listens to a Kubernetes source."""

    def events(self, kind: Kind, events: Mapping[str, int]) -> None:
        """Objects were added, updated, deleted, or told to have changed without a change."""

    def served(self, kind: Kind, resource: Resource | None) -> None:
        """A kind is watched from now on in this version; None when it is not served any more."""

    def forbidden(self, kind: str, error: ForbiddenError) -> None:
        """The API server does not let us read a kind; said once until it does."""

    def allowed(self, kind: str) -> None:
        """The API server lets us read a kind that it did not before."""

    def away(self, error: KubernetesError) -> None:
        """The API server cannot be reached; said once until it can."""

    def back(self, seconds: float) -> None:
        """The API server can be reached again, after so long."""

    def relisted(self, kind: str) -> None:
        """The whole state of a kind was compared after a gap in its watch."""

    def healed(self, kind: str, objects: int) -> None:
        """A comparison found so many objects that were not as the API server had them."""

    def synced(self, objects: int) -> None:
        """The first full state of every kind is there."""


def _passed_on(step: str) -> Callable[..., None]:
    def tell(self: Reporters, *told: object, **named: object) -> None:
        for listener in self.listeners:
            getattr(listener, step)(*told, **named)

    return tell


class Reporters(Reporter):
    """Passes everything on to several listeners."""

    def __init__(self, *listeners: Reporter) -> None:
        self.listeners: Final = listeners

    events = _passed_on("events")
    served = _passed_on("served")
    forbidden = _passed_on("forbidden")
    allowed = _passed_on("allowed")
    away = _passed_on("away")
    back = _passed_on("back")
    relisted = _passed_on("relisted")
    healed = _passed_on("healed")
    synced = _passed_on("synced")
