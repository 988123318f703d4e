"""Collections: content decides the version, and work is done once."""

from __future__ import annotations

import gc
import sys

from controlplane.ads.cache import Collection, Collections, Sequences
from controlplane.ads.name_sets import NameSets
from controlplane.ads.wire import sotw_response
from controlplane.model.names import Host
from controlplane.translate.resources import Common, Resource, ResourceType


def cluster(name: str, body: bytes = b"x") -> Resource:
    return Resource.of(ResourceType.CLUSTER, name, name.encode() + body)


def collection(*items: Resource) -> Collection:
    return Collection.of(ResourceType.CLUSTER, items)


A, B = cluster("a"), cluster("b")


def test_the_version_follows_the_content_and_not_the_order() -> None:
    assert collection(A, B).version == collection(B, A).version
    assert collection(A, B).version != collection(A).version
    assert collection(A).version != collection(cluster("a", b"y")).version


def test_the_first_of_equal_names_wins() -> None:
    assert collection(A, cluster("a", b"y")).by_name == {"a": A}


def test_a_difference_has_what_changed_and_what_went() -> None:
    new = collection(cluster("a", b"y"), cluster("c"))
    difference = new.difference(collection(A, B))
    assert difference.changed == {"a", "c"}
    assert difference.removed == ("b",)
    assert new.difference(new).changed == frozenset()
    assert new.difference(None).changed == {"a", "c"}


def test_a_response_is_assembled_once() -> None:
    held = collection(A, B)
    sequences = Sequences(0)
    first = held.content(frozenset({"a"})).sotw(sequences)
    assert held.content(frozenset({"a"})).sotw(sequences) is first
    assert next(sequences) == 1
    assert held.content(frozenset({"a", "b"})) is held.content()


def test_the_news_of_a_response_are_worked_out_once_for_all_who_hold_the_same() -> None:
    def eds(name: str, body: bytes) -> Resource:
        return Resource.of(Common(ResourceType.CLUSTER, by_eds=True), name, name.encode() + body)

    before = collection(eds("a", b"x"), eds("b", b"x"))
    content = collection(eds("a", b"x"), eds("b", b"y"), eds("c", b"x")).content()
    news = content.news(before)
    assert news.eds_names == {"b", "c"}
    assert news.added == ("c",)
    assert content.news(before) is news
    assert content.news(collection()).added == ("a", "b", "c")


def test_an_overlay_replaces_and_leaves_out_and_is_shared() -> None:
    held = collection(A, B)
    older = cluster("a", b"older")
    shown = held.overlay({"a": older, "b": None})
    assert shown.by_name == {"a": older}
    assert held.overlay({"b": None, "a": older}) is shown
    assert held.overlay({}) is held


def test_classes_that_hold_the_same_change_to_the_same() -> None:
    collections, changed = Collections(), cluster("a", b"changed")
    held = collections.of(ResourceType.CLUSTER, (A, B))
    assert collections.of(ResourceType.CLUSTER, (A, B)) is held
    assert collections.of(ResourceType.CLUSTER, (B, A)) is not held
    shown = held.overlay({"a": changed})
    pass  # by the class that is first
    assert held.overlay({"a": changed}) is shown


def test_classes_that_hold_the_same_are_given_the_same_instead() -> None:
    held, changed = collection(A, B), cluster("a", b"changed")
    shown = held.replacing((changed, B))
    assert held.replacing((changed, B)) is shown
    assert shown.by_name == {"a": changed, "b": B}
    assert shown.difference(held).changed == {"a"}
    assert held.replacing((cluster("a"),)) is held


def test_equal_sets_of_names_are_one_object_while_they_are_used() -> None:
    sets = NameSets()
    first = sets.intern(["outbound|80||a.b", "outbound|90|v1|a.b", "other"])
    assert sets.intern({"other", "outbound|80||a.b", "outbound|90|v1|a.b"}) is first
    assert sorted(first.of_hosts(frozenset({Host("a.b"), Host("nobody")}))) == [
        "outbound|80||a.b",
        "outbound|90|v1|a.b",
    ]
    del first
    gc.collect()
    assert sets.intern(["other"]).names == {"other"}


def test_a_superseded_collection_frees_its_responses() -> None:
    held = collection(A, B)
    payload = held.content().sotw(Sequences(0)).payload
    holders = sys.getrefcount(payload)
    held.superseded()
    assert sys.getrefcount(payload) < holders


def test_what_a_response_has_in_common_with_the_one_before_is_the_same_bytes() -> None:
    sequences = Sequences()
    many = tuple(cluster(f"cluster-{number}", b"x" * number) for number in range(40))
    others = (many[0], cluster("cluster-1", b"changed"), *many[2:])
    for resources in (many, (*many, A), others, many[:35], (B, *many), (*many[:39], B), (A,)):
        content = collection(*resources).content()
        made = content.sotw(sequences)
        assert made.payload[made.body_at :] == sotw_response(b"", resources)
        again = content.sotw(sequences, after=made.sequence)  # under another header
        assert again.payload[again.body_at :] == sotw_response(b"", resources)
