"""Columns: one fact of many things, kept together.

What the endpoints of a service have in common is kept once, their addresses as one text: an
object for each would cost ten times as much. Must not know what the facts are. The rule that is
easy to break: a column whose values are all equal holds one value, so columns are only read
through `spread`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final, TypeVar

Value = TypeVar("Value")

_KEPT: Final = 1024  # columns that later ones may turn out to be equal to
_BETWEEN: Final = "\0"  # what neither an address nor a name can hold


def column(values: Sequence[Value]) -> tuple[Value, ...]:
    """Return values of one type, or the only one; an equal column of before if there is one."""
    if values and values[0] == values[-1] and values.count(values[0]) == len(values):
        values = values[:1]
    found: tuple[Value, ...] = _shared(tuple(values))
    return found


def spread(values: tuple[Value, ...]) -> Iterable[Value]:
    """Return the values of a column; the only one without end."""
    return repeat(values[0]) if len(values) == 1 else values


@functools.lru_cache(maxsize=_KEPT, typed=True)
def _shared(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return values


def joined(texts: Iterable[str]) -> str:
    """Return texts as one; the first of them is not empty, or there is none at all."""
    return _BETWEEN.join(texts)


def split(text: str) -> list[str]:
    """Return the texts that were joined."""
    return text.split(_BETWEEN) if text else []


def beginning(text: str, start: str) -> Iterator[str]:
    """Yield those of the joined texts that begin with something, without a look at the others."""
    place = text.find(start) if text else -1
    while place >= 0:
        end = text.find(_BETWEEN, place)
        end = end if end >= 0 else len(text)
        if place == 0 or text[place - 1] == _BETWEEN:
            yield text[place:end]
        place = text.find(start, max(end, place + 1))


def length(text: str) -> int:
    """Return how many texts were joined."""
    return text.count(_BETWEEN) + 1 if text else 0
