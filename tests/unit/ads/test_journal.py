"""The journal: what each push was, whom it reached and what came back, within bounds."""

from __future__ import annotations

from controlplane.ads.journal import LIMIT, Journal
from controlplane.ads.types import CDS, Nonce, Send, Version
from controlplane.model.diff import Change
from controlplane.model.meta import ObjectRef

RULE = ObjectRef("DestinationRule", "default", "any")


def sent(push: int) -> Send:
    return Send(CDS.url, "CDS", Nonce("n"), Version("v"), b"", ("a",), push=push)


def journal(*, size: int = 256) -> Journal:
    return Journal(lambda: 1000.0, size=size)


def test_an_entry_says_why_whom_it_reached_and_what_came_back() -> None:
    made = journal()
    number = made.open(Change(objects=frozenset({RULE})), reason="config")
    for connection in ("one", "two", "three"):
        made.sent(connection, sent(number))
    made.acknowledged("one", CDS, version="v", seconds=0.25, push=number)
    made.acknowledged("three", CDS, version="v", seconds=0.5, push=number)
    made.rejected("two", CDS, message="no", suspects=["a"], culprits=[], push=number)
    (entry,) = made.entries()
    assert (entry.reason, entry.objects, entry.time) == ("config", (RULE,), 1000.0)
    assert entry.proxies == {"one": 0.25, "two": None, "three": 0.5}
    assert (entry.sent, entry.acknowledged, entry.slowest_ack) == (3, 2, 0.5)
    assert [(item.connection, item.resources) for item in entry.rejections] == [("two", ("a",))]


def test_answers_to_requests_belong_to_no_push() -> None:
    made = journal()
    made.open(Change(), reason="full")
    made.sent("one", sent(0))
    made.acknowledged("one", CDS, version="v", seconds=1.0, push=0)
    (entry,) = made.entries()
    assert (entry.sent, entry.acknowledged, entry.proxies) == (0, 0, {})


def test_it_forgets_the_oldest_and_names_no_more_than_its_limit() -> None:
    made = journal(size=3)
    objects = frozenset(ObjectRef("Service", "default", str(name)) for name in range(LIMIT + 50))
    numbers = [made.open(Change(objects=objects), reason="config") for _ in range(5)]
    assert [entry.number for entry in made.entries()] == numbers[2:]
    newest = made.entries()[-1]
    for number in range(LIMIT + 50):
        made.sent(str(number), sent(newest.number))
        made.rejected(
            str(number), CDS, message="x" * 1000, suspects=(), culprits=(), push=newest.number
        )
    assert len(newest.objects) == len(newest.proxies) == len(newest.rejections) == LIMIT
    assert newest.sent == LIMIT + 50, "they are counted all the same"
    assert all(len(item.message) == LIMIT for item in newest.rejections)
    made.sent("late", sent(numbers[0]))  # of a push that is forgotten
