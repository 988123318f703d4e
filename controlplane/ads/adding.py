"""Make before break, first half: clusters that a client is being sent and has not answered.

Envoy says nothing about CDS while a cluster warms, so nobody may wait for its answer except
routes and listeners that newly name an added cluster (`holding`). Owns which clusters are being
added to one client, and until when that is waited for. The rule that is easy to break: each
cluster has its own end, and a client that serves nobody yet waits for nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from controlplane.ads.cache import Collection, Content, same
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, Names
from controlplane.ads.views import ClassView
from controlplane.ads.watch import Sent, Watch


class Adding:
    """The clusters that one client was sent and has not answered yet, and until when each counts.

    Times are the clock's seconds.
    """

    __slots__ = ("_hidden", "_until", "fewer")

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._hidden: Names = frozenset()  # those of them that do not exist at the moment
        self.fewer = False  # whether something was waited for and is no longer

    def __bool__(self) -> bool:
        return bool(self._until)

    def deadlines(self) -> list[float]:
        """Return when the clusters stop counting."""
        return list(self._until.values())

    def add(self, names: Iterable[str], now: float) -> None:
        """Wait for these too, if that is not done already."""
        for name in names:
            self._until.setdefault(name, now + ACKNOWLEDGE_LIMIT)

    def keep_shown(self, view: ClassView) -> None:
        """Wait for nothing that the view does not show, until it does again.

        It may come back before the client is told that it went, and warms there meanwhile.
        """
        if not self._until and not self._hidden:
            return
        shown = view.clusters.by_name
        hidden = frozenset(name for name in self._until if name not in shown)
        self.fewer = self.fewer or not hidden <= self._hidden
        self._hidden = hidden

    def give_up(self, now: float) -> None:
        """Forget what was waited for long enough."""
        if self._until:
            self._keep({name: end for name, end in self._until.items() if end > now})

    def answered(self, watch: Watch, sent: Sent) -> None:
        """The client answered a response of clusters."""
        if not self._until:
            return
        if sent.nonce == watch.nonce_sent:
            self._keep({})
        else:
            named = frozenset(sent.content.names)
            self._keep({name: end for name, end in self._until.items() if name not in named})

    def took_endpoints(self, endpoints: Watch, view: ClassView) -> None:
        """New clusters that have their endpoints are ready.

        While a stand-in warms nothing is heard of clusters; endpoints are sent after their
        clusters, so their acknowledgement says as much.
        """
        if endpoints.accepted is None:
            return
        shown = view.clusters.by_name
        lacking = (
            shown[name].eds_name not in {"", *endpoints.accepted.by_name}
            for name in self._until
            if name in shown
        )
        if not any(lacking):
            self._keep({})

    def _keep(self, until: dict[str, float]) -> None:
        self.fewer = self.fewer or len(until) < len(self._until)
        self._until = until

    def end(self, clusters: Container[str], known: Names) -> float | None:
        """Return until when to wait for those of these clusters that are not known yet."""
        return max(
            (
                end
                for name, end in self._until.items()
                if name in clusters and name not in known and name not in self._hidden
            ),
            default=None,
        )

    def follow(
        self,
        watch: Watch,
        content: Content,
        endpoints: Watch | None,
        *,
        before: Collection | None,
        fresh: bool,
        unknown: Names,
        now: float,
    ) -> None:
        """Take note of clusters that go out; their endpoints follow them unasked.

        A cluster that changed warms until its endpoints come again, even unchanged ones. To a
        client that brings nothing along (`fresh`) nothing is being added: it serves nobody yet.
        `before` is what it held, `unknown` what it alone knows.
        """
        if watch.info is not CDS:
            raise AssertionError("only clusters have endpoints")
        if fresh and endpoints is None:
            return
        if before is not None and watch.accepted is before and not watch.doubted:
            # The usual case, worked out once for all streams that hold the same.
            news = content.news(before)
            if endpoints is not None:
                _force(endpoints, news.asked(endpoints.names), push=watch.push)
            added = [name for name in news.added if not fresh and name not in watch.initial]
            self._until.update(dict.fromkeys(added, now + ACKNOWLEDGE_LIMIT))
            return
        for resource in content.resources:
            known = before.get(resource.name) if before is not None else None
            held = same(known, resource) and watch.has_accepted(resource)
            if held and resource.name not in watch.doubted:
                continue  # one that was only sent may have been rejected with its response
            if endpoints is not None and resource.eds_name in endpoints.names.names:
                _force(endpoints, frozenset({resource.eds_name}), push=watch.push)
            # One that went in a response without an answer may be gone, and warms again.
            if known is not None or fresh or resource.name in unknown:
                continue
            if resource.name not in watch.initial:
                self._until[resource.name] = now + ACKNOWLEDGE_LIMIT


def overdue(clusters: Watch, endpoints: Watch | None, *, unknown: Names, now: float) -> list[str]:
    """Return the clusters whose answer has just become late, those without endpoints if any.

    Each response is looked at once. `unknown` are stand-ins, which warm on purpose.
    """
    late = [
        sent
        for sent in clusters.unanswered
        if not sent.overdue and sent.time + ACKNOWLEDGE_LIMIT <= now
    ]
    if not late:
        return []
    for sent in late:
        sent.overdue = True
    changed = {
        item.name: item.eds_name
        for sent in late
        for item in sent.content.resources
        if not clusters.has_accepted(item) and item.name not in unknown
    }
    lacking = endpoints.unconfirmed() if endpoints is not None else frozenset()
    return [name for name, eds_name in changed.items() if eds_name in lacking] or list(changed)


def _force(endpoints: Watch, names: Names, *, push: int) -> None:
    """Send these endpoints, changed or not."""
    if names:
        endpoints.force = endpoints.force | names if endpoints.force else names
        endpoints.dirty = True
        endpoints.push = push
