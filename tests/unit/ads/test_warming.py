"""The detector: which clusters are named when a client says nothing about them for too long."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.ads.classes import Stream
from controlplane.ads.reporter import Reporter
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, EDS, Send
from controlplane.ads.wire import DeltaRequest
from controlplane.model.proxy import make_proxy
from tests.feature.world import World, cluster_name
from tests.unit.ads.bed import WorldBed

A, B, C = map(cluster_name, "abc")


class Named(Reporter):
    """Remembers what was named."""

    def __init__(self) -> None:
        self.clusters: list[list[str]] = []

    def warming(self, connection: str, clusters: Sequence[str]) -> None:
        self.clusters.append(sorted(clusters))


class Bed(WorldBed):
    """A delta client that holds three clusters, and time that is given."""

    def __init__(self) -> None:
        self.named = Named()
        super().__init__(World(clusters={"a": 1, "b": 1, "c": 1}), reporter=self.named)
        proxy = make_proxy("sidecar~1.1.1.1~a.b~x", {}, user_agent="envoy")
        self.stream: Stream = self.pusher.connect(proxy, delta=True, wake=lambda: None)
        self.says(DeltaRequest(type_url=CDS.url))
        self.accepts(self.hears())
        self.says(DeltaRequest(type_url=EDS.url, subscribe=(A, B, C)))
        self.accepts(self.hears())

    def says(self, request: DeltaRequest) -> None:
        self.pusher.on_request(self.stream, request)

    def hears(self) -> Send:
        send = self.pusher.take(self.stream)
        assert send is not None
        return send

    def accepts(self, send: Send) -> None:
        self.says(DeltaRequest(type_url=send.type_url, nonce=send.nonce))

    def changes(self, **clusters: int) -> None:
        self.becomes(clusters={**self.world.clusters, **clusters})

    def waits(self) -> None:
        """Until there is something to look at."""
        deadline = self.pusher.deadline(self.stream)
        assert deadline is not None
        assert deadline <= self.now + ACKNOWLEDGE_LIMIT
        self.now = deadline
        assert self.pusher.take(self.stream) is None


def test_clusters_that_changed_are_named_once_when_they_warm_too_long() -> None:
    bed = Bed()
    bed.changes(a=2, b=2)
    bed.hears()
    bed.hears()
    bed.waits()
    assert bed.named.clusters == [[A, B]]
    assert bed.pusher.deadline(bed.stream) is None, "once is enough"


def test_of_clusters_that_changed_the_one_without_endpoints_is_named() -> None:
    bed = Bed()
    bed.changes(a=2)
    bed.hears()
    bed.accepts(bed.hears())
    bed.changes(b=2)
    bed.hears()
    bed.hears()
    bed.waits()
    assert bed.named.clusters == [[B]]


def test_nothing_is_named_when_the_answer_comes_in_time() -> None:
    bed = Bed()
    bed.changes(a=2)
    clusters = bed.hears()
    bed.accepts(bed.hears())
    bed.now += ACKNOWLEDGE_LIMIT - 0.1
    bed.accepts(clusters)
    bed.now += 1
    assert bed.pusher.take(bed.stream) is None
    assert bed.named.clusters == []
    assert bed.pusher.deadline(bed.stream) is None
