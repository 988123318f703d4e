"""When an API server counts as away, and when as back."""

from __future__ import annotations

from controlplane.kubernetes.errors import (
    ForbiddenError,
    KubernetesError,
    UnauthorizedError,
    UnavailableError,
)
from controlplane.kubernetes.paths import Call
from controlplane.sources.kubernetes.contact import Contact
from controlplane.sources.kubernetes.reporter import Reporter

GONE = UnavailableError("connection refused")


class Told(Reporter):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def away(self, error: KubernetesError) -> None:
        """Note."""
        self.said.append("away")

    def back(self, seconds: float) -> None:
        """Note."""
        self.said.append(f"back after {seconds:g}")


def test_a_failure_of_what_was_asked_before_it_came_back_is_old_news() -> None:
    now, told = 100.0, Told()
    contact = Contact(told, lambda: now)
    contact.note_failure(GONE, asked=100.0)
    now = 107.0
    assert contact.away == 7.0
    contact.note_back()
    contact.note_failure(GONE, asked=106.0)
    assert told.said == ["away", "back after 7"]
    assert contact.away == 0.0
    contact.note_failure(GONE, asked=107.5)
    assert told.said[2:] == ["away"]


def test_without_credentials_it_is_away_and_whoever_says_no_is_there() -> None:
    told = Told()
    contact = Contact(told, lambda: 1.0)
    contact.note_failure(UnavailableError("busy", status=503), asked=1.0)
    assert not told.said
    contact.note_failure(UnauthorizedError("who", status=401), asked=1.0)
    contact.note_failure(UnavailableError("busy", status=503), asked=1.0)
    assert told.said == ["away"]
    contact.note_failure(ForbiddenError("no", call=Call("list", "pods")), asked=1.0)
    assert told.said == ["away", "back after 0"]
