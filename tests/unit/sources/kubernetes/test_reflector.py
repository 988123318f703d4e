"""The machine of lists and watches, step by step."""

from __future__ import annotations

import random

import msgspec
import pytest

from controlplane.kubernetes.errors import (
    ForbiddenError,
    KubernetesError,
    TooManyRequestsError,
    UnavailableError,
    error_of,
)
from controlplane.kubernetes.paths import Call
from controlplane.model.kinds import KINDS
from controlplane.model.meta import objects_of
from controlplane.sources.kubernetes.decode import ObjectDecoder
from controlplane.sources.kubernetes.reflector import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PAGE,
    SHORTEST_WATCH,
    VERIFY_EVERY,
    Reflector,
)
from controlplane.sources.kubernetes.store import Changes, Store
from tests.unit.kubernetes.model_server import SERVICES, ModelServer, bookmark, event, failure

DOWN = UnavailableError("connection refused")


class World:
    """A server with some services, and a reflector."""

    def __init__(self, *names: str, streams: bool = False) -> None:
        self.server = ModelServer()
        for name in names:
            self.put(name)
        self.store = Store(ObjectDecoder(KINDS["", "Service"]))
        self.reflector = Reflector(SERVICES, self.store, streams=streams, dice=random.Random(1))

    def put(self, name: str, port: int = 80) -> None:
        self.server.put(name, spec={"ports": [{"port": port}]})

    def list(self) -> Changes:
        """List everything, in as many pages as it takes."""
        while not self.reflector.version:
            step = self.reflector.next()
            assert not step.watch
            self.reflector.on_page(self.server.page(step.query))
        return self.store.take()

    def fail(self, code: int, reason: str = "", lasted: float = 0.0) -> None:
        self.reflector.on_error(self.server.refusal(code, reason), lasted)


def names(changes: Changes) -> list[str]:
    return sorted(item.metadata.name for item in objects_of(changes.upserts))


def test_a_list_counts_when_its_last_page_is_there() -> None:
    world = World(*(f"s{index}" for index in range(PAGE + 1)))
    step = world.reflector.next()
    assert step.query == {"limit": str(PAGE)}
    world.reflector.on_page(world.server.page(step.query))
    assert not world.reflector.synced
    assert world.store.take() == Changes(events={})
    step = world.reflector.next()
    assert set(step.query) == {"limit", "continue"}
    world.reflector.on_page(world.server.page(step.query))
    assert world.reflector.synced
    assert len(world.store.take().upserts) == PAGE + 1


def test_a_watch_goes_on_from_the_list_with_bookmarks_and_a_random_end() -> None:
    world = World("a")
    world.list()
    step = world.reflector.next()
    assert step.watch
    assert step.query["resourceVersion"] == "11"
    assert step.query["allowWatchBookmarks"] == "true"
    assert SHORTEST_WATCH <= int(step.query["timeoutSeconds"]) <= 2 * SHORTEST_WATCH
    world.reflector.on_lines([bookmark(40)])
    world.reflector.on_closed(300)
    step = world.reflector.next()
    assert (step.watch, step.query["resourceVersion"]) == (True, "40")
    assert step.wait < 1


def test_events_that_came_at_once_are_one_change_and_each_event_is_counted() -> None:
    world = World("a", "b")
    world.list()
    world.reflector.next()
    before = world.server.version
    world.put("a", 81)
    world.put("a", 82)
    world.put("c")
    world.server.delete("c")
    world.server.delete("b")
    world.put("d")
    world.reflector.on_lines(world.server.since(before))
    changes = world.store.take()
    assert names(changes) == ["a", "d"]
    assert [ref.name for ref in changes.removals] == ["b"]
    assert changes.events == {"add": 2, "update": 2, "delete": 2}
    assert world.store.take() == Changes(events={})


def test_a_change_that_nobody_reads_is_not_passed_on() -> None:
    world = World("a")
    world.list()
    world.reflector.next()
    before = world.server.version
    world.put("a")
    world.reflector.on_lines(world.server.since(before))
    assert world.store.take() == Changes(events={"updatesame": 1})
    assert world.reflector.version == str(world.server.version)


