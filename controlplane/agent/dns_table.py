"""Which names the DNS proxy answers itself, and with what.

Owns the names that a mesh host goes by (short forms, search domains, wildcards) and the order in
which they are tried. Pure: a table is made from a name table and the pod's place, and never
changes.
Must not know sockets or the wire format.
Easy to break: a name that is known but has no address of the asked family is answered "no data",
never passed on, or a client would wait for the real DNS with every second query.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from controlplane.model.base import FrozenDict, Model

KUBERNETES: Final = "Kubernetes"


class NameEntry(Model):
    """What the control plane says of one host."""

    ips: tuple[str, ...] = ()
    registry: str = ""
    shortname: str = ""
    namespace: str = ""


class Place(Model):
    """Where the pod is: its namespace, the domain after it, and the search list of its resolver."""

    namespace: str = ""
    domain: str = "svc.cluster.local"
    search: tuple[str, ...] = ()


class Found(NamedTuple):
    """The answer for one name: addresses of both families as text.

    `canonical` is set when the asked name is a search list's expansion of another: the answer is
    then a CNAME to it, and its addresses.
    """

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    canonical: str = ""


class NameIndex:
    """The names of one name table, for look-up; immutable."""

    def __init__(self, table: Mapping[str, NameEntry], place: Place) -> None:
        self.place = place
        self._known: dict[str, Found] = {}
        entries = [(host.lower().removesuffix("."), entry) for host, entry in table.items()]
        for host, entry in entries:
            self._known[host] = _families(entry.ips)
        # A full name that somebody declared is never hidden by the short form of another.
        bare: set[str] = set()
        for host, entry in entries:
            for short in _short_forms(host, entry, place):
                if short not in self._known:
                    self._known[short] = self._known[host]
                    if "." not in short:
                        bare.add(short)
        # `reviews` in front of a search domain is a service of another namespace, or none at all.
        self._unexpanded = frozenset(bare)
        self._suffixes = tuple(
            f".{domain.lower().strip('.')}" for domain in place.search if domain.strip(".")
        )
        self._has_wildcards = any(name.startswith("*.") for name in self._known)

    def __len__(self) -> int:
        return len(self._known)

    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Every name with its addresses, for a person who looks for a mistake."""
        return FrozenDict(
            (name, (*found.ipv4, *found.ipv6)) for name, found in sorted(self._known.items())
        )

    def lookup(self, name: str) -> Found | None:
        """Return the answer for a lower-case name without final dot, None when it is not ours.

        An exact name first; then what a resolver makes of one by adding a domain of its search
        list; then wildcards, the longest first.
        """
        found = self._known.get(name)
        if found is not None:
            return found
        bases = [name.removesuffix(suffix) for suffix in self._suffixes if name.endswith(suffix)]
        for base in bases:
            found = self._known.get(base)
            if found is not None and base not in self._unexpanded:
                return found._replace(canonical=base)
        if not self._has_wildcards:
            return None
        for base in bases:
            found = self._wildcard(base)
            if found is not None:
                return found._replace(canonical=base)
        return self._wildcard(name)

    def _wildcard(self, name: str) -> Found | None:
        _, dot, rest = name.partition(".")
        while dot:
            found = self._known.get(f"*.{rest}")
            if found is not None:
                return found
            _, dot, rest = rest.partition(".")
        return None


def _short_forms(host: str, entry: NameEntry, place: Place) -> Iterable[str]:
    """The names by which pods call a Kubernetes host of their own cluster.

    Source: Istio's dns/client generateAltHosts.
    """
    if entry.registry != KUBERNETES or not entry.shortname or not place.domain:
        return
    if not host.endswith(f".{place.domain.lower()}"):
        return
    full = f"{entry.shortname}.{entry.namespace}".lower()
    if entry.namespace == place.namespace:
        yield entry.shortname.lower()
    yield full
    yield f"{full}.{place.domain.lower().partition('.')[0]}"


def _families(ips: Iterable[str]) -> Found:
    ipv4: list[str] = []
    ipv6: list[str] = []
    for text in dict.fromkeys(ips):
        try:
            version = ipaddress.ip_address(text).version
        except ValueError:
            continue
        (ipv4 if version == 4 else ipv6).append(text)
    return Found(tuple(ipv4), tuple(ipv6))


EMPTY_INDEX: Final = NameIndex({}, Place())
