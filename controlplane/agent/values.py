"""Values of flags and variables: numbers, durations, truth, paths.

Owns how a text becomes a value. Must not know which setting it belongs to.
Easy to break: a wrong text is refused with the name under which the user wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from controlplane.errors import UsageError
from controlplane.model.base import Duration

TRUE: Final = frozenset({"1", "t", "true"})


def number(text: str, name: str, *, default: int, most: int = 65535) -> int:
    """Return the number that a text says, `default` for an empty one; raises UsageError."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise UsageError(f"{name}: {text!r} is not a number from 0 to {most}")
    return int(text)


def duration(text: str, name: str, *, default: int) -> Duration:
    """Return the duration that a text says, `default` nanoseconds for none; raises UsageError."""
    if not text:
        return Duration(default)
    try:
        found = Duration.parse(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if found < 0:
        raise UsageError(f"{name}: {text!r} is negative")
    return found


def truth(text: str) -> bool:
    """Whether a text means yes, as Go reads truth values."""
    return text.lower() in TRUE


def optional_path(text: str) -> Path | None:
    """The path of a text, None for an empty one."""
    return Path(text) if text else None