def test_a_new_generation_is_passed_on_because_a_status_names_it() -> None:
    world = World("a")
    world.list()
    world.reflector.next()
    before = world.server.version
    world.server.put("a", spec={"ports": [{"port": 80}]}, metadata={"generation": 2})
    world.reflector.on_lines(world.server.since(before))
    (record,) = world.store.take().upserts
    origin = record.origin
    assert origin.generation == 2


@pytest.mark.parametrize("as_event", [False, True])
def test_after_a_410_everything_is_compared_and_only_differences_are_passed_on(
    as_event: bool,
) -> None:
    world = World("a", "b", "c")
    world.list()
    world.reflector.next()
    world.put("a", 81)
    world.server.delete("b")
    world.server.compact()
    if as_event:
        with pytest.raises(KubernetesError) as caught:
            world.reflector.on_lines(world.server.since(0))
        world.reflector.on_error(caught.value, 60)
    else:
        world.fail(410, "Expired", lasted=60)
    assert world.store.take() == Changes(events={})
    changes = world.list()
    assert names(changes) == ["a"]
    assert [ref.name for ref in changes.removals] == ["b"]
    assert world.reflector.relists == 1


def test_an_expired_continue_token_asks_for_everything_at_once() -> None:
    world = World(*(f"s{index}" for index in range(PAGE + 1)))
    world.reflector.on_page(world.server.page(world.reflector.next().query))
    world.put("late")
    world.server.compact()
    step = world.reflector.next()
    with pytest.raises(KubernetesError) as caught:
        world.server.page(step.query)
    world.reflector.on_error(caught.value, 0)
    step = world.reflector.next()
    assert step.query == {}
    world.reflector.on_page(world.server.page(step.query))
    assert len(world.store) == PAGE + 2


def test_an_interrupted_list_goes_on_where_it_was() -> None:
    world = World(*(f"s{index}" for index in range(PAGE + 1)))
    world.reflector.on_page(world.server.page(world.reflector.next().query))
    token = world.reflector.next().query["continue"]
    world.reflector.on_error(DOWN, 0)
    assert world.reflector.next().query["continue"] == token


def test_the_first_state_can_come_as_events() -> None:
    world = World("a", "b", streams=True)
    step = world.reflector.next()
    assert step.watch
    assert step.query["sendInitialEvents"] == "true"
    assert step.query["resourceVersionMatch"] == "NotOlderThan"
    assert step.query["resourceVersion"] == ""
    *events, end = world.server.first()
    world.reflector.on_lines(events)
    assert not world.reflector.synced
    world.reflector.on_lines([bookmark(5)])  # an ordinary one ends nothing
    assert not world.reflector.synced
    world.reflector.on_lines([end])
    assert world.reflector.synced
    assert names(world.store.take()) == ["a", "b"]
    world.put("c")
    world.reflector.on_lines(world.server.since(world.server.version - 1))
    assert names(world.store.take()) == ["c"]


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_cannot_stream_is_asked_for_pages_from_then_on(code: int) -> None:
    world = World("a", streams=True)
    world.reflector.next()
    world.fail(code)
    assert world.reflector.next() == (0.0, False, {"limit": str(PAGE)})
    world.list()
    world.reflector.next()
    world.fail(410, "Expired")
    assert not world.reflector.next().watch


def test_a_stream_that_ends_before_the_first_state_is_there_counts_nothing() -> None:
    world = World("a", streams=True)
    world.reflector.next()
    world.reflector.on_lines(list(world.server.first())[:-1])
    world.reflector.on_closed(60)
    assert not world.reflector.synced
    assert len(world.store) == 0
    assert names(world.list()) == ["a"]


def test_pauses_grow_and_have_an_end_and_a_watch_that_works_forgets_them() -> None:
    world = World("a")
    waits = []
    for _ in range(12):
        world.reflector.on_error(DOWN, 0)
        waits.append(world.reflector.next().wait)
    assert waits[0] <= FIRST_PAUSE
    assert all(FIRST_PAUSE / 2 <= wait <= LONGEST_PAUSE for wait in waits)
    assert waits[4] > waits[0]
    assert waits[-1] >= LONGEST_PAUSE / 2
    world.list()
    world.reflector.next()
    world.reflector.on_error(DOWN, 60)
    assert world.reflector.next().wait <= FIRST_PAUSE


