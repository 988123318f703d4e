"""Orders of events that once went wrong, each by itself: clusters that leave, clients that return.

The same model Envoys and checks as the state machine's, which finds such orders only seldom.
"""

from __future__ import annotations

from controlplane.ads.types import CDS, EDS, LDS
from tests.feature.world import CONFIG, cluster_name
from tests.property.test_session_machine import NODES, Engine


def engine_at_rest() -> Engine:
    """Four Envoys that run a route to `a`."""
    engine = Engine()
    engine.begin(names=True, may_break=False, alike=False)
    for envoy in engine.envoys:
        envoy.connect()
    engine._settle()
    return engine


def write(engine: Engine) -> None:
    """Let the server write all it has, and clients read it, but no cluster gets ready.

    Envoys acknowledge clusters only when all are warm.
    """
    for envoy in engine.envoys:
        for _ in range(20):
            if not envoy.receive():
                break


def read_in_order(engine: Engine) -> None:
    """Let clients take what was written, one after the other, and look after each."""
    busy = True
    while busy:
        busy = False
        for envoy in engine.envoys:
            busy = envoy.answer() or busy
        engine.no_cluster_on_its_way_out_loses_its_endpoints()


def test_what_is_routed_to_stays_whole_while_routes_wait_again_and_again() -> None:
    """Changes that come faster than clusters get ready keep routes as they were, and working."""
    engine = engine_at_rest()
    for step in range(6):
        engine.everything_changes(
            value={"b": 1, f"new-{step}": 1},
            paths={"r1": (f"new-{step}",), "r2": ()},
            shown={"r1": 1},
            addresses=["10.0.0.1"],
        )
        write(engine)
        engine.time_passes(2.0)
        for envoy in engine.envoys:
            assert envoy.stream is not None
            shown = envoy.stream.session.view.clusters.by_name
            assert cluster_name("a") in shown, f"gone after {2 * step} s"
    read_in_order(engine)
    engine.teardown()
    for envoy in engine.envoys:
        assert cluster_name("a") not in envoy.held[CDS.url]


def test_a_cluster_whose_time_is_over_is_not_emptied_before_it_goes() -> None:
    """Its client is late: it reads that the cluster went, and the new routes, all at once."""
    engine = engine_at_rest()
    for step in range(3):
        engine.everything_changes(
            value={"b": 1}, paths={"r1": ("b",), "r2": ()}, shown={"r1": step + 2}, addresses=["1"]
        )
        engine.time_passes(6.0)
    write(engine)
    read_in_order(engine)
    engine.teardown()


def test_a_proxy_that_changes_class_keeps_the_endpoints_of_what_was_leaving() -> None:
    """The old class retained a cluster; in the new one it keeps its endpoints and its end."""
    engine = engine_at_rest()
    engine.everything_changes(
        value={"b": 1}, paths={"r1": ("b",), "r2": ()}, shown={"r1": 1}, addresses=["10.0.0.1"]
    )
    engine.time_passes(1.0)
    engine.a_proxy_changes_class(node=0, host="c")
    engine.a_proxy_changes_class(node=1, host="c")
    for number in (0, 1):
        stream = engine.envoys[number].stream
        assert stream is not None
        (retained,) = stream.retained.values()
        assert retained.assignment is not None
        assert b"10.0.0.1" in retained.assignment.body
        assert retained.until == 1005.0
    write(engine)
    read_in_order(engine)
    engine.teardown()


def test_endpoints_that_are_asked_for_late_are_those_of_the_view_that_had_the_cluster() -> None:
    """A client is told of a cluster, and asks for its endpoints when the cluster has left."""
    engine = engine_at_rest()
    both = {"a": 1, "b": 1, "c": 1}
    engine.everything_changes(
        value=both, paths={"r1": ("c",), "r2": ()}, shown={"r1": 1}, addresses=["10.0.0.3"]
    )
    write(engine)
    engine.everything_changes(
        value={"b": 1}, paths={"r1": ("b",), "r2": ()}, shown={"r1": 1}, addresses=["10.0.0.3"]
    )
    read_in_order(engine)  # only now is the first one read, and the endpoints of `c` asked for
    for envoy in engine.envoys:
        while envoy.receive():
            pass
        read_in_order(engine)
        assert b"10.0.0.3" in envoy.held[EDS.url].get(cluster_name("c"), b"10.0.0.3")
    engine.teardown()


