"""The live streams of a class, and the retirement of what the class no longer uses.

Make before break, second half: a cluster that leaves stays beside the new ones until every live
stream of the class has acknowledged the listeners and routes that stopped using it, or a time
is over, and for as long as routes that are shown in the place of rejected ones use it. The rule
that is easy to break: each retained cluster has its own end, so that changes in a row cannot keep
it for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from controlplane.ads.machine import Session
from controlplane.ads.types import ACKNOWLEDGE_LIMIT
from controlplane.ads.views import ClassView, Retained
from controlplane.model.names import Host
from controlplane.model.proxy import Proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate.resources import Resource, ResourceType
from controlplane.translate.scope import ProxyClass


class Pending(msgspec.Struct, frozen=True):
    """What a class has not looked at yet. `hosts` is None when more than endpoints changed."""

    push: int
    hosts: frozenset[Host] | None
    unread: frozenset[ResourceType] = frozenset()

    def then(self, later: Pending) -> Pending:
        """Return both as one."""
        if self.hosts is not None and later.hosts is not None:
            return Pending(later.push, self.hosts | later.hosts)
        unread = self.unread & later.unread
        if self.hosts is None and later.hosts is None:
            return Pending(later.push, None, unread)
        # Endpoints changed in one, configuration in the other.
        config = self if self.hosts is None else later
        return Pending(later.push, None, config.unread - {ResourceType.ENDPOINT})


class Stream:
    """One stream of one proxy: its session, its class and how to wake its writer.

    `retained` are clusters of the class it left, shown to it alone.
    """

    __slots__ = (
        "connected_at",
        "connection",
        "delta",
        "peer",
        "proxy",
        "retained",
        "session",
        "state",
        "wake",
    )

    def __init__(
        self,
        session: Session,
        state: ClassState,
        *,
        proxy: Proxy,
        connection: str,
        peer: str,
        delta: bool,
        connected_at: float,
        wake: Callable[[], None],
    ) -> None:
        self.session: Final = session
        self.state = state
        self.proxy: Final = proxy
        self.connection: Final = connection
        self.peer: Final = peer
        self.delta: Final = delta
        self.connected_at: Final = connected_at
        self.wake: Final = wake
        self.retained: Mapping[str, Retained] = {}

    def show(self) -> None:
        """Give the session what it shall hold now, and wake its writer when that is news."""
        view = self.state.view
        if self.retained:
            view = self.state.base.retaining({**self.retained, **self.state.retained})
        if view is not self.session.view and self.session.on_view(view):
            self.wake()

    def follow(self, old: ClassView, new: ClassView, kinds: Iterable[ResourceType]) -> None:
        """Do the same after a step from one view of the class to the next.

        `kinds` are the types in which they may differ.
        """
        if self.retained or self.session.view is not old:
            self.show()
        elif self.session.on_view(new, kinds):
            self.wake()

    def keep(self, clusters: Iterable[Resource], now: float) -> None:
        """Keep clusters that only the client knows, until it has acknowledged its routes."""
        # In state of the world the routes may first have to wait for new clusters.
        until = now + ACKNOWLEDGE_LIMIT * (1 if self.delta else 2)
        kept = {item.name: Retained(item, None, until) for item in clusters}
        self.retained = {**kept, **self.retained}
        self.show()

    def leave_for(self, state: ClassState, now: float) -> None:
        """Go over to another class; what the old one used stays until it is out of use."""
        old = self.session.view
        self.state.leave(self)
        self.state = state
        state.streams[self] = None
        self.retained = leaving(old, state.base, now, settled=self.session.settled)
        self.show()


class ClassState:
    """One proxy class with live streams (or that had some until a moment ago)."""

    __slots__ = ("base", "clinging", "cls", "pending", "retained", "streams", "waiting")

    def __init__(self, cls: ProxyClass, base: ClassView) -> None:
        self.cls: Final = cls
        self.base = base
        self.pending: Pending | None = None
        self.streams: dict[Stream, None] = {}
        self.retained: Mapping[str, Retained] = {}
        self.waiting: set[Stream] = set()
        self.clinging: set[Stream] = set()  # those that show what came before something rejected

    @property
    def view(self) -> ClassView:
        """What the streams of the class are shown."""
        return self.base.retaining(self.retained) if self.retained else self.base

    def leave(self, stream: Stream) -> None:
        """A stream is gone; nobody waits for it."""
        self.streams.pop(stream, None)
        self.waiting.discard(stream)
        self.clinging.discard(stream)

    def catch_up(self, snapshot: Snapshot, now: float) -> ClassView | None:
        """Go on to the newest snapshot; return the view left behind when there was a change.

        When that fails the streams keep what they have, and the next change tries again.
        """
        pending = self.pending
        if pending is None:
            return None
        old = self.view
        if pending.hosts is None:
            self.base = self.base.after_config(snapshot, unread=pending.unread, push=pending.push)
        else:
            self.base = self.base.after_endpoints(snapshot, pending.hosts, push=pending.push)
        self.pending = None
        clung = self._clung_to()
        kept = {
            name: item
            for name, item in self.retained.items()
            if (item.until > now or name in clung) and name not in self.base.clusters.by_name
        }
        if self.streams:
            kept = {**leaving(old, self.base, now, settled=self._settled), **kept}
        self.retained = kept
        self.waiting = set(self.streams) if kept else set()
        view = self.view
        if old.retained or view.retained:
            for stream in tuple(self.streams):
                stream.show()
        else:
            for stream in tuple(self.streams):
                stream.follow(old, view, view.kinds)
        return old

    def retire(self, now: float) -> bool:
        """Let go of retained clusters that are out of use or out of time; return whether any."""
        if not self.retained:
            return False
        self.waiting = {stream for stream in self.waiting if not stream.session.settled()}
        clung = self._clung_to()
        kept = {
            name: item
            for name, item in self.retained.items()
            if (self.waiting and item.until > now) or name in clung
        }
        if len(kept) == len(self.retained):
            return False
        self.retained = kept
        for stream in tuple(self.streams):
            stream.show()
        return True

    def _settled(self) -> bool:
        return all(stream.session.settled() for stream in self.streams)

    def _clung_to(self) -> frozenset[str]:
        """Return the clusters that go on being used because something newer was rejected."""
        return frozenset().union(*(stream.session.clings_to() for stream in self.clinging))


def leaving(
    old: ClassView, new: ClassView, now: float, *, settled: Callable[[], bool]
) -> dict[str, Retained]:
    """Return the clusters that `new` has no more and that may still be in use.

    When every stream is settled, that is what `old` used; else a client may use what older
    views did. What `old` retained already keeps its end and its endpoints.
    """
    gone = new.clusters.difference(old.clusters).removed
    if not gone:
        return {}
    used = old.uses() if settled() else frozenset(gone)
    found: dict[str, Retained] = {}
    for name in gone:
        known = old.retained.get(name)
        if known is not None:
            if known.until > now:
                found[name] = known
        elif name in used:
            cluster = old.clusters.by_name[name]
            assignment = old.assignment(cluster.eds_name) if cluster.eds_name else None
            found[name] = Retained(cluster, assignment, now + ACKNOWLEDGE_LIMIT)
    return found