def test_watches_that_end_at_once_are_no_hot_loop() -> None:
    world = World("a")
    world.list()
    total = 0.0
    for _ in range(10):
        step = world.reflector.next()
        total += step.wait
        world.reflector.on_closed(0.01)
    assert total > 20


def test_a_busy_server_is_left_alone_as_long_as_it_asked() -> None:
    world = World("a")
    error = error_of(Call("list", "services"), b"", status=429, retry_after="33")
    assert isinstance(error, TooManyRequestsError)
    world.reflector.on_error(error, 0)
    assert world.reflector.next().wait >= 33


def test_without_a_connection_nothing_is_listed_again() -> None:
    world = World("a")
    world.list()
    for _ in range(10):
        world.reflector.next()
        world.reflector.on_error(DOWN, 0)
    assert world.reflector.next().watch


def test_a_server_that_keeps_failing_or_knows_only_older_versions_is_listed_again() -> None:
    world = World("a")
    world.list()
    for _ in range(3):
        assert world.reflector.next().watch
        world.fail(500)
    assert not world.reflector.next().watch
    world.list()
    world.reflector.next()
    world.fail(504, "ResourceVersionTooLarge", lasted=60)
    assert not world.reflector.next().watch


def test_a_line_that_is_no_event_is_a_failure_after_what_came_before_it() -> None:
    world = World()
    world.list()
    world.reflector.next()
    world.put("a")
    lines = [*world.server.since(0), b'{"type": "ADDED", "object": {"metadata": 1}}']
    with pytest.raises(UnavailableError, match="cannot read an event of services"):
        world.reflector.on_lines(lines)
    assert names(world.store.take()) == ["a"]
    with pytest.raises(UnavailableError):
        world.reflector.on_lines([b"<html>"])
    with pytest.raises(UnavailableError, match="cannot read a list"):
        world.reflector.on_page(b"<html>")


def test_a_refusal_is_remembered_until_there_is_an_answer() -> None:
    world = World("a")
    for _ in range(3):
        assert world.reflector.refused is None  # a server that starts forbids what it has not read
        world.reflector.next()
        world.fail(403)
    assert isinstance(world.reflector.refused, ForbiddenError)
    assert not world.reflector.synced
    world.list()
    assert world.reflector.refused is None
    for _ in range(3):
        world.reflector.next()
        world.fail(403)
    assert isinstance(world.reflector.refused, ForbiddenError)
    assert len(world.store) == 1  # lost later: what was there stays
    assert world.reflector.next().watch
    world.reflector.on_opened()
    assert world.reflector.refused is None  # before anything has changed


def test_states_are_compared_now_and_then_and_what_differs_is_healed() -> None:
    world = World("a", "b")
    world.list()
    world.store.remove(("default", "a"))  # as if an event had been lost
    world.store.take()
    asked = world.reflector.next()
    assert asked.watch
    world.reflector.on_closed(2 * VERIFY_EVERY + 1)
    world.put("c")  # has happened after the version that is compared
    step = world.reflector.next()
    assert not step.watch
    assert step.query["resourceVersion"] == "12"
    assert step.query["resourceVersionMatch"] == "Exact"
    world.reflector.on_page(world.server.page(step.query))
    assert names(world.store.take()) == ["a"]
    assert world.reflector.healed == 1
    assert world.reflector.relists == 0
    step = world.reflector.next()
    assert (step.watch, step.query["resourceVersion"]) == (True, "12")


def test_an_error_event_says_what_it_says() -> None:
    world = World("a")
    world.list()
    line = event("ERROR", msgspec.json.decode(failure(500, "InternalError", "etcd is gone")))
    with pytest.raises(UnavailableError, match="etcd is gone"):
        world.reflector.on_lines([line])
