"""What is wrong with an object, as a value: never only a log line, never an exception."""

from __future__ import annotations

import enum

import msgspec

from controlplane.model.meta import ObjectRef


class Level(enum.StrEnum):
    """How bad it is, in istioctl's words."""

    ERROR = "Error"
    WARNING = "Warning"
    INFO = "Info"


class Diagnostic(msgspec.Struct, frozen=True, cache_hash=True, kw_only=True):
    """One finding about one object (or about a file that holds no readable object).

    `code` is Istio's IST code where it has one, else a word of ours in CamelCase.
    `field` is a path such as `spec.http[0].route[1].destination.host`.
    """

    level: Level
    code: str
    message: str
    ref: ObjectRef | None = None
    field: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """`FILE:LINE Kind ns/name path.to[0].field: message`, leaving out what is unknown."""
        place = f"{self.file}:{self.line}" if self.file else ""
        parts = [part for part in (place, str(self.ref or ""), self.field) if part]
        return f"{' '.join(parts)}: {self.message}" if parts else self.message


def order(diagnostic: Diagnostic) -> tuple[str, int, str, str, str, str]:
    """Sort key that never depends on the order of arrival."""
    return (
        diagnostic.file,
        diagnostic.line,
        str(diagnostic.ref or ""),
        diagnostic.field,
        diagnostic.code,
        diagnostic.message,
    )
