"""Routes wait for new clusters, each for its own and five seconds at most, however many come."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.ads.classes import Stream
from controlplane.ads.mixtures import Mixtures
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, EDS, LDS, RDS, Send
from controlplane.ads.virtual_hosts import joined
from controlplane.ads.wire import DeltaRequest, Request
from controlplane.model.proxy import make_proxy
from controlplane.translate.envoy import RouteConfiguration, VirtualHost
from controlplane.translate.resources import Resource, ResourceType, serialise
from tests.feature.world import ROUTES_ONLY, World, cluster_name
from tests.unit.ads.bed import WorldBed

OLD = ("old-0", "old-1")


class Bed(WorldBed):
    """A client that holds two services, acknowledges all but clusters, and time that is given."""

    def __init__(self, *, delta: bool) -> None:
        super().__init__(
            World(clusters=dict.fromkeys(OLD, 1), routes={"80": OLD}, listeners={"80": 1})
        )
        self.delta = delta
        proxy = make_proxy("sidecar~1.1.1.1~a.b~x", {}, user_agent="envoy")
        self.stream: Stream = self.pusher.connect(proxy, delta=delta, wake=lambda: None)
        self.told: dict[str, Any] = {}  # virtual hosts of the one route configuration
        self.unanswered: list[Send] = []
        for info, names in ((CDS, ()), (EDS, tuple(map(cluster_name, OLD))), (LDS, ())):
            self.asks(info.url, names)
            self.hears()
        self.asks(RDS.url, ("80",))
        self.hears()
        self.acknowledges()
        assert set(self.told) == set(OLD)

    def asks(self, url: str, names: tuple[str, ...]) -> None:
        self.pusher.on_request(
            self.stream,
            DeltaRequest(type_url=url, subscribe=names)
            if self.delta
            else Request(type_url=url, names=names),
        )

    def hears(self) -> list[str]:
        """Take all that comes and return its types; clusters are not acknowledged."""
        heard: list[str] = []
        while (send := self.pusher.take(self.stream)) is not None:
            heard.append(send.short)
            self.unanswered.append(send)
            if send.short == "RDS":
                watch = self.stream.session.watches[RDS.kind]
                assert watch.sent is not None
                message: Any = RouteConfiguration.FromString(watch.sent.by_name["80"].body)
                self.told = {
                    host.name: host.routes[0].route.cluster for host in message.virtual_hosts
                }
        return heard

    def acknowledges_all_but_clusters(self) -> None:
        """Answer what does not warm."""
        self.unanswered = [send for send in self.unanswered if send.short != "CDS"]
        self.acknowledges()

    def acknowledges(self) -> None:
        """Answer everything so far."""
        sent, self.unanswered = self.unanswered, []
        for send in sent:
            names = self.stream.session.watches[ResourceType(send.type_url)].names.ordered
            self.pusher.on_request(
                self.stream,
                DeltaRequest(type_url=send.type_url, nonce=send.nonce)
                if self.delta
                else Request(
                    type_url=send.type_url, names=names, version=send.version, nonce=send.nonce
                ),
            )

    def adds(self, host: str) -> None:
        """A new service with its own virtual host."""
        self.becomes(
            clusters={**self.world.clusters, host: 1},
            routes={"80": (*self.world.routes["80"], host)},
        )


@pytest.fixture(params=[True, False], ids=["delta", "sotw"])
def bed(request: pytest.FixtureRequest) -> Bed:
    return Bed(delta=request.param)


def test_additions_for_ever_hold_back_nothing_for_ever(bed: Bed) -> None:
    """A service every second, and a client that says nothing about clusters meanwhile."""
    added: dict[str, float] = {}
    seen: dict[str, float] = {}
    for number in range(30):
        host = f"new-{number}"
        bed.adds(host)
        added[host] = bed.now
        for _ in range(10):
            bed.hears()
            for name in bed.told.keys() - seen.keys() - set(OLD):
                seen[name] = bed.now
            deadline = bed.pusher.deadline(bed.stream)
            assert deadline is not None
            assert bed.now <= deadline <= bed.now + ACKNOWLEDGE_LIMIT
            bed.now += 0.1
    waited = {host: at - added[host] for host, at in seen.items()}
    assert len(waited) == 25, "all but those of the last five seconds"
    assert all(
        ACKNOWLEDGE_LIMIT - 0.01 <= time <= ACKNOWLEDGE_LIMIT + 0.2 for time in waited.values()
    ), waited


def test_additions_that_are_acknowledged_are_routed_to_at_once(bed: Bed) -> None:
    bed.adds("first")
    bed.hears()
    first, bed.unanswered = bed.unanswered, []
    bed.now += 1
    bed.adds("second")
    assert "RDS" not in bed.hears()
    later, bed.unanswered = bed.unanswered, first
    bed.acknowledges()
    assert bed.hears() == ["RDS"]
    assert set(bed.told) == {*OLD, "first"}
    bed.unanswered = later
    bed.acknowledges()
    assert bed.hears() == ["RDS"]
    assert set(bed.told) == {*OLD, "first", "second"}


def test_what_names_only_known_clusters_does_not_wait(bed: Bed) -> None:
    bed.becomes(clusters={**bed.world.clusters, "spare": 1})
    bed.hears()
    bed.acknowledges()
    bed.adds("new")
    assert "RDS" not in bed.hears()
    bed.becomes(ROUTES_ONLY, routes={"80": (*OLD, "new", "spare")})
    assert bed.hears() == ["RDS"]
    assert set(bed.told) == {*OLD, "spare"}
    bed.acknowledges()
    assert bed.hears() == ["RDS"]
    assert set(bed.told) == {*OLD, "new", "spare"}


def test_what_goes_stays_while_something_new_waits_in_its_place(bed: Bed) -> None:
    """A wildcard that is new may mean the domains of what is gone."""
    bed.becomes(
        clusters={**bed.world.clusters, "new": 1},
        routes={"80": ("old-0", "new")},
    )
    assert "RDS" not in bed.hears()
    bed.acknowledges()
    assert bed.hears() == ["RDS"]
    assert set(bed.told) == {"old-0", "new"}


def test_a_route_is_not_overtaken_by_newer_ones(bed: Bed) -> None:
    """It goes to another new service every second, and the one before is gone."""
    bed.becomes(routes={"80": (*OLD, "front=old-0")})
    bed.hears()
    bed.acknowledges()
    for number in range(12):
        host = f"new-{number}"
        bed.becomes(
            clusters={**dict.fromkeys(OLD, 1), host: 1},
            routes={"80": (*OLD, f"front={host}")},
        )
        bed.hears()
        bed.now += 1
        bed.hears()
        assert bed.told["old-1"] == cluster_name("old-1")
        # What is shown is what was wanted five seconds ago.
        expected = "old-0" if number < 4 else f"new-{number - 4}"
        assert bed.told["front"] == cluster_name(expected)
        shown = bed.stream.session.watches[CDS.kind].sent
        assert shown is not None
        assert shown.get(bed.told["front"]) is not None, "what is routed to stays"


def test_a_listener_is_not_overtaken_by_newer_ones(bed: Bed) -> None:
    """It names another new cluster every second; the first that it named is used after five."""
    for number in range(12):
        host = f"tcp-{number}"
        bed.becomes(
            clusters={**bed.world.clusters, host: 1},
            listeners={"80": 1, "tcp": number},
            tcp={"tcp": (host,)},
        )
        bed.hears()
        bed.now += 1
        bed.hears()
        watch = bed.stream.session.watches[LDS.kind]
        assert watch.sent is not None
        shown = watch.sent.get("tcp")
        if number < 4:
            assert shown is None
        else:
            assert shown is not None
            # What is shown is what was wanted five seconds ago.
            assert shown.clusters == {cluster_name(f"tcp-{number - 4}")}


def test_what_waits_is_overtaken_by_a_newer_one_that_has_not_to_wait(bed: Bed) -> None:
    """The new cluster is never acknowledged, and the user goes back to one that is known."""
    bed.becomes(
        clusters={**bed.world.clusters, "new": 1},
        routes={"80": (*OLD, "front=new")},
        listeners={"80": 1, "tcp": 1},
        tcp={"tcp": ("new",)},
    )
    bed.hears()
    bed.acknowledges_all_but_clusters()
    assert "front" not in bed.told
    bed.becomes(
        routes={"80": (*OLD, "front=old-1")},
        listeners={"80": 1, "tcp": 2},
        tcp={"tcp": ("old-0",)},
    )
    assert bed.hears() == ["LDS", "RDS"]
    assert bed.told["front"] == cluster_name("old-1")
    listeners = bed.stream.session.watches[LDS.kind].sent
    assert listeners is not None
    assert listeners.by_name["tcp"].clusters == {cluster_name("old-0")}


def test_what_waits_is_few_however_much_changes(bed: Bed) -> None:
    """A hundred changes in five seconds: what is shown after them lags little behind."""
    shown: list[str] = []
    for number in range(200):
        host = f"new-{number}"
        bed.becomes(
            clusters={**bed.world.clusters, host: 1}, routes={"80": (*OLD, f"front={host}")}
        )
        bed.hears()
        bed.now += 0.05
        bed.hears()
        shown.append(bed.told.get("front", ""))
        waiting = bed.stream.session._holding._waiting.get(RDS.kind)
        if waiting is not None:
            assert all(len(row) < 20 for row in waiting.hosts.get("80", {}).values())
    lags = [
        number - int(name.rpartition("-")[2]) for number, name in enumerate(shown) if number >= 110
    ]
    assert max(lags) * 0.05 < ACKNOWLEDGE_LIMIT + 1, lags


# --- mixtures -------------------------------------------------------------------------------


def configuration(**hosts: tuple[str, tuple[str, ...]]) -> Resource:
    """A route configuration; each host has a mark and its domains."""
    message = RouteConfiguration(
        name="80",
        virtual_hosts=[
            VirtualHost(name=name, domains=domains, request_headers_to_remove=[mark])
            for name, (mark, domains) in hosts.items()
        ],
    )
    whole = Resource.of(ResourceType.ROUTE, "80", serialise(message))
    return Resource.of(ResourceType.ROUTE, "80", joined(whole))


def marks(resource: Resource) -> dict[str, str]:
    message: Any = RouteConfiguration.FromString(resource.body)
    return {host.name: host.request_headers_to_remove[0] for host in message.virtual_hosts}


def test_a_mixture_has_old_and_new_virtual_hosts() -> None:
    mixtures = Mixtures()
    old = configuration(a=("1", ("a",)), b=("1", ("b",)), c=("1", ("c",)))
    new = configuration(a=("2", ("a",)), b=("2", ("b",)), d=("2", ("d",)))
    compared = mixtures.compare(old, new)
    assert [change.host for change in compared.changes] == ["a", "b", "d"]
    assert compared.mixable
    mixed = mixtures.mix(old, new, {"a": compared.changes[0].old, "d": None}, keep=True)
    assert marks(mixed) == {"a": "1", "b": "2", "c": "1"}
    assert mixed is mixtures.mix(old, new, {"a": compared.changes[0].old, "d": None}, keep=True)
    everything = {change.host: change.old for change in compared.changes}
    assert mixtures.mix(old, new, everything, keep=True) is old
    assert mixtures.mix(old, new, {}, keep=False) is new


@pytest.mark.parametrize(
    "new",
    [
        configuration(a=("1", ("a",)), b=("1", ("b", "shared"))),
        configuration(a=("1", ("a",)), b=("1", ("b",))),
        configuration(a=("1", ("a", "shared")), c=("1", ("c", "b"))),
    ],
    ids=["it moves", "it leaves", "it moves to a new one"],
)
def test_nothing_is_mixed_when_a_domain_changes_hands(new: Resource) -> None:
    old = configuration(a=("1", ("a", "shared")), b=("1", ("b",)))
    assert not Mixtures().compare(old, new).mixable
