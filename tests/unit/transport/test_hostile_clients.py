"""Whatever a client sends, the worst that happens is a GOAWAY, and what it costs is bounded."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controlplane.transport import limits
from controlplane.transport.headers import StatusCode
from tests.unit.transport.wire import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HEADERS_OF_A_CALL,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Talk,
    block,
    call,
    data,
    frame,
    message,
    payload_of,
    read,
    settings,
    window_update,
)

PROTOCOL, FLOW, SIZE, COMPRESSION, CALM = 1, 3, 6, 9, 11
FEW = hypothesis_settings(max_examples=150, deadline=None)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(DATA, 0, 0, b"x"), PROTOCOL, id="data of no stream"),
        pytest.param(data(1, b"x"), PROTOCOL, id="data of an idle stream"),
        pytest.param(window_update(5, 1), PROTOCOL, id="window of an idle stream"),
        pytest.param(frame(RST_STREAM, 0, 5, bytes(4)), PROTOCOL, id="reset of an idle stream"),
        pytest.param(call(2), PROTOCOL, id="even number"),
        pytest.param(call(0), PROTOCOL, id="headers of no stream"),
        pytest.param(frame(HEADERS, PADDED, 1, b"\x05abc"), PROTOCOL, id="too much padding"),
        pytest.param(frame(HEADERS, WITH_PRIORITY, 1, b"abc"), SIZE, id="no room for priority"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION, id="no HPACK"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\xff" * 9), COMPRESSION, id="large index"),
        pytest.param(
            frame(HEADERS, 0, 1) + frame(PING, 0, 0, bytes(8)), PROTOCOL, id="interrupted"
        ),
        pytest.param(frame(HEADERS, 0, 1) + frame(CONTINUATION, 4, 3), PROTOCOL, id="other stream"),
        pytest.param(frame(CONTINUATION, 4, 1), PROTOCOL, id="continuation of nothing"),
        pytest.param(frame(PUSH_PROMISE, 4, 1, bytes(4)), PROTOCOL, id="promise"),
        pytest.param(frame(PRIORITY, 0, 1, bytes(4)), SIZE, id="short priority"),
        pytest.param(frame(RST_STREAM, 0, 1, bytes(3)), SIZE, id="short reset"),
        pytest.param(frame(PING, 0, 0, bytes(7)), SIZE, id="short ping"),
        pytest.param(frame(PING, 0, 1, bytes(8)), PROTOCOL, id="ping of a stream"),
        pytest.param(frame(GOAWAY, 0, 0, bytes(7)), SIZE, id="short goaway"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE, id="short window"),
        pytest.param(window_update(0, 0), PROTOCOL, id="window of nothing"),
        pytest.param(window_update(0, 2**31 - 1), FLOW, id="window overflow"),
        pytest.param(frame(SETTINGS, 0, 1), PROTOCOL, id="settings of a stream"),
        pytest.param(frame(SETTINGS, 0, 0, bytes(5)), SIZE, id="short settings"),
        pytest.param(frame(SETTINGS, ACK, 0, bytes(6)), SIZE, id="acknowledgement with data"),
        pytest.param(settings(_2=2), PROTOCOL, id="push of 2"),
        pytest.param(settings(_4=2**31), FLOW, id="initial window over 2 GiB"),
        pytest.param(settings(_5=100), PROTOCOL, id="small frames"),
        pytest.param(settings(_5=2**24), PROTOCOL, id="huge frames"),
        pytest.param(frame(99, 0, 0, bytes(16_385)), SIZE, id="frame too large"),
        pytest.param(
            call(1)
            + window_update(1, 2**31 - 1 - DEFAULT_WINDOW)
            + settings(_4=DEFAULT_WINDOW + 1),
            FLOW,
            id="initial window overflows a stream's",
        ),
    ],
)
def test_a_broken_rule_ends_the_connection_with_its_code(sent: bytes, code: int) -> None:
    talk = Talk()
    talk.opens()
    talk.hears(sent)
    assert talk.goaway == code, talk.connection.failed
    assert talk.connection.finished


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(window_update(1, 0), PROTOCOL, id="window of nothing"),
        pytest.param(window_update(1, 2**31 - 1), FLOW, id="window overflow"),
        pytest.param(call(1), PROTOCOL, id="headers in the middle"),
    ],
)
def test_a_mistake_of_a_stream_ends_that_stream(sent: bytes, code: int) -> None:
    talk = Talk()
    talk.opens(call(1), call(3))
    talk.hears(sent, data(3, message(b"on")))
    resets = [one for one in talk.said() if one.kind == RST_STREAM]
    assert [(one.stream, one.payload) for one in resets] == [(1, struct.pack(">I", code))]
    assert len(talk.calls[0].ends) == 1
    assert talk.calls[1].messages == [b"on"]


@pytest.mark.parametrize(
    "fields",
    [
        HEADERS_OF_A_CALL[1:],
        (*HEADERS_OF_A_CALL, (":path", "/again")),
        (*HEADERS_OF_A_CALL, ("connection", "close")),
        (*HEADERS_OF_A_CALL, ("Upper", "case")),
        (*HEADERS_OF_A_CALL, (":status", "200")),
        (("te", "trailers"), *HEADERS_OF_A_CALL),
    ],
)
def test_a_malformed_request_is_reset(fields: tuple[tuple[str, str], ...]) -> None:
    talk = Talk()
    talk.opens()
    talk.hears(frame(HEADERS, END_HEADERS, 1, block(*fields)), call(3))
    resets = [one for one in talk.said() if one.kind == RST_STREAM]
    assert [one.stream for one in resets] == [1]
    assert len(talk.calls) == 1


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"P\x00"]
)
def test_other_protocols_are_turned_away(first: bytes) -> None:
    talk = Talk()
    talk.hears(first)
    assert talk.goaway == PROTOCOL


def test_the_first_frame_has_to_be_settings() -> None:
    talk = Talk()
    talk.hears(PREFACE, frame(PING, 0, 0, bytes(8)))
    assert talk.goaway == PROTOCOL


# --- floods -------------------------------------------------------------------------------


def opened_and_reset(number: int) -> bytes:
    """A stream that lives for no time."""
    return call(2 * number + 101) + frame(RST_STREAM, 0, 2 * number + 101, bytes(4))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "pings": lambda number: frame(PING, 0, 0, bytes(8)),
    "settings": lambda number: settings(_3=1),
    "resets": opened_and_reset,
    "empty data": lambda number: frame(DATA, 0, 1),
    "padding": lambda number: frame(DATA, PADDED, 1, b"\x00"),
    "priorities": lambda number: frame(PRIORITY, 0, 1, bytes(5)),
    "extensions": lambda number: frame(99, 0, 0),
    "refused calls": lambda number: call(2 * number + 101, path="/none"),
    "malformed calls": lambda number: frame(
        HEADERS, END_HEADERS, 2 * number + 101, block((":method", "POST"))
    ),
    "data of the dead": lambda number: data(3, b"x"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_connection_and_a_burst_does_not(kind: str) -> None:
    talk = Talk()
    talk.opens(call(1), call(3), frame(RST_STREAM, 0, 3, bytes(4)))
    make = FLOODS[kind]
    for number in range(1000):
        talk.hears(make(number))
    assert talk.connection.failed is None
    for number in range(1000, 3000):
        talk.hears(make(number))
        talk.now += 0.001
    assert talk.goaway == CALM
    assert talk.calls[0].ends == ["too many frames that bring nothing"]


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_in_one_piece_ends_the_connection(kind: str) -> None:
    talk = Talk()
    talk.opens(call(1), call(3), frame(RST_STREAM, 0, 3, bytes(4)))
    make = FLOODS[kind]
    talk.hears(*(make(number) for number in range(1000)))
    assert talk.connection.failed is None
    talk.hears(*(make(number) for number in range(1000, 3000)))
    assert talk.goaway == CALM


def test_what_comes_slowly_is_no_flood() -> None:
    talk = Talk()
    talk.opens(call(1))
    for _ in range(5000):
        talk.hears(frame(PING, 0, 0, bytes(8)))
        talk.now += 0.02
    assert talk.connection.failed is None


@pytest.mark.parametrize("size", [0, 1000])
def test_headers_without_end_are_not_waited_for(size: int) -> None:
    talk = Talk()
    talk.opens()
    talk.hears(frame(HEADERS, 0, 1), *[frame(CONTINUATION, 0, 1, bytes(size))] * 100)
    assert talk.goaway == CALM


def test_a_header_list_that_unpacks_to_more_than_is_taken_ends_the_connection() -> None:
    talk = Talk()
    talk.opens()
    bomb = b"\x40\x01a\x7f\x81\x1e" + bytes(b"v" * 4000) + b"\xbe" * 1000
    talk.hears(frame(HEADERS, END_HEADERS, 1, bomb))
    assert talk.goaway in (CALM, COMPRESSION)


def test_answers_that_are_not_read_are_not_collected_for_ever() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.blocks()
    for _ in range(20_000):
        talk.hears(frame(PING, 0, 0, bytes(8)))
        talk.now += 0.02
    assert talk.connection.failed is not None
    talk.unblocks()
    assert len(talk.output) < 2 * limits.UNREAD


def test_streams_over_the_limit_are_refused() -> None:
    talk = Talk()
    talk.opens()
    for number in range(limits.STREAMS + 2):
        talk.hears(call(2 * number + 1))
    resets = [one for one in talk.said() if one.kind == RST_STREAM]
    assert [one.payload[-1] for one in resets] == [7, 7]
    assert len(talk.calls) == limits.STREAMS


def test_unfinished_messages_are_bounded_together() -> None:
    talk = Talk()
    talk.opens(*(call(2 * number + 1) for number in range(40)))
    part = message(bytes(4_000_000))[:3_000_000]
    for number in range(40):
        for start in range(0, len(part), 100_000):
            if not talk.calls[number].ends:
                talk.hears(data(2 * number + 1, part[start : start + 100_000]))
    ended = [served for served in talk.calls if served.ends]
    assert len(ended) >= 40 - limits.HELD // len(part) - 1
    assert all(served.ends == ["too many unfinished messages"] for served in ended)
    talk.hears(data(1, bytes(1_000_005)))
    assert len(talk.calls[0].messages) == 1, "the others go on"


# --- anything at all ----------------------------------------------------------------------


def conversation() -> bytes:
    """A bit of everything that a good client says."""
    return b"".join(
        (
            PREFACE,
            settings(_2=0, _4=1_000_000),
            window_update(0, 1_000_000),
            call(1),
            data(1, message(b"one") + message(bytes(40_000)) + message(b"")),
            frame(PING, 0, 0, bytes(8)),
            frame(HEADERS, 0, 3, block(*HEADERS_OF_A_CALL)[:7]),
            frame(CONTINUATION, END_HEADERS, 3, block(*HEADERS_OF_A_CALL)[7:]),
            frame(DATA, PADDED, 3, b"\x04" + message(b"padded") + bytes(4)),
            window_update(3, 77),
            data(3, message(b"last"), flags=END_STREAM),
            frame(RST_STREAM, 0, 1, bytes(4)),
            call(5, path="/none"),
            data(5, message(b"into nothing")),
        )
    )


def events_of(talk: Talk) -> list[list[tuple[str, bytes | str]]]:
    return [served.events for served in talk.calls]


@FEW
@given(st.lists(st.integers(1, 5000), max_size=60))
def test_it_does_not_matter_how_the_bytes_are_cut(sizes: list[int]) -> None:
    whole, expected = conversation(), Talk()
    expected.hears(whole)
    assert expected.connection.failed is None
    assert len(events_of(expected)[0]) == 4
    talk, position = Talk(), 0
    for size in sizes:
        talk.hears(whole[position : position + size])
        position += size
    talk.hears(whole[position:])
    assert events_of(talk) == events_of(expected)
    assert talk.output == expected.output


@FEW
@given(
    messages=st.lists(st.integers(0, 50_000), max_size=6),
    frames=st.lists(st.integers(1, 16_384), min_size=1, max_size=8),
    pieces=st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
)
def test_it_does_not_matter_how_messages_are_framed(
    messages: list[int], frames: list[int], pieces: list[int]
) -> None:
    sent = [bytes((number,)) * size for number, size in enumerate(messages)]
    whole = b"".join(map(message, sent))
    said, position, sizes = b"", 0, itertools.cycle(frames)
    while position < len(whole):
        size = max(next(sizes), len(whole) // 100)
        said += data(1, whole[position : position + size], size=16_384)
        position += size
    talk, position, sizes = Talk(), 0, itertools.cycle(pieces)
    talk.opens(call(1))
    while position < len(said):
        size = max(next(sizes), len(said) // 100)
        talk.hears(said[position : position + size])
        position += size
    assert talk.connection.failed is None
    assert talk.calls[0].messages == sent


def test_it_does_not_matter_when_bytes_come_one_by_one() -> None:
    whole, expected, talk = conversation(), Talk(), Talk()
    expected.hears(whole)
    for number in range(len(whole)):
        talk.hears(whole[number : number + 1])
    assert events_of(talk) == events_of(expected)
    assert talk.output == expected.output


def check(talk: Talk) -> None:
    """What holds whatever was said."""
    if talk.connection.failed is not None:
        assert talk.goaway is not None
        assert talk.connection.finished
    talk.connection.lost("closed")
    assert all(len(served.ends) == 1 for served in talk.calls)
    assert all(served.events[-1][0] == "end" for served in talk.calls)
    assert talk.connection._held == 0
    assert not talk.connection._outbox.ready
    for one in read(bytes(talk.output)):
        assert len(one.payload) <= 16_384


@FEW
@given(st.binary(max_size=400))
def test_garbage_is_turned_away(garbage: bytes) -> None:
    talk = Talk()
    talk.hears(garbage)
    check(talk)
    talk = Talk()
    talk.hears(PREFACE, settings(), call(1), garbage)
    check(talk)


@FEW
@given(st.integers(0, 45_000), st.integers(0, 255), st.integers(0, 40))
def test_a_byte_that_is_wrong_does_no_harm(position: int, value: int, more: int) -> None:
    whole = bytearray(conversation())
    for step in range(1 + more):
        whole[(position + step * 97) % len(whole)] = value
    talk = Talk()
    talk.hears(bytes(whole))
    check(talk)


any_frame = st.builds(
    frame,
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 1, 2, 3, 5, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                b"",
                block(*HEADERS_OF_A_CALL),
                message(b"hello"),
                struct.pack(">I", 1),
                struct.pack(">I", 2**31 - 1),
                struct.pack(">HI", 4, 0),
                struct.pack(">HI", 4, 70_000),
                bytes(8),
            ]
        ),
    ),
)


@FEW
@given(st.lists(any_frame, max_size=40))
def test_any_frames_in_any_order_do_no_harm(sent: list[bytes]) -> None:
    talk = Talk()
    talk.opens(call(1))
    for one in sent:
        talk.hears(one)
        for served in talk.calls:
            if not served.ends and (not served.waits or served.events[-1:] == [("writable", "")]):
                served.waits = not served.call.send(bytes(100))
    check(talk)


class Windows:
    """A client that counts what it allows."""

    def __init__(self) -> None:
        self.initial = DEFAULT_WINDOW
        self.connection = DEFAULT_WINDOW
        self.streams = {1: DEFAULT_WINDOW, 3: DEFAULT_WINDOW}

    def take(self, talk: Talk) -> bytes:
        taken = b""
        for one in talk.said():
            if one.kind == DATA:
                self.connection -= len(one.payload)
                self.streams[one.stream] -= len(one.payload)
                assert self.connection >= 0, "more than the connection's window"
                assert self.streams[one.stream] >= 0, "more than the stream's window"
                taken += one.payload if one.stream == 1 else b""
        return taken


@FEW
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([0, 1, 3]), st.integers(1, 90_000)),
            st.tuples(st.just("initial"), st.integers(0, 200_000)),
            st.tuples(st.just("blocks"), st.booleans()),
        ),
        max_size=30,
    ),
    st.integers(0, 400_000),
)
def test_no_more_is_sent_than_allowed_and_all_of_it_in_the_end(
    steps: list[tuple[str | int, int]], size: int
) -> None:
    talk, client = Talk(), Windows()
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    talk.opens(call(1), call(3))
    for served in talk.calls:
        served.call.send(body)
    received = client.take(talk)
    for what, amount in steps:
        if what == "blocks":
            talk.blocks() if amount else talk.unblocks()
        elif what == "initial":
            # Windows that became negative are no fault of the server's.
            received += client.take(talk)
            change, client.initial = amount - client.initial, amount
            client.streams = {key: value + change for key, value in client.streams.items()}
            talk.hears(settings(_4=amount))
        elif what == 0:
            client.connection += amount
            talk.hears(window_update(0, amount))
        else:
            assert isinstance(what, int)
            client.streams[what] += amount
            talk.hears(window_update(what, amount))
        received += client.take(talk)
    talk.unblocks()
    received += client.take(talk)
    for stream in (0, 1, 3):
        talk.hears(window_update(stream, 2**30))
    client.connection += 2**30
    client.streams = {key: value + 2**30 for key, value in client.streams.items()}
    received += client.take(talk)
    assert received == message(body)
    assert talk.connection.failed is None
    for served in talk.calls:
        served.call.end(StatusCode.OK)
        assert [kind for kind, _ in served.events] in (["writable", "end"], ["end"])


def test_a_frame_of_a_dead_stream_uses_the_connections_window() -> None:
    talk = Talk()
    talk.opens(call(1), frame(RST_STREAM, 0, 1, bytes(4)))
    for _ in range(600):
        talk.hears(data(1, bytes(16_384)))
        talk.now += 1.0
    granted = sum(
        int.from_bytes(one.payload, "big")
        for one in talk.said()
        if one.kind == WINDOW_UPDATE and not one.stream
    )
    assert 600 * 16_384 - granted <= limits.CONNECTION_WINDOW // 2
    assert payload_of(talk.said(), 1) == b""
