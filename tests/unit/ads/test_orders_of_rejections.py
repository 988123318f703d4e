"""Rejections cross with changes, ends of streams and restarts: what is left behind of them.

Each test is one order of events, told to the engine by a model of an Envoy that rejects what is
marked as broken and says nothing useful about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from controlplane.ads.types import CDS, RDS
from controlplane.debug.views.serving import SyncState, sync_state
from controlplane.translate.envoy import RouteConfiguration
from tests.feature.world import World, cluster_name
from tests.property.envoy_model import Envoy
from tests.unit.ads.bed import WorldBed

HOSTS = ("a", "b", "c", "d")
WORLD = World(
    clusters=dict.fromkeys(HOSTS, 1),
    endpoints=dict.fromkeys(HOSTS, ("10.0.0.1",)),
    routes={"r1": HOSTS},
    listeners={"r1": 1},
)


class Bed(WorldBed):
    """A pusher and one Envoy that holds everything."""

    def __init__(self, *, delta: bool) -> None:
        super().__init__(WORLD)
        self.delta = delta
        self.envoy = self.another(1)

    def another(self, number: int) -> Envoy:
        """One more Envoy of the same class, that holds everything."""
        made = Envoy(
            self.pusher,
            f"sidecar~1.1.1.{number}~p{number}.x~x.svc.cluster.local",
            delta=self.delta,
            names_culprits=False,
            clock=lambda: self.now,
        )
        made.connect()
        talk(made)
        return made

    def rests(self, *envoys: Envoy) -> None:
        """Let time pass until nothing more happens."""
        for _ in range(200):
            for envoy in envoys or (self.envoy,):
                talk(envoy)
            deadlines = [
                deadline
                for envoy in envoys or (self.envoy,)
                if envoy.stream is not None
                and (deadline := self.pusher.deadline(envoy.stream)) is not None
            ]
            if not deadlines:
                return
            self.now = max(self.now, min(deadlines)) + 0.001
        raise AssertionError("something waits for ever")

    def states(self) -> set[SyncState]:
        """How far all clients are."""
        return {
            sync_state(watch)
            for connection in self.pusher.status().connections
            for watch in connection.watches.values()
        }


def talk(envoy: Envoy) -> None:
    """Hear and answer until there is nothing more to say."""
    while envoy.stream is not None and (envoy.receive() or envoy.answer()):
        pass


def clusters(envoy: Envoy) -> Mapping[str, bytes]:
    """What clusters an Envoy holds."""
    return envoy.held[CDS.url]


def hosts(envoy: Envoy) -> dict[str, bool]:
    """The virtual hosts that an Envoy holds, and which of them are broken."""
    message: Any = RouteConfiguration.FromString(envoy.held[RDS.url].get("r1", b""))
    return {host.name: host.routes[0].name == "broken" for host in message.virtual_hosts}


@pytest.fixture(params=[True, False], ids=["delta", "sotw"])
def bed(request: pytest.FixtureRequest) -> Bed:
    return Bed(delta=request.param)


def test_what_was_taken_back_before_the_culprit_was_found_can_come_again(bed: Bed) -> None:
    """The very same response as the one that was rejected: the innocent part of it arrives."""
    old, newer = dict(bed.world.clusters), {**bed.world.clusters, "a": 2, "b": 2}
    before = dict(clusters(bed.envoy))
    bed.becomes(clusters=newer, broken=frozenset({"b"}))
    talk(bed.envoy)
    bed.becomes(clusters=old, broken=frozenset())
    talk(bed.envoy)
    assert bed.states() == {SyncState.SYNCED}
    bed.becomes(clusters=newer, broken=frozenset({"b"}))
    bed.rests()
    assert clusters(bed.envoy)[cluster_name("a")] != before[cluster_name("a")]
    assert clusters(bed.envoy)[cluster_name("b")] == before[cluster_name("b")]
    assert {str(item.ref) for item in bed.pusher.findings()} == {"DestinationRule default/b"}
