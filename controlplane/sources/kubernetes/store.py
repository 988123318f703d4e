"""The objects of one kind as the API server has them, and what of that was not passed on yet.

The rule that is easy to break: what was passed on is compared with what is there now, however
many events lay between. So one batch of events is one change, and no event is passed on that
changes nothing that anybody reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from controlplane.model.diagnostics import Diagnostic, order
from controlplane.model.meta import ObjectRef, Record
from controlplane.sources.kubernetes.decode import Data, Decode, Entry, Identity, Key

ADD: Final = "add"
UPDATE: Final = "update"
UPDATE_SAME: Final = "updatesame"
DELETE: Final = "delete"


class Changes(NamedTuple):
    """What is new since the last time. `events` counts what the server told, by istiod's words."""

    upserts: tuple[Record, ...] = ()
    removals: tuple[ObjectRef, ...] = ()
    diagnostics: bool = False
    events: Mapping[str, int] = {}


class Store:
    """All objects of one kind, also those that are left out."""

    def __init__(self, decode: Decode) -> None:
        self._decode: Final = decode
        self._entries: dict[Key, Entry] = {}
        self._before: dict[Key, Entry | None] = {}  # what was passed on, of what changed since
        self._findings: dict[Key, tuple[Diagnostic, ...]] = {}
        self._events: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> Mapping[Key, Entry]:
        """What the API server has."""
        return self._entries

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything that is wrong with these objects, in a fixed order."""
        return tuple(
            sorted((entry for group in self._findings.values() for entry in group), key=order)
        )

    def entry(self, data: Data, identity: Identity) -> Entry:
        """Return the entry of an object; the known one when this is the very same version."""
        known = self._entries.get(identity.key)
        if known is not None:
            if known.identity == identity and identity.resource_version:
                return known
            made = self._decode(data, identity)
            if made.item is not None and made.item == known.item:
                return made._replace(item=known.item)  # the same object saves its memory
            return made
        return self._decode(data, identity)

    def put(self, data: Data, identity: Identity) -> None:
        """Take the news that an object is there, new or changed."""
        self._set(identity.key, self.entry(data, identity))

    def remove(self, key: Key) -> None:
        """Take the news that an object is gone."""
        self._set(key, None)

    def replace(self, entries: dict[Key, Entry]) -> int:
        """Make this all there is; returns for how many objects that differs from before."""
        changed = 0
        for key in self._entries.keys() - entries.keys():
            changed += self._set(key, None)
        for key, entry in entries.items():
            changed += self._set(key, entry)
        return changed

    def _set(self, key: Key, entry: Entry | None) -> bool:
        known = self._entries.get(key)
        if entry is known:
            return False
        self._before.setdefault(key, known)
        if entry is None:
            del self._entries[key]
            self._events[DELETE] += 1
            return True
        self._entries[key] = entry
        if known is None:
            self._events[ADD] += 1
            return True
        same = not _differs(known, entry)
        self._events[UPDATE_SAME if same else UPDATE] += 1
        return not same

    def take(self) -> Changes:
        """Return what is new since the last time, and forget that it was."""
        upserts: list[Record] = []
        removals: list[ObjectRef] = []
        diagnostics = False
        for key, before in self._before.items():
            now = self._entries.get(key)
            said = () if now is None else now.diagnostics
            if said != self._findings.get(key, ()):
                diagnostics = True
                if said:
                    self._findings[key] = said
                else:
                    del self._findings[key]
            old = None if before is None else before.item
            if now is None or now.item is None:
                if old is not None:
                    removals.append(old.ref)
            elif before is None or _differs(before, now):
                upserts.append(Record.of(now.item, now.origin))
        events, self._events = self._events, Counter()
        self._before = {}
        return Changes(tuple(upserts), tuple(removals), diagnostics, events)


def _differs(old: Entry, new: Entry) -> bool:
    """Whether there is anything to pass on; a resourceVersion alone is nothing.

    A generation is, because whoever writes a status says which one it saw.
    """
    if old.item != new.item or old.diagnostics != new.diagnostics:
        return True
    a, b = old.identity, new.identity
    return (a.uid, a.generation) != (b.uid, b.generation)
