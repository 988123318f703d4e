"""State of the world: the session of a StreamAggregatedResources stream.

A request carries the whole subscription of its type. The rule that is easy to break: a request
that answers an older response changes no subscription, and one that merely answers the newest
gets no response.
"""

from __future__ import annotations

from typing import Final

from controlplane.ads.answering import AnsweredSession
from controlplane.ads.cache import Assembled, Collection, Content
from controlplane.ads.types import (
    CDS,
    EDS,
    NOTHING,
    READY,
    TYPE_BY_URL,
    WILDCARD,
    Close,
    Effect,
    Names,
    Status,
    TypeInfo,
)
from controlplane.ads.watch import Sent, Watch
from controlplane.ads.wire import DeltaRequest, Request

MAX_NAMES: Final = 200_000  # in one request


class SotwSession(AnsweredSession):
    """One state-of-the-world stream."""

    def on_request(self, request: Request | DeltaRequest, now: float) -> Effect:
        """Take a request; source: the xDS protocol document, and Istio's ShouldRespond."""
        if not isinstance(request, Request):
            raise AssertionError("a session gets the requests of its own protocol")
        info = TYPE_BY_URL.get(request.type_url)
        if info is None:
            self._shared.reporter.unserved(self._connection, request.type_url)
            return NOTHING
        if len(request.names) > MAX_NAMES:
            return Close(Status.INVALID_ARGUMENT, f"{len(request.names)} resource names at once")
        calm, self._calm = self._calm, False
        watch = self.watches.get(info.kind)
        if watch is None:
            return self._subscribe(info, request, now)
        if request.nonce and watch.nonce_sent:
            if request.nonce != watch.nonce_sent:
                if request.error is None or not info.complete:
                    # Ignored as a request; that the older response was taken is still worth
                    # knowing when the newer one is rejected, and that a partial one was not,
                    # because the newer one need not bring all of it again.
                    self._answer(watch, request, now)
                if not info.complete and request.names != watch.repeated:
                    watch.missed |= watch.names.names.difference(request.names)
                self._shared.reporter.stale(self._connection, info)
                return NOTHING
            self._answer(watch, request, now)
        self._resubscribe(watch, request)
        self._calm = calm and not watch.dirty and request.error is None
        return READY

    def _subscribe(self, info: TypeInfo, request: Request, now: float) -> Effect:
        names = self._shared.names.of_list(request.names)
        wildcard = info.wildcard and (WILDCARD in request.names or not request.names)
        watch = Watch(info, names, wildcard=wildcard)
        watch.named = bool(request.names)
        watch.repeated = request.names
        self.watches[info.kind] = watch
        if not wildcard and not names.names:
            watch.owed = False
        elif info.complete and request.version:
            wanted, _ = self._wanted(watch)
            watch.brought = True
            if wanted is not None and wanted.version == request.version:
                # The client holds exactly what would be sent. Partial responses have no version
                # of the whole, so this is only true of complete types.
                watch.sent = watch.accepted = wanted
                watch.version_sent = watch.version_acked = request.version
                watch.owed = watch.dirty = False
        if request.version:
            if not info.complete:
                watch.came_with = names.names
            self._came_back(info, now)
        return READY

    def _came_back(self, info: TypeInfo, now: float) -> None:
        """Take note of what a client holds that comes back; it says so type by type.

        An Envoy asks for all types at once when its stream is open, clusters first.
        """
        self._holds(info, now)
        clusters, endpoints = self.watches.get(CDS.kind), self.watches.get(EDS.kind)
        if clusters is None or not clusters.wildcard or clusters.sent is not None:
            return
        if endpoints is not None:
            self.returning.keep_unknown(self._view.not_asked(endpoints.came_with))
        elif info is CDS:
            self.returning.expect_more(now)

    def _answer(self, watch: Watch, request: Request, now: float) -> None:
        if request.error is not None and watch.info.complete:
            # The version of a rejection names what is in use: maybe a response that was taken
            # without a word, because clusters were warming.
            for overtaken in watch.unanswered:
                if overtaken.version == request.version and overtaken.nonce != request.nonce:
                    watch.accepted = overtaken.state
        sent = watch.answered(request.nonce)
        if sent is None:
            return  # answered before: only the subscription is of interest
        if request.error is None:
            self._accept(watch, sent, now)
        elif request.version == sent.version:
            # The error is an older response's; this one is in use (Envoy 1.40 while warming).
            self._accept(watch, sent, now)
            watch.error = request.error.message
            self._rejected = True
        else:
            self._reject(watch, sent, request.error, now)

    def _resubscribe(self, watch: Watch, request: Request) -> None:
        info = watch.info
        missed, watch.missed = watch.missed, frozenset()
        if (
            request.nonce
            and request.names == watch.repeated
            and (not missed or missed.isdisjoint(request.names))
        ):
            watch.dirty = watch.dirty or not watch.told_all()
            return
        watch.repeated = request.names
        if watch.came_with:
            watch.came_with &= frozenset(request.names)
        asked = self._shared.names.of_list(request.names).names
        wildcard = info.wildcard and (
            WILDCARD in request.names or (not request.names and watch.wildcard and not watch.named)
        )
        watch.named = watch.named or bool(request.names)
        known = watch.names.names
        added = (asked - known) | (asked & missed)
        spontaneous = not request.nonce and bool(watch.nonce_sent)
        same = bool(request.nonce) and not added and asked == known and wildcard == watch.wildcard
        if asked != known or wildcard != watch.wildcard:
            names = self._shared.names.intern(asked)
            narrower = not wildcard and (watch.wildcard or bool(known - asked))
            watch.names, watch.wildcard = names, wildcard
            if narrower:
                watch.forget(names)
                watch.force &= names.names
        elif spontaneous and (wildcard or asked):
            # Asked again without an answer in between: the client wants it all again.
            watch.owed = True
            watch.force |= asked
        if added:
            watch.force |= added
            watch.owed = watch.owed or info.complete
        if not wildcard and not asked:
            watch.owed = False
            watch.force = frozenset()
        watch.dirty = watch.dirty or not same or not watch.told_all()

    def _content(self, watch: Watch, wanted: Collection) -> Content | None:
        difference = wanted.difference(watch.sent)
        if watch.info.complete:
            # One that rejected its first answer holds what it came with, which nobody knows.
            rejected = watch.brought and watch.accepted is None and watch.refused
            unknown = rejected and wanted.version != watch.version_sent
            if watch.owed or watch.force or difference.changed or difference.removed or unknown:
                return wanted.content()
            return None
        names = wanted.known_of(difference.changed, watch.force)
        return wanted.content(names) if names else None

    def _assemble(self, content: Content, *, after: int) -> Assembled:
        return content.sotw(self._shared.sequences, after=after)

    def _omission_deletes(self, watch: Watch) -> bool:
        return watch.info.complete and watch.brought

    def _taken_away(self, watch: Watch, sent: Sent) -> Names:
        if not watch.info.complete or watch.accepted is None:
            return frozenset()
        return frozenset(name for name in watch.accepted.by_name if sent.state.get(name) is None)
