"""Columns: one fact of many things, kept together.

What the endpoints of a service have in common is kept once, their addresses as one value: an
object for each would cost ten times as much. Must not know what the facts are. The rule that is
easy to break: a column whose values are all equal holds one value, so columns are only read
through `spread`.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from socket import inet_aton
from typing import Any, Final, TypeVar

Value = TypeVar("Value")

Joined = str | bytes
"""Texts as one; IPv4 addresses as four bytes each, a third of what their texts take."""

_KEPT: Final = 1024  # columns that later ones may turn out to be equal to
_BETWEEN: Final = "\0"  # what neither an address nor a name can hold
_IPV4: Final = 4  # bytes
_OCTETS: Final = tuple(map(str, range(256)))


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


def joined(texts: Iterable[str]) -> Joined:
    """Return texts as one; the first of them is not empty, or there is none at all."""
    found = list(texts)
    try:
        packed = b"".join(map(inet_aton, found))
    except (OSError, ValueError):
        return _BETWEEN.join(found)
    # Other spellings of an address, such as 10.1, would not come apart again.
    return packed if found and split(packed) == found else _BETWEEN.join(found)


def split(text: Joined) -> list[str]:
    """Return the texts that were joined."""
    if isinstance(text, bytes):
        octets = map(_OCTETS.__getitem__, text)
        return list(map(".".join, zip(octets, octets, octets, octets, strict=True)))
    return text.split(_BETWEEN) if text else []


def may_hold(text: Joined, address: str) -> bool:
    """Whether a text may be among those that were joined; when not, it surely is not."""
    if isinstance(text, str):
        return address in text
    try:
        return inet_aton(address) in text
    except (OSError, ValueError):
        return False


def differing(text: Joined, other: Joined) -> set[str]:
    """Return what only one of both joined."""
    if isinstance(text, bytes) and isinstance(other, bytes):
        # As numbers of four bytes, of which few differ.
        found = {*memoryview(text).cast("I")} ^ {*memoryview(other).cast("I")}
        return {*split(array("I", found).tobytes())}
    return {*split(text)} ^ {*split(other)}


def network_of(address: str) -> str:
    """Return what an IP address shares with its neighbours: all but its last number."""
    return address.rpartition(":" if ":" in address else ".")[0]


def networks(text: Joined) -> set[str]:
    """Return the networks of joined addresses."""
    if isinstance(text, bytes):
        starts = set(zip(text[::_IPV4], text[1::_IPV4], text[2::_IPV4], strict=True))
        return {".".join(map(_OCTETS.__getitem__, start)) for start in starts}
    return set(map(network_of, split(text)))


def has_network(text: Joined, network: str) -> bool:
    """Whether one of joined addresses is in a network."""
    if not isinstance(text, bytes):
        return any(network_of(address) == network for address in split(text))
    first = joined((f"{network}.0",))
    if not isinstance(first, bytes):
        return False  # no network of IPv4, or spelt as none of these addresses is
    start = first[: _IPV4 - 1]
    at = text.find(start)
    while at >= 0 and at % _IPV4:
        at = text.find(start, at + 1)
    return at >= 0


def length(text: Joined) -> int:
    """Return how many texts were joined."""
    if isinstance(text, bytes):
        return len(text) // _IPV4
    return text.count(_BETWEEN) + 1 if text else 0
