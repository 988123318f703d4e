"""Small types that several Istio kinds share: string matches, port selectors, selectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from controlplane.model.base import FrozenDict, Labels, Model

Port = Annotated[int, Meta(ge=1, le=65535)]
Uint32 = Annotated[int, Meta(ge=0, le=4294967295)]
Int32 = Annotated[int, Meta(ge=-2147483648, le=2147483647)]
Percentage = Annotated[float, Meta(ge=0, le=100)]
JsonObject = FrozenDict[str, Any]


class StringMatch(Model):
    """Exactly one of the three is set; none set means "present" where a map value allows it."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class PortSelector(Model):
    """A port chosen by number."""

    number: Port | None = None


class Percent(Model):
    """A percentage from 0 to 100, with fractions."""

    value: Percentage = 0.0


class WorkloadSelector(Model):
    """Labels that a workload must have; `labels` in networking, `matchLabels` elsewhere."""

    labels: Labels | None = None
    match_labels: Labels | None = None


def visible(export_to: tuple[str, ...], owner: str, viewer: str) -> bool:
    """Whether an object of namespace `owner` with these exportTo values is seen in `viewer`.

    `export_to` has the mesh default already filled in; `~` hides it from everybody.
    """
    return "*" in export_to or viewer in export_to or (owner == viewer and "." in export_to)


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there; an empty selector selects everything."""
    if not selector:
        return True
    return all(labels.get(key) == value for key, value in selector.items())
