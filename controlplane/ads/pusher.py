"""From snapshot to streams: which classes a change concerns, and which streams to wake.

Owns the streams, their classes and the order of work. Must not know gRPC, nor how a resource is
made. `publish` marks classes, `pump` brings one class after the other up to date, so that a
server can write in between; a class that is asked for earlier catches up at that moment. The
rule that is easy to break: whatever changes what a stream shall hold must end in `Stream.show`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

from controlplane.ads.cache import Collection, Collections, Sequences
from controlplane.ads.classes import ClassState, Pending, Stream
from controlplane.ads.delta import DeltaSession
from controlplane.ads.journal import Journal
from controlplane.ads.machine import Session, Shared
from controlplane.ads.mixtures import Mixtures
from controlplane.ads.name_sets import NameSets
from controlplane.ads.outstanding import Outstanding, outstanding_of
from controlplane.ads.progress import Progress, progress_of
from controlplane.ads.rejections import Rejections
from controlplane.ads.reporter import Reporter, Reporters
from controlplane.ads.session import SotwSession
from controlplane.ads.status import ServingStatus
from controlplane.ads.status_of import serving_status, undecided_findings
from controlplane.ads.types import (
    UNREAD_KINDS,
    Classify,
    Effect,
    KeepsClasses,
    ResourceGenerator,
    Send,
)
from controlplane.ads.views import ClassView
from controlplane.ads.virtual_hosts import Item
from controlplane.ads.wire import DeltaRequest, Request
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.diff import Change, moved_between
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host
from controlplane.model.proxy import Proxy
from controlplane.model.services import Resolution
from controlplane.model.snapshot import EMPTY, Snapshot
from controlplane.translate.resources import ResourceType
from controlplane.translate.scope import ProxyClass


def _may_move(_before: Snapshot, _after: Snapshot) -> bool:
    """Stand in where nobody knows whether proxies keep their classes."""
    return False


class Pusher:
    """Every live stream, and the snapshot they are served from. Not thread safe.

    `clock` is monotonic and `epoch` counts from 1970, both in seconds.
    """

    def __init__(
        self,
        generator: ResourceGenerator,
        classify: Classify,
        *,
        clock: Callable[[], float],
        epoch: Callable[[], float],
        reporter: Reporter | None = None,
        snapshot: Snapshot = EMPTY,
        keeps_classes: KeepsClasses = _may_move,
    ) -> None:
        self._generator: Final = generator
        self._classify: Final = classify
        self._keeps_classes: Final = keeps_classes
        self._clock: Final = clock
        self._epoch: Final = epoch
        self._snapshot = snapshot
        self._classes: dict[ProxyClass, ClassState] = {}
        self._stale: dict[ClassState, None] = {}
        self._streams: dict[str, Stream] = {}
        self._collections: Final = Collections()
        self._numbers: Iterator[int] = itertools.count(1)
        self.journal: Final = Journal(epoch)
        self._reporter: Final = Reporters(self.journal, *([reporter] if reporter else []))
        self._shared: Final = Shared(
            names=NameSets(),
            rejections=Rejections(),
            mixtures=Mixtures(),
            sequences=Sequences(),
            reporter=self._reporter,
        )
        self.defer: Callable[[], None] | None = None
        """When set, called by `publish` instead of `pump`; whoever set it calls `pump`."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._snapshot

    @property
    def rejections(self) -> Rejections:
        """What Envoys rejected."""
        return self._shared.rejections

    # --- streams --------------------------------------------------------------------------

    def connect(
        self, proxy: Proxy, *, delta: bool, peer: str = "", wake: Callable[[], None]
    ) -> Stream:
        """Add a stream. `wake` is called when `take` may have something new."""
        connection = f"{proxy.id}-{next(self._numbers)}"
        state = self._state(self._classify(proxy, self._snapshot))
        kind = DeltaSession if delta else SotwSession
        session = kind(
            self._shared,
            state.view,
            node=proxy.id,
            build=proxy.user_agent,
            connection=connection,
        )
        stream = Stream(
            session,
            state,
            proxy=proxy,
            connection=connection,
            peer=peer,
            delta=delta,
            connected_at=self._epoch(),
            wake=wake,
        )
        state.streams[stream] = None
        self._streams[connection] = stream
        self._reporter.connected(connection, proxy, delta=delta)
        return stream

    def disconnect(self, stream: Stream, *, reason: str = "") -> None:
        """Remove a stream; nothing waits for it any more."""
        if self._streams.pop(stream.connection, None) is None:
            return
        stream.state.leave(stream)
        stream.state.retire(self._clock())
        self._reporter.disconnected(stream.connection, reason=reason)

    def on_request(self, stream: Stream, request: Request | DeltaRequest) -> Effect:
        """Hand a request to the stream's session and return what is to be done."""
        session, now = stream.session, self._clock()
        effect = session.on_request(request, now)
        if session.returning.left_over:
            stream.keep(session.returning.left_over, now)
            session.returning.left_over = ()
        if session.recorded:
            self._look_for_acceptance(session)
        if session.freed:
            session.freed = False
            self._look_again()
        return effect

    def take(self, stream: Stream) -> Send | None:
        """Return the stream's next response, None when there is none at the moment."""
        now = self._clock()
        send = stream.session.take(now)
        retained = stream.retained or stream.state.retained
        if send is None and retained and self._settle(stream, now):
            send = stream.session.take(now)
        return send

    def idle(self, stream: Stream) -> bool:
        """Whether `take` would find nothing, now or at any time if nothing happens."""
        return stream.session.idle and not stream.retained and not stream.state.retained

    def deadline(self, stream: Stream) -> float | None:
        """Return when `take` has to be asked again even if nothing happens."""
        own = stream.session.next_deadline()
        if not stream.retained and not stream.state.retained:
            return own
        now = self._clock()
        times = [
            item.until
            for retained in (stream.retained, stream.state.retained)
            for item in retained.values()
            if item.until > now  # else it is still clung to, and an answer ends that
        ]
        if own is not None:
            times.append(own)
        return min(times, default=None)

    def _settle(self, stream: Stream, now: float) -> bool:
        """Retire what the stream was the last to use; return whether something changed."""
        changed, session, state = False, stream.session, stream.state
        if session.clinging:
            state.clinging.add(stream)
        else:
            state.clinging.discard(stream)
        if stream.retained:
            settled, clung = session.settled(), session.clings_to()
            kept = {
                name: item
                for name, item in stream.retained.items()
                if (item.until > now and not settled) or name in clung
            }
            if len(kept) != len(stream.retained):
                stream.retained = kept
                stream.show()
                changed = True
        return state.retire(now) or changed

    def _look_again(self) -> None:
        for other in self._streams.values():
            if other.session.on_rejections():
                other.wake()

    def _look_for_acceptance(self, session: Session) -> None:
        """A content that some Envoy of the build is using is not withheld from others.

        Whoever rejects everything thereby changes nothing for the rest.
        """
        recorded, session.recorded = session.recorded, []
        hosts = self.rejections.virtual_hosts
        for rejection in recorded:
            if not rejection.spared:
                continue
            kind = rejection.item.type
            for other in self._streams.values():
                watch = other.session.watches.get(kind)
                if (
                    watch is not None
                    and other.proxy.user_agent == rejection.build
                    and hosts.holds(watch.accepted, rejection.item)
                ):
                    rejection.accepted = True
                    break
            else:
                # Whoever could not be told anything because of it can be now.
                self._look_again()

    # --- snapshots ------------------------------------------------------------------------

    def publish(self, old: Snapshot, new: Snapshot, change: Change) -> None:
        """Make `new` the snapshot that streams are served from.

        Classes follow at once, or one by one when `defer` is set.
        """
        del old  # what the streams were told last may be older still
        now = self._clock()
        hosts = self._only_endpoints(new, change)
        reason = "full" if change.full else "config" if hosts is None else "endpoints"
        number = self.journal.open(change, reason=reason)
        pending = Pending(number, hosts, _unread(change) if hosts is None else frozenset())
        before, self._snapshot = self._snapshot, new
        for cls, state in tuple(self._classes.items()):
            if not state.streams:
                del self._classes[cls]
                self._stale.pop(state, None)
                continue
            state.pending = state.pending.then(pending) if state.pending else pending
            self._stale[state] = None
        self._reclassify(before, hosts, now)
        self._reporter.published(
            push=number, classes=len(self._classes), streams=len(self._streams), reason=reason
        )
        if self.defer is not None:
            self.defer()
        else:
            while self.pump():
                pass

    def pump(self) -> bool:
        """Bring one class up to date; return whether there are more."""
        if not self._stale:
            return False
        state = next(iter(self._stale))
        self._catch_up(state)
        return bool(self._stale)

    def _catch_up(self, state: ClassState) -> None:
        self._stale.pop(state, None)
        if not state.streams and state.pending is not None:
            # Everybody left meanwhile; start afresh when somebody comes.
            self._classes.pop(state.cls, None)
            return
        now = self._clock()
        old = state.catch_up(self._snapshot, now)
        if old is not None:
            self.journal.class_changed(old, state.view)
            old.forget_before(state.view)
            state.retire(now)

    def _state(self, cls: ProxyClass) -> ClassState:
        """Return the state of a class, up to date."""
        state = self._classes.get(cls)
        if state is not None and state.pending is not None:
            self._catch_up(state)
            state = self._classes.get(cls)
        if state is None:
            view = ClassView.first(self._generator, cls, self._snapshot, self._collections)
            state = self._classes[cls] = ClassState(cls, view)
        return state

    def _reclassify(self, before: Snapshot, hosts: frozenset[Host] | None, now: float) -> None:
        """Move streams whose proxy belongs to another class now.

        When only the endpoints of some hosts changed, a class can only depend on what is known
        of the proxy's own addresses.
        """
        new = self._snapshot
        moved = frozenset() if hosts is None else moved_between(before, new, hosts)
        same_pods = before.pods_by_ip is new.pods_by_ip
        if hosts is not None and not moved and same_pods:
            return
        if hosts is None and self._keeps_classes(before, new):
            return
        for stream in tuple(self._streams.values()):
            ips = stream.proxy.ips
            if (
                hosts is not None
                and moved.isdisjoint(ips)
                and (
                    same_pods
                    or all(before.pods_by_ip.get(ip) == new.pods_by_ip.get(ip) for ip in ips)
                )
            ):
                continue
            cls = self._classify(stream.proxy, new)
            if cls is not stream.state.cls and cls != stream.state.cls:
                stream.leave_for(self._state(cls), now)

    def _only_endpoints(self, snapshot: Snapshot, change: Change) -> frozenset[Host] | None:
        """Return the hosts when load assignments are all that can change, else None.

        The endpoints of headless and DNS services are also part of listeners and clusters.
        """
        if change.full or not change.only_endpoints:
            return None
        for host in change.endpoints:
            service = snapshot.service_by_host.get(host)
            if service is None or service.resolution is not Resolution.CLIENT_SIDE_LB:
                return None
        return change.endpoints

    # --- readers --------------------------------------------------------------------------

    def status(self) -> ServingStatus:
        """Return everything about serving at this moment."""
        offset = self._epoch() - self._clock()
        return serving_status(
            self._streams.values(),
            self.rejections,
            self.findings(),
            offset,
        )

    def progress(self, ref: ObjectRef) -> Progress:
        """Return how far the proxies are with the current version of an object."""
        return progress_of(
            ref,
            streams=self._streams.values(),
            entries=self.journal.entries(),
            rejections=self.rejections,
            names=self._shared.names,
            now=self._epoch(),
        )

    def outstanding(self) -> Outstanding:
        """Return which objects' current versions some proxies have not taken yet."""
        return outstanding_of(
            self._streams.values(),
            rejections=self.rejections,
            names=self._shared.names,
            now=self._epoch(),
        )

    def findings(self) -> tuple[Diagnostic, ...]:
        """Return what Envoys rejected of what is still wanted, by object."""
        return (
            *self.rejections.diagnostics(self._is_wanted),
            *undecided_findings(self._streams.values(), self.rejections),
        )

    def classes(self) -> tuple[ProxyClass, ...]:
        """Return the classes that have live streams."""
        return tuple(cls for cls, state in self._classes.items() if state.streams)

    def streams(self) -> tuple[Stream, ...]:
        """Return the live streams in the order in which they came."""
        return tuple(self._streams.values())

    def stream_count(self) -> int:
        """Return how many streams are live."""
        return len(self._streams)

    def _is_wanted(self, item: Item) -> bool:
        hosts = self.rejections.virtual_hosts
        for state in self._classes.values():
            if not state.streams:
                continue
            held: tuple[Collection, ...]
            match item.type:
                case ResourceType.CLUSTER:
                    held = (state.view.clusters,)
                case ResourceType.LISTENER:
                    held = (state.view.listeners,)
                case ResourceType.NAME_TABLE:
                    held = (state.view.table,)
                case _:
                    held = state.view.selections(item.type)
            if any(hosts.holds(collection, item) for collection in held):
                return True
        return False


def _unread(change: Change) -> frozenset[ResourceType]:
    """Return the types whose translation reads nothing of what changed."""
    if change.full or change.mesh or change.namespaces or change.services or not change.objects:
        return frozenset()
    kinds = {ref.kind for ref in change.objects}
    found = {kind for kind, ignored in UNREAD_KINDS.items() if kinds <= ignored}
    if change.endpoints:
        found -= {ResourceType.ENDPOINT, ResourceType.CLUSTER}
    return frozenset(found)
