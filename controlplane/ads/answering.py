"""The part of a session that both protocols share: what the answer to a response means.

Owns what is taken for accepted, and the search for the guilty part of what was rejected. Must not
know what is sent next. The rule that is easy to break: a client that rejects a response holds what
it accepted before, but for what it may have applied of it.
"""

from __future__ import annotations

from controlplane.ads import overlay
from controlplane.ads.machine import Session
from controlplane.ads.rejections import Rejection, named_in
from controlplane.ads.returning import leave_out_what_it_lacks, look_for_culprit
from controlplane.ads.stand_in import is_stand_in
from controlplane.ads.types import CDS, EDS, RDS, Names
from controlplane.ads.virtual_hosts import Item
from controlplane.ads.watch import Sent, Watch
from controlplane.ads.wire import Failure
from controlplane.translate.resources import Resource


class AnsweredSession(Session):
    """A session that knows what answers mean; its subclasses, how a protocol says them."""

    def _accept(self, watch: Watch, sent: Sent, now: float) -> None:
        watch.nonce_acked, watch.version_acked, watch.time_acked = sent.nonce, sent.version, now
        watch.accepted = sent.held_by(watch.accepted)
        if not watch.unanswered:
            watch.doubted.clear()
        watch.error = watch.refused = ""
        watch.retried = watch.gave_up = False
        watch.unfound = ()
        if watch.info is CDS:
            self._adding.answered(watch, sent)
        if watch.info is EDS and self.returning.unknown:
            self._adding.took_endpoints(watch, self._view)
        bisection = watch.bisection
        rejections = self._shared.rejections
        if bisection and bisection.trial:
            hosts = rejections.virtual_hosts
            if all(hosts.holds(sent.state, item) for item in bisection.tried):
                bisection.passed()
                watch.dirty = True
        if rejections.accepted(sent.content.resources, build=self._build):
            self.freed = True
        self._shared.reporter.acknowledged(
            self._connection,
            watch.info,
            version=sent.version,
            seconds=now - sent.time,
            push=sent.push,
        )

    def _reject(self, watch: Watch, sent: Sent, failure: Failure, now: float) -> None:
        """Find who is guilty (rule 11); the client keeps what it accepted before."""
        self._rejected = True
        watch.error = watch.complaint = failure.message or f"code {failure.code}"
        watch.refused = sent.version
        watch.time_acked = now
        if watch.info is CDS:
            self._adding.answered(watch, sent)
        news = [item for item in sent.content.resources if not watch.has_accepted(item)]
        named = news if len(news) == 1 else list(named_in(failure.message, news))
        suspects = overlay.changes(watch, named or news, self._shared.rejections)
        # A name in the message convicts a resource; of a route configuration only a part is bad.
        culprits: list[Item] = []
        if len(suspects) == 1 or (named and watch.info is not RDS):
            culprits = list(suspects)
        unsure = overlay.without_answer_to_come(watch, suspects, self._shared.rejections)
        if culprits:
            watch.unfound = ()
            if watch.bisection is not None:
                watch.bisection.exonerate(item.version for item in culprits)
                if watch.bisection.trial:
                    watch.bisection.failed((), now)
        elif any(
            self._shared.rejections.refuses(item, self._node, self._build) for item in suspects
        ):
            pass  # it was on its way with a culprit that is found already: nobody else is suspected
        elif len(unsure) < len(suspects) and (watch.bisection is not None or not unsure):
            pass  # a newer response tries some of them
        elif suspects and watch.accepted is None and self._omission_deletes(watch):
            leave_out_what_it_lacks(watch, suspects, self.watches, now)
        elif suspects and watch.bisection is not None:
            found = watch.bisection.failed(suspects, now, failure.message)
            culprits = [found] if found is not None else []
        elif suspects:
            watch.bisection = look_for_culprit(watch, unsure, failure.message, now)
        rejections = [self._record(watch, item, failure) for item in culprits]
        self.recorded += rejections
        if news:
            watch.revert(sent, news, self._taken_away(watch, sent))
            watch.dirty = True
        self._shared.reporter.rejected(
            self._connection,
            watch.info,
            message=failure.message,
            suspects=[item.name for item in suspects],
            culprits=rejections,
            push=sent.push,
        )

    def _record(self, watch: Watch, item: Item, failure: Failure) -> Rejection:
        rejections = self._shared.rejections
        older = overlay.predecessor(watch, item, rejections)
        if watch.info is CDS and isinstance(older, Resource) and is_stand_in(older):
            older = None  # other clients do not have what it stands for
        return rejections.record(
            item,
            node=self._node,
            build=self._build,
            message=failure.message,
            predecessor=older,
        )

    # --- what differs between the protocols -----------------------------------------------

    def _omission_deletes(self, watch: Watch) -> bool:
        """Whether leaving out a resource may delete one that the client brought along."""
        raise NotImplementedError

    def _taken_away(self, watch: Watch, sent: Sent) -> Names:
        """Return the names that a response took away."""
        raise NotImplementedError
