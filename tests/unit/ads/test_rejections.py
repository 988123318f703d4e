"""Whose fault a rejection is, and who is spared."""

from __future__ import annotations

import math

import hypothesis.strategies as st
from hypothesis import given

from controlplane.ads.bisection import REST, Bisection
from controlplane.ads.rejections import Rejections, named_in
from controlplane.translate.resources import Resource, ResourceType


def cluster(name: str) -> Resource:
    return Resource.of(ResourceType.CLUSTER, name, name.encode())


NAMES = [cluster("outbound|80||a.b"), cluster("outbound|80||a.b.c"), cluster("outbound|80|v1|a.b")]


def test_names_are_found_as_whole_words() -> None:
    text = "Error adding/updating cluster(s) outbound|80||a.b.c: no"
    assert named_in(text, NAMES) == (NAMES[1],)
    assert named_in("outbound|80||a.b: no, outbound|80|v1|a.b.", NAMES) == (NAMES[0], NAMES[2])
    assert named_in("missing ): (", NAMES) == ()


def test_one_node_spares_itself_and_two_spare_their_build() -> None:
    rejections = Rejections()
    bad = NAMES[0]

    def record(node: str) -> None:
        rejections.record(bad, node=node, build="1.40", message="no", predecessor=None)

    record("one")
    record("one")
    assert rejections.refuses(bad, "one", "1.40")
    assert not rejections.refuses(bad, "three", "1.40")
    record("two")
    assert rejections.refuses(bad, "three", "1.40")
    assert not rejections.refuses(bad, "three", "1.41")
    assert rejections.accepted([bad], build="1.40")
    assert not rejections.refuses(bad, "three", "1.40")
    assert rejections.refuses(bad, "one", "1.40")


def test_only_what_is_shown_is_looked_for_among_all_that_was_rejected() -> None:
    rejections = Rejections()
    for item in NAMES:
        rejections.record(item, node="one", build="", message="no", predecessor=None)
    rejections.record(NAMES[2], node="two", build="", message="no", predecessor=None)

    def concerning(node: str, *shown: Resource) -> list[str]:
        versions = frozenset(item.version for item in (*shown, cluster("other")))
        found = rejections.concerning(ResourceType.CLUSTER, node, "", shown=versions)
        return [rejection.item.name for rejection in found]

    assert concerning("one", NAMES[0]) == [NAMES[0].name]
    assert concerning("one") == []
    assert sorted(concerning("one", *NAMES)) == sorted(item.name for item in NAMES)
    assert concerning("three", *NAMES) == [NAMES[2].name]
    assert rejections.concerning(ResourceType.CLUSTER, "one", "1.40", shown=frozenset()) == []


def test_a_fleet_that_rejects_everything_is_remembered_within_bounds() -> None:
    rejections = Rejections()
    items = [cluster(str(number)) for number in range(150)]
    for item in items:
        for node in range(1000):
            rejections.record(item, node=str(node), build="", message="no", predecessor=None)
    kept = list(rejections.of(ResourceType.CLUSTER))
    assert [rejection.item for rejection in kept] == items[-len(kept) :], "the newest"
    assert 90_000 < sum(len(rejection.nodes) for rejection in kept) <= 100_000
    assert not rejections.refuses(items[0], "1", "")
    assert rejections.refuses(items[-1], "1", "")


def test_only_what_is_still_wanted_is_told() -> None:
    rejections = Rejections()
    rejections.record(NAMES[0], node="n", build="", message="no", predecessor=None)
    assert rejections.diagnostics(lambda _: False) == ()
    (diagnostic,) = rejections.diagnostics(lambda _: True)
    assert diagnostic.code == "RejectedByEnvoy"


def test_nothing_is_tried_before_a_rest() -> None:
    bisection = Bisection(NAMES, now=10.0)
    assert set(bisection.kept_back) == set(NAMES)
    assert not bisection.advance(10.0 + REST / 2)
    assert bisection.advance(10.0 + REST)
    assert len(bisection.trial) == 1


def test_a_trial_without_an_answer_ends_by_itself() -> None:
    bisection = Bisection(NAMES, now=0.0)
    moments = []
    while (wakes := bisection.wakes_at) is not None:
        moments.append(wakes)
        bisection.advance(wakes)
        assert len(moments) < 10
    assert bisection.done
    assert moments == sorted(moments)


@given(st.integers(2, 300), st.sets(st.integers(0, 299), max_size=3))
def test_every_culprit_is_found_and_no_other(count: int, guilty: set[int]) -> None:
    resources = [cluster(f"cluster-{number}") for number in range(count)]
    by_version = {item.version: item for item in resources}
    bad = {resources[number].version for number in guilty if number < count}
    bisection = Bisection(resources, now=0.0)
    found: set[str] = set()
    now, steps = 0.0, 0
    while not bisection.done:
        steps += 1
        now = max(now, bisection.wakes_at or now)
        bisection.advance(now)
        if bisection.trial & bad:
            culprit = bisection.failed([by_version[version] for version in bisection.trial], now)
            if culprit is not None:
                found.add(culprit.version)
        elif bisection.trial:
            bisection.passed()
    assert found == bad
    assert steps <= 10 + (len(bad) + 1) * 2 * math.log2(count)
