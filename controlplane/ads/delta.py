"""Delta: the session of a DeltaAggregatedResources stream.

A request changes the subscription of its type, and may answer a response besides. The rule that
is easy to break: a stale or absent nonce discards the answer, never the change of subscription.
"""

from __future__ import annotations

from collections import deque

from controlplane.ads.answering import AnsweredSession
from controlplane.ads.cache import Assembled, Collection, Content, content_version
from controlplane.ads.machine import Shared
from controlplane.ads.session import MAX_NAMES
from controlplane.ads.types import (
    CDS,
    EDS,
    NOTHING,
    ON_DEMAND_URLS,
    READY,
    TYPE_BY_URL,
    WILDCARD,
    Close,
    Effect,
    Names,
    Nonce,
    Send,
    Status,
    TypeInfo,
)
from controlplane.ads.views import ClassView
from controlplane.ads.watch import Sent, Watch
from controlplane.ads.wire import DeltaRequest, Request, delta_response, header


class DeltaSession(AnsweredSession):
    """One delta stream."""

    def __init__(
        self, shared: Shared, view: ClassView, *, node: str, build: str, connection: str
    ) -> None:
        super().__init__(shared, view, node=node, build=build, connection=connection)
        # Names of on-demand types to say of that they do not exist; the newest few.
        self._absent: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=16)

    def on_request(self, request: Request | DeltaRequest, now: float) -> Effect:
        """Take a request; source: the xDS protocol document."""
        if not isinstance(request, DeltaRequest):
            raise AssertionError("a session gets the requests of its own protocol")
        info = TYPE_BY_URL.get(request.type_url)
        if info is None:
            self._shared.reporter.unserved(self._connection, request.type_url)
            return self._unserved(request)
        if len(request.subscribe) + len(request.unsubscribe) + len(request.initial) > MAX_NAMES:
            return Close(Status.INVALID_ARGUMENT, "too many resource names in one request")
        calm, self._calm = self._calm, False
        watch = self.watches.get(info.kind)
        if watch is None:
            self._subscribe(info, request, now)
            return READY
        if request.nonce:
            self._answer(watch, request, now)
        self._resubscribe(watch, request)
        self._calm = calm and not watch.dirty and request.error is None
        return READY

    def take(self, now: float) -> Send | None:
        """Return the next response, None when there is nothing to send at the moment."""
        if self._absent:
            type_url, names = self._absent.popleft()
            content = content_version((), names)
            nonce = Nonce(f"{content}-{next(self._shared.sequences)}")
            head = header(version=content, type_url=type_url, nonce=nonce)
            short = type_url.rpartition(".")[2]
            payload = delta_response(head, (), names)
            return Send(type_url, short, nonce, content, payload, (), names)
        return super().take(now)

    @property
    def idle(self) -> bool:
        """Whether `take` would find nothing and nothing waits for a time."""
        return not self._absent and super().idle

    def _unserved(self, request: DeltaRequest) -> Effect:
        names = tuple(sorted(set(request.subscribe) - {WILDCARD}))
        if not names or request.type_url not in ON_DEMAND_URLS:
            return NOTHING
        self._absent.append((request.type_url, names))
        return READY

    def _subscribe(self, info: TypeInfo, request: DeltaRequest, now: float) -> None:
        asked = {name for name in request.subscribe if name != WILDCARD}
        if not info.wildcard:
            asked |= request.initial.keys()
        asked.difference_update(request.unsubscribe)
        wildcard = (
            info.wildcard
            and (WILDCARD in request.subscribe or not request.subscribe)
            and WILDCARD not in request.unsubscribe
        )
        watch = Watch(info, self._shared.names.intern(asked), wildcard=wildcard)
        # Endpoints are always sent again: a cluster may have been warming when the last stream
        # broke, and then it waits for endpoints whose version the client knows already.
        watch.initial = {} if info is EDS else request.initial
        watch.owed = wildcard or bool(asked)
        self.watches[info.kind] = watch
        if not request.initial:
            return
        if not info.complete:
            watch.came_with = frozenset(request.initial).intersection(asked)
        self._holds(info, now)
        if info is CDS and wildcard:
            unknown = self.returning.keep_unknown(
                request.initial.keys() - self._view.clusters.by_name
            )
            # They need no sending: the client has them.
            watch.initial = {**request.initial, **unknown}

    def _answer(self, watch: Watch, request: DeltaRequest, now: float) -> None:
        sent = watch.answered(request.nonce)
        if sent is None:
            if request.nonce != watch.nonce_sent:
                self._shared.reporter.stale(self._connection, watch.info)
        elif request.error is None:
            self._accept(watch, sent, now)
        else:
            self._reject(watch, sent, request.error, now)

    def _resubscribe(self, watch: Watch, request: DeltaRequest) -> None:
        if not request.subscribe and not request.unsubscribe:
            return
        known = watch.names.names
        added = frozenset(name for name in request.subscribe if name != WILDCARD)
        dropped = frozenset(name for name in request.unsubscribe if name != WILDCARD)
        names = self._shared.names.intern((known | added) - dropped)
        was_wildcard = watch.wildcard
        if watch.info.wildcard:
            if WILDCARD in request.subscribe:
                watch.wildcard = True
            if WILDCARD in request.unsubscribe:
                watch.wildcard = False
        watch.names = names
        watch.came_with -= added | dropped
        # Asked again means sent again, even when the client ought to have it.
        watch.force |= added - dropped
        if watch.wildcard:
            # Unsubscribed by name but still meant by the wildcard: say what it is.
            watch.force |= dropped & known
        else:
            watch.force -= dropped
            if was_wildcard or dropped & known:
                watch.forget(names)
        watch.dirty = True

    def _content(self, watch: Watch, wanted: Collection) -> Content | None:
        difference = wanted.difference(watch.sent)
        names: Names = difference.changed
        removed: set[str] = set()
        if watch.initial:
            names = frozenset(
                name for name in names if watch.initial.get(name) != wanted.by_name[name].version
            )
        if watch.info.complete:
            # What exists and is merely kept back is not taken away: an older one may be in use.
            gone = {*difference.removed, *watch.initial, *watch.force}
            if watch.sent is None:
                gone |= watch.names.names
            removed.update(name for name in gone if not watch.shows(name))
        names = wanted.known_of(names, watch.force)
        if names or removed:
            return wanted.content(names, tuple(sorted(removed)))
        if watch.owed and not watch.initial and watch.info.complete:
            return wanted.content(frozenset())
        return None

    def _assemble(self, content: Content, *, after: int) -> Assembled:
        return content.delta(self._shared.sequences, after=after)

    def _omission_deletes(self, watch: Watch) -> bool:
        return False

    def _taken_away(self, watch: Watch, sent: Sent) -> Names:
        return frozenset(sent.content.removed)
