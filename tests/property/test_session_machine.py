"""Random requests, answers, disconnects and changes: every Envoy ends with what is wanted.

Drives the sans-IO engine with model Envoys under a clock of its own. `PYLOT_SOAK` multiplies
the number of runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, EDS, LDS, RDS
from controlplane.ads.virtual_hosts import VirtualHost
from controlplane.debug.views.serving import SyncState, sync_state
from controlplane.model.diff import Change
from controlplane.model.names import Host
from controlplane.translate.resources import Resource, ResourceType
from tests.feature.served import ServedWorld
from tests.feature.world import CONFIG, ROUTES_ONLY, World, cluster_name
from tests.property.envoy_model import Envoy, clusters_of, virtual_hosts

HOSTS = ("a", "b", "c", "d")
LISTENERS = ("r1", "r2", "t1")
NODES = 4

hosts = st.sampled_from(HOSTS)
numbers = st.integers(1, 3)
clusters = st.dictionaries(hosts, numbers, max_size=4)
addresses = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), max_size=2, unique=True)
routed = st.lists(hosts, max_size=3, unique=True).map(tuple)
routes = st.fixed_dictionaries({"r1": routed, "r2": routed})
listeners = st.dictionaries(st.sampled_from(LISTENERS), numbers, max_size=3)
nodes = st.integers(0, NODES - 1)
parts = [f"{route}/{host}" for route in ("r1", "r2") for host in HOSTS]
broken = st.frozensets(st.sampled_from([*HOSTS, "r1", "r2", "t1", *parts]), max_size=2)


class Engine(ServedWorld, RuleBasedStateMachine):
    """Four nodes, two protocols, one server."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        self.now = 1000.0
        ServedWorld.__init__(
            self,
            World(routes={"r1": (), "r2": ()}),
            clock=lambda: self.now,
            epoch=lambda: self.now + 1e9,
        )
        self.patient = True  # no deadline has passed: make before break must hold strictly
        self.envoys: list[Envoy] = []
        # (namespace, cluster) that a route named while it did not exist: the user's wish.
        self.dangling: set[tuple[str, str]] = set()
        self.without_endpoints: set[str] = set()  # clusters that had none at some time: as wished
        # By stream, route configuration and virtual host: what it still was, and since when.
        self.behind: dict[tuple[str, str, str], tuple[bytes | None, float]] = {}

    @initialize(names=st.booleans(), may_break=st.booleans(), alike=st.booleans(), picky=nodes)
    def begin(self, names: bool, may_break: bool, alike: bool, picky: int = 0) -> None:
        """`alike`: the two nodes of a class speak the same protocol, else each its own.

        `picky` is the node that rejects what is merely disliked.
        """
        self.may_break = may_break
        for number in range(NODES):
            namespace = "left" if number % 4 < 2 else "right"
            node = f"sidecar~10.1.0.{number}~p{number}.x~{namespace}.svc.cluster.local"
            self.envoys.append(
                Envoy(
                    self.pusher,
                    node,
                    delta=number >= 2 if alike else bool(number % 2),
                    names_culprits=names,
                    clock=lambda: self.now,
                )
            )
        self.envoys[picky].picky = True
        self.everything_changes(
            value={"a": 1, "b": 1},
            paths={"r1": ("a",), "r2": ()},
            shown={"r1": 1},
            addresses=["10.0.0.1"],
        )

    # --- what happens ---------------------------------------------------------------------

    def _publish(self, change: Change, **changes: Any) -> None:
        self.becomes(change, **changes)
        self.without_endpoints |= {
            cluster_name(host) for host in self.world.clusters if not self.world.endpoints.get(host)
        }
        for namespace in ("left", "right"):
            seen = {
                host
                for host in self.world.clusters
                if self.world.private.get(host, namespace) == namespace
            }
            named = {host for targets in self.world.routes.values() for host in targets}
            self.dangling |= {(namespace, cluster_name(host)) for host in named - seen}

    @rule(value=clusters, paths=routes, shown=listeners, addresses=addresses)
    def everything_changes(self, value: Any, paths: Any, shown: Any, addresses: Any) -> None:
        endpoints = {host: tuple(addresses) for host in value}
        self._publish(CONFIG, clusters=value, routes=paths, listeners=shown, endpoints=endpoints)

    @rule(host=hosts, number=numbers)
    def a_cluster_changes(self, host: str, number: int) -> None:
        self._publish(CONFIG, clusters={**self.world.clusters, host: number})

    @rule(paths=routes)
    def routes_change(self, paths: Any) -> None:
        self._publish(ROUTES_ONLY, routes=paths)

    @rule(host=hosts, addresses=addresses)
    def endpoints_change(self, host: str, addresses: Any) -> None:
        if host in self.world.clusters:
            change = Change(endpoints=frozenset({Host(host)}))
            self._publish(change, endpoints={**self.world.endpoints, host: tuple(addresses)})

    @rule(node=nodes, host=hosts)
    def a_proxy_changes_class(self, node: int, host: str) -> None:
        self._publish(CONFIG, targets={**self.world.targets, f"10.1.0.{node}": host})

    @rule(host=hosts, namespace=st.sampled_from(["left", "right"]))
    def a_service_is_seen_by_one_namespace(self, host: str, namespace: str) -> None:
        self._publish(CONFIG, private={host: namespace})

    @precondition(lambda self: self.may_break)
    @rule(names=broken, disliked=broken)
    def something_is_broken(
        self, names: frozenset[str], disliked: frozenset[str] = frozenset()
    ) -> None:
        self._publish(CONFIG, broken=names, disliked=disliked)

    @rule(node=nodes)
    def a_stream_opens_or_breaks(self, node: int) -> None:
        envoy = self.envoys[node]
        if envoy.stream is None:
            envoy.connect()
        else:
            envoy.cut_off()

    @rule(paths=routes, value=clusters)
    def the_control_plane_restarts(self, paths: Any, value: Any) -> None:
        """Everything it knew of its clients is gone, and the configuration is another."""
        for envoy in self.envoys:
            if envoy.stream is not None:
                envoy.cut_off()
        self._publish(CONFIG, routes=paths, clusters=value)
        self.begins_anew()
        for envoy in self.envoys:
            envoy.pusher = self.pusher

    @rule(node=nodes, count=st.integers(1, 4))
    def the_server_writes(self, node: int, count: int) -> None:
        envoy = self.envoys[node]
        for _ in range(count):
            if envoy.stream is None or not envoy.receive():
                break

    @rule()
    def the_server_writes_all_that_it_has(self) -> None:
        """Whatever is held back then has been so for a moment only, however much changes."""
        behind: dict[tuple[str, str, str], tuple[bytes | None, float]] = {}
        for envoy in self.envoys:
            while envoy.stream is not None and envoy.receive():
                pass
            for key, held in self._behind(envoy):
                was, since = self.behind.get(key, (held, self.now))
                behind[key] = (held, since if was == held else self.now)
                assert self.now - behind[key][1] <= ACKNOWLEDGE_LIMIT, f"{key} is held back"
        self.behind = behind

    def _behind(self, envoy: Envoy) -> Iterator[tuple[tuple[str, str, str], bytes | None]]:
        """Yield the sound virtual hosts that a client was told otherwise than they shall be."""
        if envoy.stream is None or envoy.rejected:
            return
        session = envoy.stream.session
        watch = session.watches.get(RDS.kind)
        if watch is None or watch.sent is None:
            return
        for name in session.view.route_names & watch.names.names - watch.came_with:
            told = virtual_hosts(watch.sent.by_name[name].body) if watch.sent.get(name) else {}
            wanted = virtual_hosts(
                self.generator.route(session.view.snapshot, session.view.cls, name).body
            )
            for host, body in wanted.items():
                if told.get(host) != body and not envoy.rejects(body):
                    yield (envoy.stream.connection, name, host), told.get(host)

    @rule(node=nodes, count=st.integers(1, 4))
    def a_client_answers(self, node: int, count: int) -> None:
        envoy = self.envoys[node]
        for _ in range(count):
            if envoy.stream is None or not envoy.answer():
                break

    @rule()
    def everybody_catches_up(self) -> None:
        for envoy in self.envoys:
            if envoy.stream is None:
                envoy.connect()
            while envoy.receive() or envoy.answer():
                pass

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if seconds > 5:
            self.patient = False

    # --- what must always be true ---------------------------------------------------------

    @invariant()
    def no_route_names_a_cluster_that_is_not_there_yet(self) -> None:
        for envoy in self.envoys:
            named, envoy.newly_named = envoy.newly_named, []
            if envoy.rejected:
                continue
            assert not named, f"routes name clusters that are on their way: {named}"

    @invariant()
    def no_cluster_goes_while_a_route_uses_it(self) -> None:
        for envoy in self.envoys:
            cut, envoy.cut_short = envoy.cut_short, []
            if not self.patient or envoy.rejected or envoy.stream is None:
                continue
            for route, cluster in cut:
                assert (
                    envoy.proxy.namespace,
                    cluster,
                ) in self.dangling or route not in envoy.stream.session.view.route_names, (
                    f"{cluster} went while {route} used it"
                )

    @invariant()
    def no_cluster_on_its_way_out_loses_its_endpoints(self) -> None:
        """However late a client is: what routes still use keeps what it was told."""
        for envoy in self.envoys:
            emptied, envoy.emptied = envoy.emptied, []
            for route, cluster in emptied:
                assert cluster in self.without_endpoints, f"{cluster} is empty under {route}"

    @invariant()
    def no_virtual_host_goes_that_is_still_wanted(self) -> None:
        """Whoever is looked for, and whatever the client came with: the innocent stay."""
        for envoy in self.envoys:
            lost, envoy.lost = envoy.lost, []
            assert not lost, f"these virtual hosts went though they are sound: {lost}"

    def teardown(self) -> None:
        """Let everything settle, and compare."""
        for envoy in self.envoys:
            if envoy.stream is None:
                envoy.connect()
        self._settle()
        for envoy in self.envoys:
            self._compare(envoy)
        self.no_virtual_host_goes_that_is_still_wanted()
        # What is mended is lifted by itself, and nobody is left behind.
        self._publish(CONFIG, broken=frozenset(), disliked=frozenset())
        self._settle()
        for envoy in self.envoys:
            self._compare(envoy)
        serving = self.pusher.status()
        assert not serving.diagnostics
        for connection in serving.connections:
            for url, watch in connection.watches.items():
                state = sync_state(watch)
                assert state in (SyncState.SYNCED, SyncState.NOT_SENT), (
                    f"{connection.connection_id} {url} is {state} for ever: {watch}"
                )

    def _settle(self, look: Callable[[], None] = lambda: None) -> None:
        """Let everybody act until there is nothing to do, and `look` after each step."""
        sends = 0
        for _ in range(200):
            busy = False
            for envoy in self.envoys:
                while envoy.stream is not None and (envoy.receive() or envoy.answer()):
                    look()
                    busy = True
                    sends += 1
                    assert sends < 4000, "the engine and the clients never come to rest"
            if busy:
                continue
            deadlines = [
                deadline
                for envoy in self.envoys
                if envoy.stream is not None
                and (deadline := self.pusher.deadline(envoy.stream)) is not None
            ]
            if not deadlines:
                return
            self.now = max(self.now, min(deadlines)) + 0.001
        raise AssertionError(f"something waits for ever: {self._waits()}")

    def _waits(self) -> list[str]:
        return [
            f"{envoy.proxy.id} {watch.info.short} held until {watch.hold_until}, "
            f"bisection {watch.bisection and watch.bisection.wakes_at}, "
            f"class {envoy.stream.state.retained.keys()}, own {envoy.stream.retained.keys()}"
            for envoy in self.envoys
            if envoy.stream is not None
            for watch in envoy.stream.session.watches.values()
        ]

    def _compare(self, envoy: Envoy) -> None:
        assert envoy.stream is not None
        # Stand-ins warm as long as they stay.
        warming = envoy.warming - self._used_instead(envoy) - envoy.stream.session.returning.instead
        assert not warming, f"a cluster warms for ever: {envoy}"
        cls = self.generator.classify(envoy.proxy, self.snapshot)
        wanted = {
            CDS.url: {item.name: item for item in self.generator.clusters(self.snapshot, cls)},
            LDS.url: {item.name: item for item in self.generator.listeners(self.snapshot, cls)},
        }
        for info in (CDS, LDS):
            watch = envoy.stream.session.watches.get(info.kind)
            if watch is None:
                # Clusters were rejected altogether: the client never got as far as listeners.
                assert envoy.rejected
                continue
            expected = wanted[info.url]
            held = envoy.held[info.url]
            # What others reject a client is spared, so it says nothing about it itself.
            refused = watch.error or (info is LDS and watch.withholds)
            if watch.brought and watch.accepted is None and refused:
                view = envoy.stream.session.view
                shown = view.clusters if info is CDS else view.listeners  # with what is retained
                bad = {name for name, item in shown.by_name.items() if envoy.rejects(item.body)}
                if info is LDS or bad & held.keys():
                    continue  # leaving something out could delete what the client brought along
            for name, item in expected.items():
                if not envoy.rejects(item.body):
                    assert held.get(name) == item.body, f"{info.short} {name} is not current"
                else:
                    assert held.get(name) != item.body
            kept = self._used_instead(envoy) if info is CDS else frozenset()
            assert held.keys() <= expected.keys() | kept, "something that is gone is still held"
        for name in envoy.held[CDS.url]:
            item = self.generator.load_assignment(self.snapshot, cls, name)
            if name in envoy.stream.session.returning.instead:
                continue  # endpoints would make the stand-in take over
            if name in wanted[CDS.url]:
                assert envoy.held[EDS.url].get(name) == item.body, f"EDS {name} is not current"
        for name in envoy.held[LDS.url]:
            if name.startswith("r") and name in wanted[LDS.url]:
                item = self.generator.route(self.snapshot, cls, name)
                if not envoy.rejects(item.body):
                    assert envoy.held[RDS.url].get(name) == item.body, f"RDS {name} is not current"
                else:
                    self._compare_hosts(envoy, name, item.body)

    def _used_instead(self, envoy: Envoy) -> Set[str]:
        """The clusters of routes that stay in the place of what is broken.

        They are retained by the class, so one node may see those that another one uses. A client
        that came back keeps all that it came with meanwhile: nobody knows what it uses.
        """
        assert envoy.stream is not None
        cls = self.generator.classify(envoy.proxy, self.snapshot)
        found: set[str] = set()
        for other in self.envoys:
            if other.stream is None or other.stream.state is not envoy.stream.state:
                continue
            instead = [
                held
                for name, held in other.held[RDS.url].items()
                if other.rejects(self.generator.route(self.snapshot, cls, name).body)
            ]
            if instead and other is envoy:
                found |= envoy.stream.session.returning.unknown
            found = found.union(*map(clusters_of, instead))
        return found

    def _compare_hosts(self, envoy: Envoy, route: str, wanted: bytes) -> None:
        """Only what is broken is missing in a route configuration, or as it was before.

        Of one that a client came with, several culprits cannot be told from the others.
        """
        assert envoy.stream is not None
        held = virtual_hosts(envoy.held[RDS.url].get(route, b""))
        expected = virtual_hosts(wanted)
        sound = {host: body for host, body in expected.items() if not envoy.rejects(body)}
        assert not any(envoy.rejects(body) for body in held.values())
        if not sound:
            return  # all of it is as it was
        suspects = envoy.stream.session.watches[RDS.kind].undecided
        if any(isinstance(item, VirtualHost) and item.route == route for item in suspects):
            assert len(expected) - len(sound) > 1, "a single culprit is always found"
            assert self.pusher.findings(), "nobody is told"
            return
        assert {host: held.get(host) for host in sound} == sound, f"{route} is held back"
        assert held.keys() <= expected.keys()


