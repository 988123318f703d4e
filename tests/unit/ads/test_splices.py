"""Responses whose bytes are taken out of those of the response before."""

from __future__ import annotations

import random
from typing import NamedTuple
from unittest import mock

import pytest

from controlplane.ads.cache import Collection, Content, Sequences
from controlplane.ads.splices import Splice
from controlplane.translate.resources import Joined, Origin, Resource, ResourceType, digest

COUNT = 60


class Part(NamedTuple):
    """A virtual host, or something like it."""

    beginning: bytes
    tail: bytes

    @property
    def digest(self) -> bytes:
        return digest(self.beginning, self.tail)

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def origins(self) -> tuple[Origin, ...]:
        return ()


def part(chance: random.Random) -> Part:
    return Part(
        chance.randbytes(chance.randrange(1, 300)), chance.choice((b"", b"tail", b"a longer tail"))
    )


def collection(parts: list[Part], *, head: bytes = b"head") -> Collection:
    joined = Joined(head, tuple(parts), b"end")
    return Collection.of(ResourceType.ROUTE, [Resource.of(ResourceType.ROUTE, "9080", joined)])


def assembled(content: Content, *, delta: bool) -> bytes:
    numbers = Sequences()
    return (content.delta(numbers) if delta else content.sotw(numbers)).payload


@pytest.mark.parametrize("delta", [False, True])
def test_any_chain_of_changes_gives_what_joining_all_parts_gives(delta: bool) -> None:
    chance = random.Random(5)
    parts = [part(chance) for _ in range(COUNT)]
    held = collection(parts)
    assembled(held.content(), delta=delta)
    spliced = 0
    for _ in range(200):
        parts = list(parts)
        # Few of them, among them the first and the last, or none, or more than are spliced.
        for at in chance.sample(range(COUNT), chance.choice((0, 1, 1, 1, 2, 5, 30))):
            parts[at] = part(chance)
        if chance.random() < 0.05:
            parts.append(part(chance))
            del parts[0]
        head = chance.choice((b"head", b"head", b"head", b"another"))
        newer = collection(parts, head=head)
        held.superseded(newer)
        with mock.patch.object(Splice, "of", wraps=Splice.of) as whole:
            made = assembled(newer.content(), delta=delta)
            spliced += not whole.called
        assert made == assembled(collection(parts, head=head).content(), delta=delta)
        held = newer
    assert spliced > 80


def test_of_parts_that_stay_nothing_is_read() -> None:
    chance = random.Random(6)
    parts: list[Part] = [part(chance) for _ in range(COUNT)]
    held = collection(parts)
    assembled(held.content(), delta=False)
    changed = [*parts[:7], part(chance), *parts[8:]]
    newer = collection(changed)
    held.superseded(newer)
    expected = assembled(collection(changed).content(), delta=False)
    unreadable = mock.Mock(side_effect=AssertionError("a part that stays is read"))
    with mock.patch.object(Joined, "pieces", property(unreadable)):
        assert assembled(newer.content(), delta=False) == expected


def test_a_response_of_one_protocol_serves_for_the_next_of_the_other() -> None:
    chance = random.Random(7)
    parts = [part(chance) for _ in range(COUNT)]
    held = collection(parts)
    assembled(held.content(), delta=True)
    changed = [*parts[:-1], part(chance)]
    newer = collection(changed)
    held.superseded(newer)
    fresh = collection(changed).content()
    assert assembled(newer.content(), delta=False) == assembled(fresh, delta=False)
    assert assembled(newer.content(), delta=True) == assembled(fresh, delta=True)


def test_a_former_response_is_kept_no_longer_than_until_the_next_is_made_or_superseded() -> None:
    chance = random.Random(8)
    parts = [part(chance) for _ in range(COUNT)]
    first, second, third = (
        collection([*parts[:at], part(chance), *parts[at + 1 :]]) for at in (1, 2, 3)
    )
    assembled(first.content(), delta=False)
    former = first.content()
    first.superseded(second)
    assert second._former == {(None, ()): former}
    content = second.content()
    assert second._former == {}
    assert content._former is former
    second.superseded(third)  # before anybody took it
    assert content._former is None
    assembled(third.content(), delta=False)
    assert third.content()._former is None


def test_several_resources_and_removed_names_are_joined_as_ever() -> None:
    chance = random.Random(9)
    one, two = (
        Resource.of(
            ResourceType.ROUTE, name, Joined(b"h", tuple(part(chance) for _ in range(3)), b"t")
        )
        for name in ("80", "90")
    )
    held, newer = (Collection.of(ResourceType.ROUTE, [one, two]) for _ in range(2))
    assembled(held.content(), delta=False)
    held.superseded(newer)
    assert newer._former == {}
    expected = assembled(Content(ResourceType.ROUTE, (one, two), ()), delta=False)
    assert assembled(newer.content(), delta=False) == expected
    gone = Content(ResourceType.ROUTE, (one,), ("gone",))
    assert assembled(gone, delta=True).endswith(b"gone")
