"""Sets of subscribed names, shared by all streams that ask for the same.

Owns which sets are in use. Must not know resources nor streams. The rule that is easy to break: two
equal sets in use are one object, so that whatever was found out for a set holds for all its users.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final
from weakref import WeakValueDictionary

from controlplane.ads.types import WILDCARD, Names
from controlplane.model.names import Host, parse_cluster


class NameSet:
    """A set of subscribed names that every stream with the same names shares."""

    __slots__ = ("__weakref__", "_by_host", "_of_hosts", "_ordered", "names")

    def __init__(self, names: Names) -> None:
        self.names: Final = names
        self._by_host: dict[str, list[str]] | None = None
        self._of_hosts: tuple[frozenset[Host], tuple[str, ...]] = (frozenset(), ())
        self._ordered: tuple[str, ...] | None = None

    @property
    def ordered(self) -> tuple[str, ...]:
        """The names in their order, sorted once for all streams."""
        if self._ordered is None:
            self._ordered = tuple(sorted(self.names))
        return self._ordered

    def of_hosts(self, hosts: frozenset[Host]) -> tuple[str, ...]:
        """Return the names of clusters (`DIRECTION|PORT|SUBSET|HOST`) of these hosts.

        They are looked for once for all classes that a change concerns.
        """
        known, found = self._of_hosts
        if known is not hosts:
            found = self._find(hosts)
            self._of_hosts = (hosts, found)
        return found

    def _find(self, hosts: Iterable[Host]) -> tuple[str, ...]:
        if self._by_host is None:
            self._by_host = {}
            for name in self.names:
                parts = parse_cluster(name)
                if parts is not None:
                    self._by_host.setdefault(parts.host, []).append(name)
        index = self._by_host
        return tuple(name for host in hosts for name in index.get(host, ()))


class NameSets:
    """Makes equal sets of names the same object, for as long as a stream uses them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Names, NameSet] = WeakValueDictionary()
        self._lists: WeakValueDictionary[tuple[str, ...], NameSet] = WeakValueDictionary()

    def intern(self, names: Iterable[str]) -> NameSet:
        """Return the one set with these names."""
        key = frozenset(names)
        found = self._known.get(key)
        if found is None:
            # By way of a set, whose length is known: the table has the size that it needs.
            key = frozenset(set(map(sys.intern, key)))
            found = self._known[key] = NameSet(key)
        return found

    def of_list(self, names: tuple[str, ...]) -> NameSet:
        """Return the one set with the names of a list, without the wildcard."""
        found = self._lists.get(names)
        if found is None:
            found = self._lists[names] = self.intern(name for name in names if name != WILDCARD)
        return found
