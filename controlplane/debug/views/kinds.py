"""How a kind of a reference is written in output: its plain name, group and version."""

from __future__ import annotations

from typing import Final, NamedTuple

from controlplane.model.kinds import KINDS, Kind


class ShownKind(NamedTuple):
    """An API group (empty for core), the preferred version and the kind."""

    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        """`GROUP/VERSION`, or the version alone for core kinds."""
        return f"{self.group}/{self.version}" if self.group else self.version


def _first_of_each() -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for row in KINDS.values():
        # References spell a kind without its group only for the first group that has it.
        found.setdefault(row.kind, row)
    return found


_BY_KIND: Final = _first_of_each()


def shown_kind(kind: str) -> ShownKind:
    """Return how the kind of an ObjectRef (`Gateway`, `Gateway.GROUP`) is shown.

    A kind that is in no table is shown as core v1.
    """
    name, _, group = kind.partition(".")
    row = KINDS.get((group, name)) if group else _BY_KIND.get(name)
    return ShownKind(row.group, row.versions[0], name) if row else ShownKind(group, "v1", name)
