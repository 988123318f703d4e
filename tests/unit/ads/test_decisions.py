"""What is decided once for all streams of a class that are in one state, and what is not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence

import pytest

from controlplane.ads.classes import Stream
from controlplane.ads.machine import Session
from controlplane.ads.types import CDS, EDS, Send
from controlplane.ads.wire import DeltaRequest, Failure, Request
from controlplane.model.diff import Change
from controlplane.model.names import Host
from controlplane.model.proxy import make_proxy
from tests.feature.world import World, cluster_name
from tests.unit.ads.bed import WorldBed

A, B = cluster_name("a"), cluster_name("b")


class Bed(WorldBed):
    """Streams of one class that hold two clusters and their endpoints."""

    def __init__(self, *, delta: bool, streams: int) -> None:
        super().__init__(World(clusters={"a": 1, "b": 1}))
        self.streams = [self._connect(number, delta=delta) for number in range(streams)]

    def _connect(self, number: int, *, delta: bool) -> Stream:
        proxy = make_proxy(f"sidecar~1.1.1.{number}~a.b~x", {}, user_agent="envoy")
        stream = self.pusher.connect(proxy, delta=delta, wake=lambda: None)
        for url, names in ((CDS.url, ()), (EDS.url, (A, B))):
            if delta:
                self.pusher.on_request(stream, DeltaRequest(type_url=url, subscribe=names))
            else:
                self.pusher.on_request(stream, Request(type_url=url, names=names))
            self.answers(stream, self.pusher.take(stream), names)
        assert self.pusher.take(stream) is None
        return stream

    def answers(
        self,
        stream: Stream,
        send: Send | None,
        names: Sequence[str] = (A, B),
        error: Failure | None = None,
    ) -> None:
        assert send is not None
        if stream.delta:
            answer = DeltaRequest(type_url=send.type_url, nonce=send.nonce, error=error)
            self.pusher.on_request(stream, answer)
        else:
            version = "" if error else send.version
            self.pusher.on_request(
                stream,
                Request(
                    type_url=send.type_url,
                    names=tuple(names),
                    version=version,
                    nonce=send.nonce,
                    error=error,
                ),
            )

    def endpoints_move(self, address: str) -> None:
        self.becomes(Change(endpoints=frozenset({Host("a")})), endpoints={"a": (address,)})


@pytest.fixture(name="looked")
def count_looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a stream had to find out by itself what it is told."""
    looks: list[Session] = []
    wanted = Session._wanted

    def counted(self: Session, watch: object) -> object:
        looks.append(self)
        return wanted(self, watch)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "_wanted", counted)
    return lambda: len(looks)


@pytest.mark.parametrize("delta", [False, True])
def test_one_stream_decides_for_all_that_hold_the_same(
    looked: Callable[[], int], *, delta: bool
) -> None:
    bed = Bed(delta=delta, streams=3)
    before = looked()
    bed.endpoints_move("10.0.0.9")
    sends = [bed.pusher.take(stream) for stream in bed.streams]
    assert looked() - before == 1
    assert all(send is not None and send.names == (A,) for send in sends)
    assert len({id(send.payload) for send in sends if send is not None}) == 1


@pytest.mark.parametrize("delta", [False, True])
def test_a_stream_that_rejected_something_decides_for_itself(
    looked: Callable[[], int], *, delta: bool
) -> None:
    bed = Bed(delta=delta, streams=2)
    healthy, other = bed.streams
    bed.endpoints_move("10.0.0.9")
    bed.answers(healthy, bed.pusher.take(healthy))
    bed.answers(other, bed.pusher.take(other), error=Failure(13, f"{A} is wrong"))
    while bed.pusher.take(other) is not None:
        pass
    before = looked()
    bed.endpoints_move("10.0.0.10")
    assert bed.pusher.take(healthy) is not None
    assert bed.pusher.take(other) is not None
    assert looked() - before == 2


@pytest.mark.parametrize("delta", [False, True])
def test_what_nobody_holds_any_more_is_not_kept_for_it(*, delta: bool) -> None:
    bed = Bed(delta=delta, streams=2)
    told = weakref.ref(bed.streams[0].session.watches[EDS.kind].sent)
    bed.endpoints_move("10.0.0.9")
    for stream in bed.streams:
        bed.answers(stream, bed.pusher.take(stream))
    gc.collect()
    assert told() is None


def test_an_acknowledgement_that_says_nothing_new_leaves_nothing_to_look_at() -> None:
    bed = Bed(delta=False, streams=1)
    (stream,) = bed.streams
    bed.endpoints_move("10.9.9.9")
    sent = bed.pusher.take(stream)
    assert sent is not None
    answer = Request(type_url=EDS.url, names=(A, B), version=sent.version, nonce=sent.nonce)
    bed.pusher.on_request(stream, answer)
    assert bed.pusher.idle(stream)
    fewer = Request(type_url=EDS.url, names=(A,), version=sent.version, nonce=sent.nonce)
    bed.pusher.on_request(stream, fewer)
    assert not bed.pusher.idle(stream)
