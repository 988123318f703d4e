"""The leader's duties hear of what changes the truth about objects."""

from __future__ import annotations

from controlplane.ads.reporter import Reporters
from controlplane.ads.types import CDS
from controlplane.leader.duties import _Listener
from controlplane.model.proxy import make_proxy


def test_pushes_and_answers_are_heard_and_responses_are_not() -> None:
    heard: list[str] = []
    reporter = Reporters(_Listener(lambda: heard.append("changed")))
    proxy = make_proxy("sidecar~10.0.0.1~a.default~default.svc.cluster.local", {})
    reporter.connected("c", proxy, delta=True)
    reporter.acknowledged("c", CDS, version="1", seconds=0.1, push=1)
    reporter.rejected("c", CDS, message="no", suspects=(), culprits=(), push=1)
    reporter.published(push=1, classes=1, streams=1, reason="config")
    reporter.disconnected("c", reason="it left")
    assert len(heard) == 5
    reporter.stale("c", CDS)
    reporter.warming("c", ("a",))
    assert len(heard) == 5
