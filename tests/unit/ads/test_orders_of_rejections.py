"""Rejections cross with changes, ends of streams and restarts: what is left behind of them.

Each test is one order of events, told to the engine by a model of an Envoy that rejects what is
marked as broken and says nothing useful about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from controlplane.ads.progress import ProxyState
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, EDS, RDS
from controlplane.debug.views.serving import SyncState, sync_state
from controlplane.model.diff import Change
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host
from controlplane.translate.envoy import RouteConfiguration
from tests.feature.world import World, cluster_name
from tests.property.envoy_model import Envoy
from tests.unit.ads.bed import WorldBed

HOSTS = ("alpha", "bravo", "charlie", "delta")
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

    def restarts(self) -> None:
        """The control plane forgets everything, and the Envoy comes back with what it holds."""
        self.envoy.cut_off()
        self.begins_anew()
        self.envoy.pusher = self.pusher
        self.envoy.connect()

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


def hosts(envoy: Envoy, route: str = "r1") -> dict[str, bool]:
    """The virtual hosts that an Envoy holds, and which of them are broken."""
    message: Any = RouteConfiguration.FromString(envoy.held[RDS.url].get(route, b""))
    return {host.name: host.routes[0].name == "broken" for host in message.virtual_hosts}


def blamed(bed: Bed) -> set[str]:
    """The objects with a finding."""
    return {str(item.ref) for item in bed.pusher.findings()}


@pytest.fixture(params=[True, False], ids=["delta", "sotw"])
def bed(request: pytest.FixtureRequest) -> Bed:
    return Bed(delta=request.param)


def test_what_was_taken_back_before_the_culprit_was_found_can_come_again(bed: Bed) -> None:
    """The very same response as the one that was rejected: the innocent part of it arrives."""
    old, newer = dict(bed.world.clusters), {**bed.world.clusters, "alpha": 2, "bravo": 2}
    before = dict(clusters(bed.envoy))
    bed.becomes(clusters=newer, broken=frozenset({"bravo"}))
    talk(bed.envoy)
    bed.becomes(clusters=old, broken=frozenset())
    talk(bed.envoy)
    assert bed.states() == {SyncState.SYNCED}
    bed.becomes(clusters=newer, broken=frozenset({"bravo"}))
    bed.rests()
    assert clusters(bed.envoy)[cluster_name("alpha")] != before[cluster_name("alpha")]
    assert clusters(bed.envoy)[cluster_name("bravo")] == before[cluster_name("bravo")]
    assert blamed(bed) == {"DestinationRule default/bravo"}


def test_nobody_looks_for_a_culprit_that_is_not_wanted_any_more(bed: Bed) -> None:
    """Else the client would count as one that rejects, and retirement would wait for it."""
    newer = {**bed.world.clusters, "alpha": 2, "bravo": 2}
    bed.becomes(clusters=newer, broken=frozenset({"bravo"}))
    talk(bed.envoy)
    assert bed.envoy.stream is not None
    assert bed.envoy.stream.session.rejects
    bed.becomes(clusters=dict.fromkeys(HOSTS, 1), broken=frozenset())
    talk(bed.envoy)
    assert not bed.envoy.stream.session.rejects
    assert bed.pusher.idle(bed.envoy.stream)


@pytest.mark.parametrize("complaint", ["missing ): (", "regex 'charlie' is too large"])
def test_a_client_that_comes_back_loses_nothing_but_what_it_rejects(
    bed: Bed, complaint: str
) -> None:
    """What it holds is not known after a restart, so nothing of it is left out to try the rest."""
    bed.envoy.complaint = complaint
    bed.becomes(broken=frozenset({"r1/charlie"}))
    bed.rests()
    assert hosts(bed.envoy) == dict.fromkeys(HOSTS, False)
    bed.restarts()
    before = bed.envoy.rejected
    bed.rests()
    assert not bed.envoy.lost
    assert hosts(bed.envoy) == dict.fromkeys({*HOSTS} - {"charlie"}, False)
    assert blamed(bed) == {"VirtualService default/charlie"}
    assert bed.envoy.rejected - before == (4 if complaint.startswith("missing") else 2)
    bed.becomes(broken=frozenset())
    bed.rests()
    assert hosts(bed.envoy) == dict.fromkeys(HOSTS, False)
    assert bed.states() == {SyncState.SYNCED}
    assert not blamed(bed)


def test_a_client_that_comes_back_keeps_all_of_it_when_several_culprits_are_not_found(
    bed: Bed,
) -> None:
    """Whoever may be guilty is told so."""
    bed.becomes(broken=frozenset({"r1/bravo", "r1/charlie"}))
    bed.restarts()
    bed.rests()
    assert hosts(bed.envoy) == dict.fromkeys(HOSTS, False), "as before"
    assert SyncState.REJECTED in bed.states()
    assert blamed(bed) == {f"VirtualService default/{host}" for host in HOSTS}
    (finding, *_) = bed.pusher.findings()
    assert finding.code == "RejectedByEnvoy"
    assert "one or several of 4 are rejected" in finding.message
    assert finding.message.endswith(": missing ): (")
    (told,) = (
        watch.rejections
        for connection in bed.pusher.status().connections
        for watch in connection.watches.values()
        if watch.rejections
    )
    assert len(told) == 4
    for host in HOSTS:
        (proxy,) = bed.pusher.progress(ObjectRef("VirtualService", "default", host)).proxies
        assert proxy.state is ProxyState.REJECTED
    bed.becomes(broken=frozenset({"r1/bravo"}))
    bed.rests()
    assert not bed.envoy.lost
    assert hosts(bed.envoy) == dict.fromkeys({*HOSTS} - {"bravo"}, False)
    assert blamed(bed) == {"VirtualService default/bravo"}
    bed.becomes(broken=frozenset())
    bed.rests()
    assert hosts(bed.envoy) == dict.fromkeys(HOSTS, False)
    assert bed.states() == {SyncState.SYNCED}
    assert not blamed(bed)


def test_culprits_in_one_route_configuration_keep_no_other_one_back(bed: Bed) -> None:
    """Of a client that comes back with both: one hides two culprits, then each hides one."""
    bed.becomes(listeners={"r1": 1, "r2": 1}, routes={"r1": HOSTS, "r2": ("alpha", "bravo")})
    bed.rests()
    both = frozenset({"r1/bravo", "r1/charlie"})
    bed.becomes(routes={"r1": HOSTS, "r2": ("alpha", "bravo", "charlie")}, broken=both)
    bed.restarts()
    bed.rests()
    assert hosts(bed.envoy) == dict.fromkeys(HOSTS, False)
    assert hosts(bed.envoy, "r2") == dict.fromkeys(("alpha", "bravo", "charlie"), False)
    bed.becomes(broken=frozenset({"r1/bravo", "r2/charlie"}))
    bed.restarts()
    bed.rests()
    assert not bed.envoy.lost
    assert hosts(bed.envoy) == dict.fromkeys(("alpha", "charlie", "delta"), False)
    assert hosts(bed.envoy, "r2") == dict.fromkeys(("alpha", "bravo"), False)
    assert blamed(bed) == {"VirtualService default/bravo", "VirtualService default/charlie"}


def test_each_culprit_that_the_messages_tell_is_left_out(bed: Bed) -> None:
    bed.becomes(broken=frozenset({"r1/bravo", "r1/charlie"}))
    bed.envoy.complaint = "regex 'bravo' is too large, and so is 'charlie'"
    bed.restarts()
    bed.rests()
    assert not bed.envoy.lost
    assert hosts(bed.envoy) == {"alpha": False, "delta": False}
    assert blamed(bed) == {"VirtualService default/bravo", "VirtualService default/charlie"}


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("spared", [True, False])
def test_a_client_that_comes_back_keeps_its_older_one_of_a_rejected_cluster(
    bed: Bed, names: bool, spared: bool
) -> None:
    """Whoever rejects it then, itself or two others: nobody here knows what it has."""
    envoys = [bed.envoy, *(bed.another(number) for number in (2, 3))]
    bed.becomes(clusters={**bed.world.clusters, "charlie": 2}, broken=frozenset({"charlie"}))
    bed.rests(*envoys)
    for envoy in envoys:
        envoy.names_culprits = names
        envoy.cut_off()
    bed.begins_anew()
    for envoy in envoys if spared else envoys[:1]:
        envoy.pusher = bed.pusher
        envoy.connect()
        bed.rests(*(one for one in envoys if one.stream is not None))
    last = envoys[2] if spared else bed.envoy
    bed.becomes(clusters={**bed.world.clusters, "alpha": 3})
    bed.rests(*(one for one in envoys if one.stream is not None))
    assert set(clusters(last)) == set(map(cluster_name, HOSTS))
    assert not last.cut_short
    assert SyncState.REJECTED in bed.states()
    bed.becomes(broken=frozenset())
    bed.rests(*(one for one in envoys if one.stream is not None))
    assert not last.warming
    assert bed.states() == {SyncState.SYNCED}
    assert not blamed(bed)


def test_a_client_that_comes_back_gets_the_predecessor_that_another_one_still_had(bed: Bed) -> None:
    """The first to reject it did not tell what it had; the second is known to have the older."""
    second = bed.another(2)
    older = clusters(second)[cluster_name("charlie")]
    for envoy in (bed.envoy, second):
        envoy.names_culprits = True
    bed.envoy.cut_off()
    bed.becomes(clusters={**bed.world.clusters, "charlie": 2}, broken=frozenset({"charlie"}))
    bed.envoy.connect()
    bed.rests()
    bed.rests(bed.envoy, second)
    bed.becomes(Change(endpoints=frozenset({Host("charlie")})), endpoints={})
    bed.rests(bed.envoy, second)
    assert clusters(bed.envoy)[cluster_name("charlie")] == older
    assert not bed.envoy.warming
    for envoy in (bed.envoy, second):
        assert b"10.0.0.1" not in envoy.held[EDS.url][cluster_name("charlie")]


def test_who_was_on_its_way_with_a_known_culprit_is_not_suspected(bed: Bed) -> None:
    """Both are new, and one has a new cluster to wait for: two responses hold the culprit."""
    bed.becomes(routes={"r1": ("alpha",)}, clusters={"alpha": 1})
    bed.rests()
    bed.becomes(
        routes={"r1": ("alpha", "bravo", "charlie=alpha")},
        clusters={"alpha": 1, "bravo": 1},
        broken=frozenset({"r1/charlie=alpha"}),
    )
    assert bed.envoy.receive(), "clusters"
    while bed.envoy.receive():
        pass
    bed.now += ACKNOWLEDGE_LIMIT
    while bed.envoy.receive():
        pass  # the second one, before anything was answered
    talk(bed.envoy)
    assert hosts(bed.envoy) == {"alpha": False, "bravo": False}, "at once"
    bed.rests()
    assert not bed.envoy.lost
    (finding,) = bed.pusher.findings()
    assert "virtual_hosts[charlie]" in finding.message


def test_what_stands_in_for_something_refused_can_be_the_culprit(bed: Bed) -> None:
    """Two others still have it; a third one comes back, and rejects what they have as well."""
    third = bed.another(3)
    third.cut_off()
    third.picky = True
    envoys = [bed.envoy, bed.another(2)]
    bed.becomes(disliked=frozenset({"r1/charlie"}))
    bed.rests(*envoys)
    bed.becomes(broken=frozenset({"r1/charlie"}), disliked=frozenset())
    bed.rests(*envoys)
    third.connect()
    bed.rests(*envoys, third)
    assert not third.lost
    assert hosts(third) == dict.fromkeys({*HOSTS} - {"charlie"}, False)
    assert blamed(bed) == {"VirtualService default/charlie"}
