"""Route configurations of which some virtual hosts are as they were before.

Many services share a route configuration, and a virtual host that has to wait for a new cluster
is not to keep the others. Owns the comparison of two route configurations by virtual host, and
their mixture. Must not know streams, nor why something waits. The rule that is easy to break: in a
mixture no domain is in two virtual hosts, and none that has one before and after is without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, Final, NamedTuple

from controlplane.ads.types import Names
from controlplane.ads.virtual_hosts import joined, read
from controlplane.translate.resources import Joined, Part, Resource

_REMEMBERED: Final = 512  # comparisons, and as many mixtures


class Change(NamedTuple):
    """A virtual host that differs between two route configurations; `old` is None if it is new."""

    host: str
    domains: Names
    old: Part | None
    new: Part
    same_domains: bool  # whether it has those that it had


class Comparison(NamedTuple):
    """What differs between two route configurations."""

    changes: tuple[Change, ...]
    removed: tuple[Part, ...]
    mixable: bool
    """Whether virtual hosts can stay as they were while others go on. It cannot be said when a
    domain moves from one to another, or leaves one: a wildcard elsewhere may mean it too."""


class Mixtures:
    """Compares and mixes route configurations, and remembers the last ones."""

    def __init__(self) -> None:
        self._compared: Final[OrderedDict[Hashable, Comparison]] = OrderedDict()
        self._mixed: Final[OrderedDict[Hashable, Resource]] = OrderedDict()

    def compare(self, old: Resource, new: Resource) -> Comparison:
        """Return which virtual hosts of `new` are not the same in `old`, and which are gone."""
        key = (old.name, old.version, new.version)
        found = self._compared.get(key)
        if found is None:
            found = _remember(self._compared, key, _compare(old, new))
        return found

    def mix(
        self, old: Resource, new: Resource, instead: Mapping[str, Part | None], *, keep: bool
    ) -> Resource:
        """Return `new` with other virtual hosts, or without those where None.

        With `keep` those that are gone stay too. It is `old` itself when nothing differs.
        """
        if not instead:
            return new
        key = (
            *(keep, new.name, old.version, new.version),
            *((host, part and part.digest) for host, part in sorted(instead.items())),
        )
        found = self._mixed.get(key)
        if found is None:
            compared = self.compare(old, new)
            hosts = {change.new.digest: change.host for change in compared.changes}
            parts = [instead.get(hosts.get(part.digest, ""), part) for part in joined(new).parts]
            parts += compared.removed if keep else ()
            made = _mix(old, new, [part for part in parts if part is not None])
            found = _remember(self._mixed, key, made)
        return found


def _remember(known: OrderedDict[Hashable, Any], key: Hashable, made: Any) -> Any:
    known[key] = made
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
    return made


def _compare(old: Resource, new: Resource) -> Comparison:
    before, after = joined(old).parts, joined(new).parts
    known, wanted = {part.digest for part in before}, {part.digest for part in after}
    earlier = dict(_read(part) for part in before if part.digest not in wanted)
    changes: list[Change] = []
    mixable = True
    for part in after:
        if part.digest in known:
            continue
        host, (domains, _) = _read(part)
        held, older = earlier.pop(host, (domains, None))
        mixable = mixable and held <= domains
        changes.append(Change(host, domains, older, part, held == domains))
    left = frozenset().union(*(domains for domains, _ in earlier.values()))
    mixable = mixable and all(left.isdisjoint(change.domains) for change in changes)
    return Comparison(tuple(changes), tuple(part for _, part in earlier.values()), mixable)


def _mix(old: Resource, new: Resource, parts: list[Part]) -> Resource:
    before, after = joined(old), joined(new)
    if (
        before.head == after.head
        and before.tail == after.tail
        and {part.digest for part in parts} == {part.digest for part in before.parts}
    ):
        return old
    return Resource.of(new.type, new.name, Joined(after.head, parts, after.tail))


def _read(part: Part) -> tuple[str, tuple[Names, Part]]:
    """Return the name of a virtual host, its domains and itself."""
    host = read(part)
    return host.name, (frozenset(host.domains), part)