def test_the_model_would_notice_a_lost_update() -> None:
    """The check itself can fail: hold something else, and it is seen."""
    engine = Engine()
    engine.begin(names=True, may_break=False, alike=False)
    engine.a_cluster_changes(host="a", number=1)
    for envoy in engine.envoys:
        envoy.connect()
    engine._settle()
    envoy = engine.envoys[0]
    engine._compare(envoy)
    envoy.held[CDS.url][cluster_name("a")] = Resource.of(ResourceType.CLUSTER, "a", b"other").body
    try:
        engine._compare(envoy)
    except AssertionError:
        return
    raise RuntimeError("a lost update was not noticed")


def test_what_is_on_its_way_goes_again_when_a_newer_one_of_it_was_spared_meanwhile() -> None:
    """Others reject the newer one; this client is told nothing, and holds the one before."""
    engine = Engine()
    engine.begin(names=True, may_break=True, alike=True)
    engine.everybody_catches_up()
    shown = {"r1": 1, "t1": 1}
    engine.everything_changes(value={"a": 1}, paths={"r1": (), "r2": ()}, shown=shown, addresses=[])
    late = engine.envoys[2]
    while late.receive():
        pass
    engine.something_is_broken(names=frozenset({"t1"}))
    for envoy in (*engine.envoys[:2], engine.envoys[3], late):
        while envoy.receive() or envoy.answer():
            pass
    engine.everything_changes(value={}, paths={"r1": (), "r2": ()}, shown={}, addresses=[])
    engine.something_is_broken(names=frozenset())
    engine.teardown()


SOAK = int(os.environ.get("PYLOT_SOAK") or 1)
TestEngine = Engine.TestCase
TestEngine.settings = settings(
    max_examples=150 * SOAK,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
