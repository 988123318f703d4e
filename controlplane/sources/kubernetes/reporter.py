"""What the source tells whoever wants to know: one method for each thing that happens.

The source itself neither logs nor counts. Every method does nothing here, so that a listener
says only what it cares for.
"""

from __future__ import annotations

from collections.abc import Mapping

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


class Reporters(Reporter):
    """Passes everything on to several listeners."""

    def __init__(self, *listeners: Reporter) -> None:
        self._listeners = listeners

    def events(self, kind: Kind, events: Mapping[str, int]) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.events(kind, events)

    def served(self, kind: Kind, resource: Resource | None) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.served(kind, resource)

    def forbidden(self, kind: str, error: ForbiddenError) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.forbidden(kind, error)

    def allowed(self, kind: str) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.allowed(kind)

    def away(self, error: KubernetesError) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.away(error)

    def back(self, seconds: float) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.back(seconds)

    def relisted(self, kind: str) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.relisted(kind)

    def healed(self, kind: str, objects: int) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.healed(kind, objects)

    def synced(self, objects: int) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.synced(objects)
