"""The part of a session that both protocols share: what to send next.

No input and no output: requests and views come in, `take` hands out one response at a time in
push order. Nothing is queued: `take` compares what the client was told with what it shall hold
now, so whatever happened meanwhile, the newest state is what goes out. The rule that is easy to
break: every wait has an end (`next_deadline`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

from controlplane.ads import overlay
from controlplane.ads.adding import Adding, overdue
from controlplane.ads.cache import Assembled, Collection, Content, Sequences
from controlplane.ads.decisions import Decision
from controlplane.ads.holding import Holding
from controlplane.ads.mixtures import Mixtures
from controlplane.ads.name_sets import NameSets
from controlplane.ads.rejections import Rejection, Rejections
from controlplane.ads.reporter import Reporter
from controlplane.ads.returning import (
    Returning,
    give_another_chance,
    goes_on_with_what_it_brought,
    hold_what_it_brought,
    unasked,
)
from controlplane.ads.types import (
    ACKNOWLEDGE_LIMIT,
    CDS,
    EDS,
    LDS,
    RDS,
    TYPES,
    Effect,
    Names,
    Send,
    TypeInfo,
)
from controlplane.ads.views import ClassView
from controlplane.ads.virtual_hosts import Item
from controlplane.ads.watch import Sent, Watch
from controlplane.ads.wire import DeltaRequest, Request
from controlplane.translate.resources import ResourceType


class Shared(NamedTuple):
    """What all sessions of a server have in common."""

    names: NameSets
    rejections: Rejections
    mixtures: Mixtures
    sequences: Sequences
    reporter: Reporter


class Session:
    """One stream of one node. Subclasses know what its answers mean, how the protocol subscribes
    and frames."""

    def __init__(
        self, shared: Shared, view: ClassView, *, node: str, build: str, connection: str
    ) -> None:
        self._shared: Final = shared
        self._view = view
        self._node: Final = node
        self._build: Final = build
        self._connection: Final = connection
        self._adding: Final = Adding()
        self._holding: Final = Holding()
        self.returning: Final = Returning()
        self.watches: dict[ResourceType, Watch] = {}
        self._rejected = False  # whether it did, since `rejects` was last false
        # Whether no watch but `_stirred` has anything to do or waits for a time. Most streams are
        # told of one type after the other, and the rest of them need not be looked at.
        self._calm = False
        self._stirred: Watch | None = None
        self.freed = False  # whether an answer freed a resource that others were spared
        self.recorded: list[Rejection] = []  # rejections since somebody last looked

    @property
    def view(self) -> ClassView:
        """What the stream shall hold."""
        return self._view

    def on_view(self, view: ClassView, kinds: Iterable[ResourceType] | None = None) -> bool:
        """Take a newer view; return whether there is something to send.

        `kinds` are the types of which it may show anything else than the view before, None for
        all. Whatever else there is to send has been said when it came up.
        """
        self._view = view
        self._adding.keep_shown(view)
        changed = False
        for kind in self.watches if kinds is None else kinds:
            watch = self.watches.get(kind)
            if watch is None:
                continue
            if view.collection(kind, watch.selected) is not watch.based:
                watch.dirty = True
                watch.push = view.push
                give_another_chance(watch)
            if watch.dirty:
                changed = True
                self._calm = self._calm and (self._stirred is None or self._stirred is watch)
                self._stirred = watch
        return changed

    def on_rejections(self) -> bool:
        """Look again because a rejection was lifted or added; return whether to `take`."""
        self._calm = False
        for watch in self.watches.values():
            watch.dirty = True
        return bool(self.watches)

    def take(self, now: float) -> Send | None:
        """Return the next response, None when there is nothing to send at the moment."""
        stirred = self._stirred
        if self._calm and (stirred is None or stirred.info is not CDS):
            if stirred is None:
                return None
            send = self._next(stirred, now)
            self._calm, self._stirred = stirred.hold_until is None, None
            return send
        self._calm = False
        self._give_up_waiting(now)
        for info in TYPES:
            watch = self.watches.get(info.kind)
            if watch is None:
                continue
            if watch.hold_until is not None or watch.bisection is not None:
                self._wake(watch, now)
            if not watch.dirty or (info is CDS and self.returning.expects_more(self.watches, now)):
                continue
            send = self._next(watch, now)
            if send is not None:
                return send
        return None

    @property
    def idle(self) -> bool:
        """Whether `take` would find nothing and nothing waits for a time."""
        if self._calm:
            return self._stirred is None
        if self._adding:
            return False
        for watch in self.watches.values():
            if (
                watch.dirty
                or watch.hold_until is not None
                or watch.bisection is not None
                or (watch.unanswered and watch.info is CDS)
            ):
                return False
        self._calm, self._stirred = True, None
        return True

    @property
    def rejects(self) -> bool:
        """Whether something that the client was sent stands rejected."""
        if self._rejected:
            self._rejected = any(
                watch.bisection is not None or watch.error for watch in self.watches.values()
            )
        return self._rejected

    def next_deadline(self) -> float | None:
        """Return when `take` has to be asked again even if nothing happens."""
        times = self._adding.deadlines() + self.returning.deadlines(self.watches)
        for watch in self.watches.values():
            if watch.hold_until is not None:
                times.append(watch.hold_until)
            if watch.bisection is not None and watch.bisection.wakes_at is not None:
                times.append(watch.bisection.wakes_at)
        clusters = self.watches.get(CDS.kind)
        if clusters is not None and len(self.watches) > 1:
            times += [
                sent.time + ACKNOWLEDGE_LIMIT for sent in clusters.unanswered if not sent.overdue
            ]
        return min(times) if times else None

    def settled(self) -> bool:
        """Whether the client is known to use nothing but the view's listeners and routes."""
        listeners, routes = self.watches.get(LDS.kind), self.watches.get(RDS.kind)
        if listeners is None and self.returning.unknown:
            return False
        if listeners is not None and not listeners.settled():
            return False
        if self.returning.unknown and any(
            goes_on_with_what_it_brought(watch) for watch in (listeners, routes) if watch
        ):
            return False
        if routes is None:
            return not (self.returning.unknown and self._view.route_names)
        if not routes.settled():
            return False
        # A listener may be acknowledged and still wait for routes that it has not asked for.
        return listeners is None or self._view.route_names <= routes.names.names

    @property
    def clinging(self) -> bool:
        """Whether listeners or routes are shown as they were: newer ones are rejected or wait."""
        return any(
            watch is not None and (watch.withholds or watch.hold_until is not None)
            for watch in (self.watches.get(LDS.kind), self.watches.get(RDS.kind))
        )

    def clings_to(self) -> Names:
        """Return the clusters that such listeners and routes name."""
        found: set[str] = set()
        for kind in (LDS.kind, RDS.kind):
            watch = self.watches.get(kind)
            if watch is None or watch.sent is None:
                continue
            if not watch.withholds and watch.hold_until is None:
                continue
            for name in watch.sent.difference(watch.based).changed:
                found |= watch.sent.by_name[name].clusters
        return frozenset(found)

    def _holds(self, info: TypeInfo, now: float) -> None:
        """A client that holds listeners or routes serves somebody: clusters are being added."""
        if info is not LDS and info is not RDS:
            return
        self.returning.serving = True
        clusters = self.watches.get(CDS.kind)
        if clusters is not None and clusters.accepted is None:
            for sent in clusters.unanswered:
                known = {*sent.initial, *self.returning.unknown}
                self._adding.add((name for name in sent.content.names if name not in known), now)

    # --- what to send ---------------------------------------------------------------------

    def _give_up_waiting(self, now: float) -> None:
        """Stop waiting for clusters whose time is over, and name those that warm so long."""
        self._adding.give_up(now)
        if self._adding.fewer:
            self._adding.fewer = False
            for watch in self.watches.values():
                watch.dirty = watch.dirty or watch.hold_until is not None
        clusters = self.watches.get(CDS.kind)
        if clusters is None or not clusters.unanswered or len(self.watches) == 1:
            return  # it may not even have read what it was sent
        late = overdue(
            clusters, self.watches.get(EDS.kind), unknown=self.returning.unknown, now=now
        )
        if late:
            self._shared.reporter.warming(self._connection, late)

    def _wake(self, watch: Watch, now: float) -> None:
        held = watch.hold_until
        if held is not None and now >= held:
            watch.dirty = True
        bisection = watch.bisection
        if bisection is not None:
            wakes = bisection.wakes_at
            if wakes is not None and now >= wakes:
                bisection.advance(now)
                watch.dirty = True
            if bisection.done:
                watch.bisection = None
                watch.dirty = True

    def _next(self, watch: Watch, now: float) -> Send | None:
        watch.dirty = False
        watch.hold_until = None
        decision = self._decide(watch)
        if decision is None:
            return None
        wanted, content = decision.wanted, decision.content
        before = watch.sent
        watch.sent = wanted
        if content is None:
            self._say_nothing(watch, wanted)
            return None
        watch.owed = False
        made = self._assemble(content, after=watch.last_sequence)
        watch.last_sequence = made.sequence
        nonce, version, push = made.nonce, content.version, watch.push
        watch.waits_for_answer(
            Sent(
                nonce=nonce,
                version=version,
                content=content,
                state=wanted,
                time=now,
                push=push,
                initial=watch.initial,
                before=before,
            )
        )
        watch.nonce_sent, watch.version_sent, watch.time_sent = nonce, version, now
        info = watch.info
        if info is CDS:
            self._adding.follow(
                watch,
                content,
                self.watches.get(EDS.kind),
                before=before,
                fresh=before is None
                and not (watch.initial or watch.brought or self.returning.serving),
                unknown=self.returning.unknown,
                now=now,
            )
        if watch.initial:
            # Of what is kept back the client may hold an older one; it is not forgotten.
            watch.initial = {
                name: version
                for name, version in watch.initial.items()
                if name not in wanted.by_name and watch.shows(name)
            }
        watch.push = 0
        send = Send(
            info.url,
            info.short,
            nonce,
            version,
            made.payload,
            content.names,
            content.removed,
            push,
        )
        self._shared.reporter.sent(self._connection, send)
        return send

    def _decide(self, watch: Watch) -> Decision | None:
        """Return what the client is told next, None when that has to wait or was rejected.

        A stream on which nothing unusual happened is told what others of its class are that hold
        the same: the first of them decides for all.
        """
        told = watch.sent
        if (
            watch.is_special
            or self._adding
            or self._holding
            or self._shared.rejections.may_concern(watch.info.kind, self._node)
        ):
            told = None
        state = (watch.selected, CDS.kind in self.watches, type(self))
        if told is not None:
            known = self._view.decisions.of(told, state)
            if known is not None:
                watch.based = known.base
                watch.withholds = False
                return known
        wanted, absent = self._wanted(watch)
        if wanted is None or watch.based is None:
            return None
        content = self._content(watch, wanted)
        if content is not None and content.version == watch.refused and not watch.owed:
            return None  # rejected as it is, and nothing has changed
        watch.force &= absent
        decision = Decision(watch.based, wanted, content)
        if told is not None:
            self._view.decisions.remember(told, state, decision)
        return decision

    def _say_nothing(self, watch: Watch, wanted: Collection) -> None:
        """The client holds what it shall hold."""
        hold_what_it_brought(watch, wanted)
        watch.push = 0
        known = watch.accepted is not None or not wanted.by_name  # what the client holds
        if not known or watch.unanswered:
            return
        watch.refused = ""  # should it be wanted again, it is looked at again
        if watch.error and not watch.withholds:
            # What was rejected is not wanted any more, and the client never took it.
            watch.error = ""
            watch.nonce_acked = watch.nonce_sent
            watch.version_acked = watch.version_sent = wanted.version

    def _wanted(self, watch: Watch) -> tuple[Collection | None, Names]:
        """Return what the client shall be told it holds, and the names that are kept from it.

        None when the whole type has to wait. What is refused, suspected or held back shows its
        predecessor instead.
        """
        base = self._view.collection(watch.info.kind, watch.selected)
        watch.based = base
        wanted = overlay.withheld(
            watch, base, self._shared.rejections, node=self._node, build=self._build
        )
        watch.withholds = wanted is not base
        if watch.unknown_content and len(wanted) < len(base):
            if watch.info is not CDS:
                return None, frozenset()  # what is left out would be deleted
            wanted = self.returning.stand_for_left_out(wanted, base, self.watches)
        if watch.info is CDS and watch.brought:
            self.returning.shows_instead(wanted, base)
        if watch.bisection is not None and watch.bisection.done:
            watch.bisection = None  # no suspect is wanted any more
        if watch.info.complete and watch.info is not LDS:
            return wanted, frozenset()
        held = unasked(watch, wanted, self._view, self.watches, self.returning)
        if watch.info is not EDS:
            withheld = partial(self._is_withheld, watch) if watch.withholds else None
            held |= self._holding.hold_back(
                watch,
                wanted,
                self._view,
                self._adding,
                mixtures=self._shared.mixtures,
                withheld=withheld,
            )
        if watch.hold_until is not None and watch.sent is None and watch.info.complete:
            # What the client holds is not known, and a resource left out would be deleted.
            return None, frozenset()
        return wanted.overlay(held), frozenset(
            name for name, resource in held.items() if resource is None
        )

    def _is_withheld(self, watch: Watch, item: Item) -> bool:
        return overlay.is_withheld(
            watch, item, self._shared.rejections, node=self._node, build=self._build
        )

    # --- what differs between the protocols -----------------------------------------------

    def on_request(self, request: Request | DeltaRequest, now: float) -> Effect:
        """Take a request of the session's own protocol and return what is to be done."""
        raise NotImplementedError

    def _content(self, watch: Watch, wanted: Collection) -> Content | None:
        """Return what has to be sent so that the client holds `wanted`, None for nothing."""
        raise NotImplementedError

    def _assemble(self, content: Content, *, after: int) -> Assembled:
        """Return the response under a nonce that no response up to `after` had."""
        raise NotImplementedError
