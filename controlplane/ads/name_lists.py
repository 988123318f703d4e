"""Long lists of resource names, recognised by their bytes instead of being read again.

A state-of-the-world client repeats its whole subscription with every answer: more than a
thousand names, of which not one is new. Owns the lists that streams sent last. Must not know
sessions. The rule that is easy to break: bytes are cut out at the borders of fields only, and
what is left has to be a request without any names.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final
from weakref import WeakValueDictionary, ref

from controlplane.translate.resources import length_delimited

LONG: Final = 32  # names; shorter lists are read each time
_TRIED: Final = 8  # lists of other streams that a request is compared with
_VERSION: Final = 0x0A  # keys of the fields of a DiscoveryRequest
_NODE: Final = 0x12
_NAMES: Final = b"\x1a"


class NameList:
    """A list of names and how a request carries it.

    `read` are requests with this list by their other bytes, as whoever reads them remembers them;
    `before` are the fields that came before it the last time.
    """

    __slots__ = ("__weakref__", "before", "encoded", "names", "read")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names: Final = names
        self.before = b""
        self.read: Final[dict[bytes, Any]] = {}
        self.encoded: Final = b"".join(length_delimited(3, name.encode()) for name in names)

    def cut_from(self, payload: bytes, start: int) -> bytes | None:
        """Return a request without the list, None when it does not begin at `start` and end so."""
        if not payload.startswith(self.encoded, start):
            return None
        end = start + len(self.encoded)
        if payload[end : end + 1] == _NAMES:
            return None
        return payload[:start] + payload[end:]


class NameLists:
    """Makes equal lists the same object, for as long as a stream uses them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, ...], NameList] = WeakValueDictionary()
        self._newest: deque[ref[NameList]] = deque(maxlen=_TRIED)

    def intern(self, names: tuple[str, ...]) -> NameList:
        """Return the one list with these names."""
        found = self._known.get(names)
        if found is None:
            names = tuple(map(sys.intern, names))
            found = self._known[names] = NameList(names)
            self._newest.append(ref(found))
        return found

    def newest(self) -> Iterator[NameList]:
        """Yield the lists that came last: a new stream will hardly have one of its own."""
        for reference in self._newest:
            found = reference()
            if found is not None:
                yield found


class RecentLists:
    """The lists that one stream sent last, one for each type."""

    __slots__ = ("_by_type", "_lists")

    def __init__(self, lists: NameLists) -> None:
        self._lists: Final = lists
        self._by_type: Final[dict[str, NameList]] = {}

    def cut(self, payload: bytes) -> tuple[NameList, bytes] | None:
        """Return the list of a request and its other fields, None when all has to be read."""
        for known in self._by_type.values():
            # Streams of a class say the same before their lists, so that it is parsed once.
            if payload.startswith(known.before):
                rest = known.cut_from(payload, len(known.before))
                if rest is not None:
                    return known, rest
        start = _start_of_names(payload)
        if not 0 <= start < len(payload):
            return None
        for known in chain(self._by_type.values(), self._lists.newest()):
            rest = known.cut_from(payload, start)
            if rest is not None:
                known.before = payload[:start]
                return known, rest
        return None

    def remember(self, type_url: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Keep the list that a request was read to carry; return the names to go on with."""
        known = self._by_type.get(type_url)
        if known is not None and known.names is names:
            return names
        if len(names) < LONG:
            self._by_type.pop(type_url, None)
            return names
        found = self._by_type[type_url] = self._lists.intern(names)
        return found.names


def _start_of_names(payload: bytes) -> int:
    """Return where the fields that come before the names end, -1 when that cannot be said."""
    at, size = 0, len(payload)
    while at < size and payload[at] in (_VERSION, _NODE):
        at += 1
        length = shift = 0
        while True:
            if at >= size or shift > 28:
                return -1
            byte = payload[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        at += length
    return at
