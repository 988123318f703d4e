"""Shared bytes: collections of resources, and the responses that are assembled from them.

A `Collection` is what a client shall hold of one type. Streams keep references to collections
instead of lists of names and versions, so that a thousand streams of a class cost a thousand
pointers. A `Content` is what one response carries; it is assembled once, whoever sends it. The
rule that is easy to break: a collection is never changed after it was made.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from controlplane.ads import wire
from controlplane.ads.name_sets import NameSet
from controlplane.ads.splices import Piece, Splice
from controlplane.ads.types import Names, Nonce, Version
from controlplane.translate.resources import Joined, Resource, ResourceType, content_hash

_MANY: Final = 32  # resources of a response that is worth being compared with another
_REMEMBERED: Final = 64  # responses, differences and overlays kept per collection


class Assembled(NamedTuple):
    """One response on the wire; `sequence` orders assemblies, so that a nonce is new once."""

    sequence: int
    nonce: Nonce
    payload: bytes
    body_at: int  # where the header ends


class News:
    """What is new about clusters: the endpoints to send after them, and the names of new ones."""

    __slots__ = ("_asked", "added", "eds_names")

    def __init__(self, *, eds_names: Names, added: tuple[str, ...]) -> None:
        self.eds_names: Final = eds_names
        self.added: Final = added
        self._asked: Final[WeakKeyDictionary[NameSet, Names]] = WeakKeyDictionary()

    def asked(self, names: NameSet) -> Names:
        """Return the endpoints to send to those who subscribe to these names."""
        found = self._asked.get(names)
        if found is None:
            found = self._asked[names] = self.eds_names & names.names
        return found


class Content:
    """What one response carries: resources and the names that go."""

    __slots__ = (
        "__weakref__", "_delta", "_former", "_news", "_sotw", "_splice", "kind", "names",
        "removed", "resources", "version",
    )  # fmt: skip

    def __init__(
        self,
        kind: ResourceType,
        resources: tuple[Resource, ...],
        removed: tuple[str, ...] = (),
        *,
        former: Content | None = None,
    ) -> None:
        """`former` carried the same names before; most of its bytes may be the same."""
        self.kind: Final = kind
        self.resources: Final = resources
        self.removed: Final = removed
        self.names: Final = tuple(resource.name for resource in resources)
        self.version: Final = content_version(resources, removed)
        self._news: WeakKeyDictionary[Collection, News] | None = None
        self._sotw: Assembled | None = None
        self._delta: Assembled | None = None
        self._former = former
        self._splice: Splice | None = None

    def news(self, before: Collection) -> News:
        """Return what this brings to a client that holds `before`."""
        if self._news is None:
            self._news = WeakKeyDictionary()
        found = self._news.get(before)
        if found is None:
            known = before.by_name  # which has nearly all of them
            others = [item for item in self.resources if known.get(item.name) is not item]
            changed = [item for item in others if not same(before.get(item.name), item)]
            found = self._news[before] = News(
                eds_names=frozenset(item.eds_name for item in changed),
                added=tuple(item.name for item in changed if before.get(item.name) is None),
            )
        return found

    def sotw(self, sequences: Sequences, *, after: int = -1) -> Assembled:
        """Return the state-of-the-world response under a nonce that comes after a sequence.

        Its body is assembled once. A stream that was sent this before needs another nonce, and
        so do the others of its class: they share the new header too.
        """
        if self._sotw is None or self._sotw.sequence <= after:
            self._sotw = self._assemble(
                self._sotw,
                next(sequences),
                lambda head: sequences.sotw(head, self),
            )
        return self._sotw

    def delta(self, sequences: Sequences, *, after: int = -1) -> Assembled:
        """Return the delta response under a nonce that comes after a sequence."""
        if self._delta is None or self._delta.sequence <= after:
            self._delta = self._assemble(
                self._delta,
                next(sequences),
                self._delta_response,
            )
        return self._delta

    def _delta_response(self, head: bytes) -> bytes:
        pieces = self.pieces()
        if pieces is None:
            return wire.delta_response(head, self.resources, self.removed)
        return wire.delta_response_of(head, self.resources[0], pieces)

    def forget_former(self) -> None:
        """Do without what was carried before."""
        self._former = None

    def pieces(self) -> Sequence[Piece] | None:
        """Return what the only resource is joined from, None when there are several or none.

        That is taken out of the former response, which nobody needs any more then.
        """
        former, self._former = self._former, None
        joined = self.resources[0].kept if len(self.resources) == 1 else None
        if not isinstance(joined, Joined) or self.removed:
            return None
        splice = None
        if former is not None and former._splice is not None:
            made = former._sotw or former._delta
            splice = former._splice.then(joined, made.payload) if made is not None else None
        splice = splice or Splice.of(joined)
        pieces, splice.pieces = splice.pieces, ()
        self._splice = splice
        return pieces

    def _assemble(
        self, known: Assembled | None, sequence: int, make: Callable[[bytes], bytes]
    ) -> Assembled:
        nonce = Nonce(f"{self.version}-{sequence}")
        head = wire.header(version=self.version, type_url=self.kind.url, nonce=nonce)
        payload = make(head) if known is None else head + memoryview(known.payload)[known.body_at :]
        return Assembled(sequence, nonce, payload, len(head))


class Sequences:
    """The numbers of assemblies, and what a response may have in common with the one before.

    Classes have the same clusters but for a few at the end, of which some thousand bytes are made
    out of three pieces each.
    """

    __slots__ = ("_ends", "_last", "_numbers")

    def __init__(self, first: int = 1) -> None:
        self._numbers: Final = itertools.count(first)
        self._last: Final[WeakValueDictionary[ResourceType, Content]] = WeakValueDictionary()
        self._ends: Final[dict[ResourceType, array[int]]] = {}

    def __next__(self) -> int:
        """Return a number that is higher than all before."""
        return next(self._numbers)

    def sotw(self, head: bytes, content: Content) -> bytes:
        """Return the state-of-the-world response of a content under a header."""
        pieces = content.pieces()
        if pieces is not None:
            return wire.sotw_response_of(head, content.resources[0], pieces)
        if len(content.resources) < _MANY:
            return wire.sotw_response(head, content.resources)
        known, like = self._last.get(content.kind), None
        if known is not None and known._sotw is not None:
            body = memoryview(known._sotw.payload)[known._sotw.body_at :]
            like = wire.Laid(known.resources, body, self._ends[content.kind])
        payload, self._ends[content.kind] = wire.similar_response(head, content.resources, like)
        self._last[content.kind] = content
        return payload


class Difference(NamedTuple):
    """What turns one collection into another."""

    changed: Names
    removed: tuple[str, ...]


NO_DIFFERENCE: Final = Difference(frozenset(), ())


class Collection:
    """Resources of one type by name: what a client shall hold. Immutable.

    Its version is a hash of its content alone, whatever the order.
    """

    __slots__ = (
        "__weakref__",
        "_by_version",
        "_contents",
        "_differences",
        "_former",
        "_known",
        "_overlays",
        "_restricted",
        "_version",
        "by_name",
        "kind",
    )

    def __init__(self, kind: ResourceType, by_name: Mapping[str, Resource]) -> None:
        self.kind: Final = kind
        self.by_name: Final = by_name
        self._version: Version | None = None
        self._by_version: dict[str, Resource] | None = None
        self._contents: dict[tuple[Names | None, tuple[str, ...]], Content] = {}
        self._former: dict[tuple[Names | None, tuple[str, ...]], Content] = {}
        self._differences: WeakKeyDictionary[Collection, Difference] = WeakKeyDictionary()
        self._known: dict[tuple[Names, Names], Names] = {}
        # Weak, so that they may stay when this is superseded: other classes get the same ones.
        self._overlays: WeakValueDictionary[tuple[object, ...], Collection] = WeakValueDictionary()
        self._restricted: WeakKeyDictionary[NameSet, Collection] = WeakKeyDictionary()

    @classmethod
    def of(cls, kind: ResourceType, resources: Iterable[Resource]) -> Collection:
        """Return a collection of resources in their order; the first of equal names wins."""
        by_name: dict[str, Resource] = {}
        for resource in resources:
            by_name.setdefault(resource.name, resource)
        return cls(kind, by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def get(self, name: str) -> Resource | None:
        """Return the resource with that name."""
        return self.by_name.get(name)

    @property
    def version(self) -> Version:
        """A hash of the content."""
        if self._version is None:
            self._version = content_version(self.by_name.values())
        return self._version

    def asks_eds(self, name: str) -> bool:
        """Whether an EDS cluster of that name is among these."""
        found = self.by_name.get(name)
        return found is not None and found.common.by_eds

    @property
    def by_version(self) -> Mapping[str, Resource]:
        """The resources by their hash."""
        if self._by_version is None:
            self._by_version = {resource.version: resource for resource in self.by_name.values()}
        return self._by_version

    def difference(self, old: Collection | None) -> Difference:
        """Return what a client that holds `old` lacks, and what it holds beside."""
        if old is self:
            return NO_DIFFERENCE
        if old is None:
            return Difference(frozenset(self.by_name), ())
        found = self._differences.get(old)
        if found is None:
            known = old.by_name
            # Nearly all are the very same, which needs no call.
            others = [
                name for name, resource in self.by_name.items() if known.get(name) is not resource
            ]
            changed = frozenset(
                name for name in others if not same(self.by_name[name], known.get(name))
            )
            gone = tuple(sorted(known.keys() - self.by_name.keys()))
            found = self._differences[old] = Difference(changed, gone)
        return found

    def known_of(self, changed: Names, others: Names) -> Names:
        """Return the names of `changed`, and those of `others` that are here; worked out once."""
        if not others or len(changed) == len(self.by_name):
            return changed
        key = (changed, others)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = others & self.by_name.keys()
            found = self._known[key] = changed if known <= changed else changed | known
        return found

    def content(self, names: Names | None = None, removed: tuple[str, ...] = ()) -> Content:
        """Return the response with these resources (all when None), made once."""
        if names is not None and len(names) == len(self.by_name):
            names = None
        key = (names, removed)
        found = self._contents.get(key)
        if found is None:
            if names is None:
                chosen = tuple(self.by_name.values())
            elif len(names) * 8 < len(self.by_name):
                chosen = tuple(self.by_name[name] for name in sorted(names))
            else:
                chosen = tuple(resource for name, resource in self.by_name.items() if name in names)
            found = Content(self.kind, chosen, removed, former=self._former.pop(key, None))
            if len(self._contents) >= _REMEMBERED:
                self._contents.clear()
            self._contents[key] = found
        return found

    def restrict(self, names: NameSet) -> Collection:
        """Return only the resources with these names."""
        found = self._restricted.get(names)
        if found is None:
            found = Collection(
                self.kind,
                {name: item for name, item in self.by_name.items() if name in names.names},
            )
            self._restricted[names] = found
        return found

    def overlay(self, instead: Mapping[str, Resource | None]) -> Collection:
        """Return the collection with some resources replaced, or left out where None."""
        if not instead:
            return self
        key = tuple(sorted((name, item.version if item else "") for name, item in instead.items()))
        found = self._overlays.get(key)
        if found is None:
            by_name = dict(self.by_name)
            for name, item in instead.items():
                if item is None:
                    by_name.pop(name, None)
                else:
                    by_name[name] = item
            found = Collection(self.kind, by_name)
            self._overlays[key] = found
        return found

    def replacing(self, resources: tuple[Resource, ...]) -> Collection:
        """Return the collection with these resources instead of those of their names.

        Classes that hold the same and are given the same get the same one, and what differs is
        known without comparing all names.
        """
        found = self._overlays.get(resources)  # a resource equals itself alone
        if found is None:
            news = [item for item in resources if not same(item, self.by_name.get(item.name))]
            if not news:
                return self  # not remembered: it may be asked again and again, and stays for long
            found = self.overlay({item.name: item for item in news})
            found._differences[self] = Difference(frozenset(item.name for item in news), ())
            self._overlays[resources] = found
        return found

    def superseded(self, successor: Collection | None = None) -> None:
        """Forget assembled responses: a newer collection took this one's place.

        A successor with the same names gets those of single resources, until it has its own.
        """
        if successor is not None:
            for key, content in self._contents.items():
                content.forget_former()
                if key not in successor._contents and len(content.resources) == 1:
                    successor._former.setdefault(key, content)
        self._former.clear()
        self._contents.clear()
        self._known.clear()


class Collections:
    """Makes collections of the very same resources one object, for as long as it is used.

    Most classes hold the same load assignments: what is worked out for one is there for all.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[ResourceType, tuple[Resource, ...]], Collection] = (
            WeakValueDictionary()
        )

    def of(self, kind: ResourceType, resources: Iterable[Resource]) -> Collection:
        """Return the one collection of these resources in their order."""
        key = (kind, tuple(resources))  # a resource equals itself alone
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Collection.of(kind, key[1])
        return found


def same(first: Resource | None, second: Resource | None) -> bool:
    """Whether two resources have the same content, or both are absent."""
    if first is second:
        return True
    return first is not None and second is not None and first.digest == second.digest


def content_version(resources: Iterable[Resource], removed: Iterable[str] = ()) -> Version:
    """Return a hash that depends on names, contents and removed names alone."""
    ordered = sorted(resources, key=_NAME)
    lines = [resource.name for resource in ordered]
    lines += [f"-{name}" for name in removed]
    digests = b"".join([resource.digest for resource in ordered])
    return Version(content_hash("\n".join(lines).encode() + digests))


_NAME: Final = attrgetter("name")
