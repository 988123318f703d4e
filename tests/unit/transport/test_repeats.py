"""What another client has sent already is recognised, and means what it would mean anyhow."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.transport.repeats import Repeats
from tests.unit.transport.wire import HEADERS, Talk, call, data, frame, message

LONG = bytes(range(256)) * 200
OTHER = LONG[:-1] + b"!"


def opened(repeats: Repeats) -> Talk:
    talk = Talk(repeats=repeats)
    talk.opens(call(1))
    return talk


def test_the_same_bytes_of_another_client_are_the_same_message() -> None:
    repeats = Repeats()
    one, two, three = opened(repeats), opened(repeats), opened(repeats)
    for talk, payload in ((one, LONG), (two, LONG), (three, OTHER)):
        talk.hears(data(1, message(payload)))
        assert talk.calls[0].messages == [payload]
    assert two.calls[0].messages[0] is one.calls[0].messages[0]


def test_what_is_forgotten_is_read_again() -> None:
    repeats = Repeats()
    one, two = opened(repeats), opened(repeats)
    one.hears(data(1, message(LONG)))
    repeats.forget()
    two.hears(data(1, message(LONG)))
    assert two.calls[0].messages == [LONG]
    assert two.calls[0].messages[0] is not one.calls[0].messages[0]


def test_known_bytes_in_the_middle_of_a_message_are_a_part_of_it() -> None:
    repeats = Repeats()
    one, two = opened(repeats), opened(repeats)
    one.hears(data(1, message(LONG)))
    within = message(LONG)
    two.hears(data(1, message(b"x" + within)[:6]), data(1, within))
    assert two.calls[0].messages == [b"x" + within]


def test_known_bytes_do_not_interrupt_a_header_block() -> None:
    repeats = Repeats()
    one, two = opened(repeats), opened(repeats)
    one.hears(data(1, message(LONG)))
    two.hears(frame(HEADERS, 0, 3, b""), data(1, message(LONG)))
    assert two.goaway == 1
    assert two.calls[0].messages == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((LONG, OTHER, LONG[:20_000], b"short", b"")), st.booleans()),
        max_size=8,
    ),
    st.lists(st.integers(1, 120_000), max_size=6),
)
def test_clients_are_told_the_same_whether_repeats_are_recognised_or_not(
    sent: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    stream = b"".join(data(1, message(payload), size=7_000 if odd else 16_384)
                      for payload, odd in sent)  # fmt: skip
    shared = Repeats()
    talks = [opened(shared), opened(shared), opened(Repeats())]
    for talk in talks:
        start = 0
        for size in (*cuts, len(stream)):
            talk.hears(stream[start : start + size])
            start += size
    assert all(talk.calls[0].messages == [payload for payload, _ in sent] for talk in talks)
    first, again, alone = (talk.said() for talk in talks)
    assert first == again == alone