def test_what_a_returning_client_rejected_and_nobody_wants_is_taken_from_it() -> None:
    """In state of the world it holds what it came with until it is sent something that it takes."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.a_stream_opens_or_breaks(node=0)
    engine.something_is_broken(names=frozenset({"a"}))
    engine.everything_changes(value={}, paths={"r1": (), "r2": ()}, shown={}, addresses=[])
    engine.teardown()
    assert not engine.envoys[0].held[CDS.url]


def test_a_returning_client_gets_everything_but_the_new_cluster_that_it_rejects() -> None:
    """It names no culprit, and what it holds is not known: only what it lacks is suspected."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.a_stream_opens_or_breaks(node=0)
    engine._publish(
        CONFIG,
        clusters={"a": 1, "b": 2, "c": 1, "d": 1},
        endpoints=dict.fromkeys("abcd", ("10.0.0.1",)),
        broken=frozenset({"c"}),
    )
    envoy = engine.envoys[0]
    held: list[set[str]] = []
    envoy.connect()
    engine._settle(lambda: held.append(set(envoy.held[CDS.url])))
    assert all({cluster_name("a"), cluster_name("b")} <= names for names in held)
    assert envoy.held[CDS.url].keys() == {cluster_name(host) for host in "abd"}
    assert envoy.stream is not None
    assert [item.code for item in engine.pusher.findings()] == ["RejectedByEnvoy"]
    engine.teardown()


def test_a_returning_client_keeps_that_of_which_it_rejects_a_newer_one() -> None:
    """Leaving it out would delete the older one, which serves; nothing is sent again and again."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    for node in range(NODES):  # else the others would reject it too, and it would be spared
        engine.a_stream_opens_or_breaks(node=node)
    engine._publish(
        CONFIG, clusters={"a": 2, "b": 1, "c": 1}, endpoints={}, broken=frozenset({"a"})
    )
    envoy = engine.envoys[0]
    before = dict(envoy.held[CDS.url])
    envoy.connect()
    engine._settle()
    assert envoy.held[CDS.url] == before
    assert envoy.rejected <= 3
    blamed = {str(item.ref) for item in engine.pusher.findings()}
    assert "DestinationRule default/a" in blamed, "it cannot be told from the others"
    assert envoy.held[LDS.url]
    engine.teardown()


def test_clusters_stay_while_a_client_goes_on_with_routes_that_nobody_knows() -> None:
    """It came back with them, and the newer ones are broken."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.something_is_broken(names=frozenset({"a", "r1"}))
    engine.the_control_plane_restarts(paths={"r1": ("b",), "r2": ()}, value={})
    engine.everybody_catches_up()
    engine.no_cluster_goes_while_a_route_uses_it()
    engine.patient = False  # after a while they go all the same: every wait has an end
    engine.teardown()


def test_what_an_older_rejected_response_brought_comes_again() -> None:
    """A partial response that mends one thing does not bring what was rejected along with it."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everything_changes(
        addresses=[], paths={"r1": (), "r2": ()}, shown={"r1": 1, "r2": 1}, value={}
    )
    engine.everybody_catches_up()
    engine.routes_change(paths={"r1": ("a",), "r2": ("c",)})
    engine.something_is_broken(names=frozenset({"r2/c"}))
    engine.the_server_writes(count=1, node=0)
    engine.something_is_broken(names=frozenset())
    engine.teardown()


def test_what_a_returning_client_was_sent_is_not_taken_for_what_it_brought() -> None:
    """It drops a route that it came with before it answers; then it rejects the other one."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=True)
    nothing: dict[str, tuple[str, ...]] = {"r1": (), "r2": ()}
    engine.everything_changes(value={}, paths=nothing, shown={"r1": 1, "r2": 1}, addresses=[])
    engine.everybody_catches_up()
    engine.a_stream_opens_or_breaks(node=2)
    engine.something_is_broken(names=frozenset({"r1/a"}))
    engine.everything_changes(
        value={}, paths={"r1": ("a", "b"), "r2": ()}, shown={"r1": 1}, addresses=[]
    )
    engine.teardown()


def test_whom_a_returning_client_leaves_out_comes_back_when_others_find_the_culprit() -> None:
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.a_stream_opens_or_breaks(node=2)
    engine.something_is_broken(names=frozenset({"r1/b"}))
    engine.everything_changes(
        value={}, paths={"r1": ("a", "b", "c"), "r2": ()}, shown={"r1": 1}, addresses=[]
    )
    engine.teardown()


def test_a_returning_client_that_rejects_whatever_it_is_shown_is_left_in_peace() -> None:
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False, picky=0)
    engine.everybody_catches_up()
    engine.something_is_broken(disliked=frozenset({"r1"}), names=frozenset())
    engine.everybody_catches_up()
    engine.a_stream_opens_or_breaks(node=0)
    engine.everything_changes(
        value={}, paths={"r1": ("a", "b"), "r2": ()}, shown={"r1": 1}, addresses=[]
    )
    engine.teardown()


def test_who_goes_on_its_way_without_the_culprit_is_not_taken_back() -> None:
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.something_is_broken(names=frozenset({"r1/a"}))
    engine.routes_change(paths={"r1": ("a", "b"), "r2": ()})
    engine.the_server_writes_all_that_it_has()
    engine.routes_change(paths={"r1": ("b",), "r2": ()})
    engine.everybody_catches_up()
    engine.teardown()


def test_a_cluster_that_comes_back_before_its_end_was_acknowledged_is_waited_for() -> None:
    engine = Engine()
    engine.begin(names=False, may_break=False, alike=False)
    engine.everybody_catches_up()
    engine.a_cluster_changes(host="c", number=1)
    engine.a_service_is_seen_by_one_namespace(host="b", namespace="left")
    engine.the_server_writes_all_that_it_has()
    engine.a_client_answers(count=1, node=2)
    engine.a_service_is_seen_by_one_namespace(host="a", namespace="left")
    engine.routes_change(paths={"r1": ("b",), "r2": ()})
    engine.everybody_catches_up()
    engine.no_route_names_a_cluster_that_is_not_there_yet()


def test_a_route_that_was_dropped_unheard_and_is_asked_for_again_is_sent_again() -> None:
    """In state of the world a request that crosses a response is ignored."""
    engine = Engine()
    engine.begin(names=False, may_break=False, alike=False)
    nothing: dict[str, tuple[str, ...]] = {"r1": (), "r2": ()}
    engine.everything_changes(value={}, paths=nothing, shown={"r1": 1, "r2": 1}, addresses=[])
    engine.everybody_catches_up()
    engine.everything_changes(value={}, paths=nothing, shown={}, addresses=[])
    engine.the_server_writes_all_that_it_has()
    engine.everything_changes(
        value={}, paths={"r1": (), "r2": ("a",)}, shown={"r1": 1}, addresses=[]
    )
    engine.teardown()


def test_a_stand_in_is_nobody_elses_predecessor() -> None:
    """One client is shown it in the place of what it rejects; another one has the real cluster."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.something_is_broken(names=frozenset({"a"}))
    engine.the_control_plane_restarts(paths={"r1": (), "r2": ()}, value={"a": 2})
    engine.everybody_catches_up()
    engine.a_cluster_changes(host="a", number=1)
    engine.teardown()


def test_a_returning_client_keeps_its_listeners_while_others_reject_a_newer_one() -> None:
    """It is spared the newer one, and what is left out of its first answer would be deleted."""
    engine = Engine()
    engine.begin(names=True, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.something_is_broken(names=frozenset({"r1"}))
    nothing: dict[str, tuple[str, ...]] = {"r1": (), "r2": ()}
    engine.the_control_plane_restarts(paths=nothing, value={})
    engine.everything_changes(value={}, paths=nothing, shown={"r1": 1, "r2": 1}, addresses=[])
    for envoy in engine.envoys:
        envoy.connect()
    engine._settle()
    spared = engine.envoys[2]
    assert not spared.rejected
    assert spared.held[LDS.url].keys() == {"r1"}
    engine.teardown()
    assert spared.held[LDS.url].keys() == {"r1", "r2"}


def test_a_cluster_that_was_gone_for_a_moment_only_is_still_waited_for() -> None:
    """The client is told neither that it went nor that it came back: it is on its way."""
    engine = Engine()
    engine.begin(names=False, may_break=False, alike=False)
    engine.everybody_catches_up()
    engine.a_cluster_changes(host="d", number=1)
    engine.the_server_writes_all_that_it_has()
    nothing: dict[str, tuple[str, ...]] = {"r1": (), "r2": ()}
    engine.everything_changes(value={}, paths=nothing, shown={}, addresses=[])
    every = dict.fromkeys("abcd", 1)
    engine.everything_changes(value=every, paths=nothing, shown={}, addresses=[])
    engine.everything_changes(
        value={}, paths={"r1": ("a", "d"), "r2": ()}, shown={"r1": 1}, addresses=[]
    )
    engine.everybody_catches_up()
    engine.no_route_names_a_cluster_that_is_not_there_yet()
    engine.teardown()


def test_a_returning_client_gets_the_route_configuration_that_is_sound() -> None:
    """All of the other one is broken, and the message names neither."""
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    nothing: dict[str, tuple[str, ...]] = {"r1": (), "r2": ()}
    both = {"r1": 1, "r2": 1}
    engine.everything_changes(value={}, paths=nothing, shown=both, addresses=[])
    engine.everybody_catches_up()
    engine.something_is_broken(names=frozenset({"r2"}))
    engine.the_control_plane_restarts(paths=nothing, value={})
    engine.everything_changes(
        value={}, paths={"r1": ("a",), "r2": ("a", "b")}, shown=both, addresses=[]
    )
    engine.teardown()


def test_a_returning_client_keeps_a_route_configuration_that_hides_two_culprits() -> None:
    engine = Engine()
    engine.begin(names=False, may_break=True, alike=False)
    engine.everybody_catches_up()
    engine.something_is_broken(names=frozenset({"r1/a", "r1/b"}))
    engine.the_control_plane_restarts(paths={"r1": ("a", "b", "c"), "r2": ()}, value={})
    engine.teardown()
