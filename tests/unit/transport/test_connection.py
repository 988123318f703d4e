"""One HTTP/2 connection: calls, windows, time, and the ends of it."""

from __future__ import annotations

import itertools

import pytest

from controlplane.transport import limits, outbox
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
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Talk,
    block,
    call,
    data,
    fields,
    frame,
    message,
    payload_of,
    settings,
    window_update,
)

WIDE = settings(_4=2**31 - 1) + window_update(0, 2**31 - 1 - DEFAULT_WINDOW)


def status(talk: Talk) -> tuple[str, str]:
    """The gRPC status in the last trailers."""
    found = [one for one in talk.said() if one.kind == HEADERS and one.flags & END_STREAM]
    last = fields(found[-1].payload)
    return last["grpc-status"], last.get("grpc-message", "")


def test_the_server_greets_and_acknowledges_settings() -> None:
    talk = Talk()
    assert [one.kind for one in talk.said()] == [SETTINGS, WINDOW_UPDATE]
    talk.hears(PREFACE, settings())
    assert [(one.kind, one.flags) for one in talk.said()] == [(SETTINGS, ACK)]


def test_messages_come_in_order_and_responses_after_their_headers() -> None:
    talk = Talk()
    talk.opens(call(1), data(1, message(b"one") + message(b"") + message(b"three")))
    (served,) = talk.calls
    assert served.messages == [b"one", b"", b"three"]
    assert served.call.send(b"answer")
    assert served.call.send(b"")
    said = talk.said()
    assert [one.kind for one in said] == [HEADERS, DATA, DATA]
    assert fields(said[0].payload) == {":status": "200", "content-type": "application/grpc"}
    assert payload_of(said, 1) == message(b"answer") + message(b"")
    served.call.end(StatusCode.OK)
    said = talk.said()
    assert fields(said[0].payload) == {"grpc-status": "0"}
    assert said[1].kind == RST_STREAM
    assert served.ends == ["ok"]


def test_headers_may_be_padded_prioritised_and_continued() -> None:
    talk = Talk()
    whole = block(*HEADERS_OF_A_CALL)
    first = b"\x03" + bytes(5) + whole[:10] + bytes(3)
    talk.opens(
        frame(HEADERS, PADDED | WITH_PRIORITY, 1, first),
        frame(CONTINUATION, 0, 1, whole[10:20]),
        frame(CONTINUATION, END_HEADERS, 1, whole[20:]),
        frame(DATA, PADDED, 1, b"\x02" + message(b"padded") + bytes(2)),
    )
    assert talk.calls[0].messages == [b"padded"]


def test_a_half_close_is_told_after_the_messages() -> None:
    talk = Talk()
    talk.opens(call(1), data(1, message(b"last"), flags=END_STREAM))
    assert talk.calls[0].events == [("message", b"last"), ("half_close", "")]


def test_half_closing_in_a_message_is_an_error() -> None:
    talk = Talk()
    talk.hears(PREFACE, settings(), call(1), data(1, message(b"last")[:-1], flags=END_STREAM))
    assert status(talk) == ("13", "the last message is not complete")


def test_a_reset_ends_the_call_once_and_without_a_word() -> None:
    talk = Talk()
    talk.opens(call(1), data(1, message(b"one")))
    talk.hears(frame(RST_STREAM, 0, 1, bytes(4)), frame(RST_STREAM, 0, 1, bytes(4)))
    talk.calls[0].call.end(StatusCode.OK)
    assert not talk.calls[0].call.send(b"too late")
    talk.connection.lost("closed")
    assert talk.calls[0].ends == ["cancelled by the client"]
    assert talk.said() == []


# --- windows ------------------------------------------------------------------------------


def test_a_response_is_cut_at_the_windows_and_goes_on_when_they_grow() -> None:
    talk = Talk()
    talk.opens(call(1))
    served = talk.calls[0]
    body = bytes(range(256)) * 400
    whole = message(body)
    assert not served.call.send(body)
    assert served.events == []
    said = talk.said()
    assert payload_of(said, 1) == whole[:DEFAULT_WINDOW]
    assert max(len(one.payload) for one in said) == 16_384
    talk.hears(window_update(1, 10_000))
    assert talk.said() == [], "the connection's window is used up"
    talk.hears(window_update(0, 1_000_000))
    assert payload_of(talk.said(), 1) == whole[DEFAULT_WINDOW : DEFAULT_WINDOW + 10_000]
    talk.hears(window_update(1, 1_000_000))
    assert payload_of(talk.said(), 1) == whole[DEFAULT_WINDOW + 10_000 :]
    assert served.events == [("writable", "")]


def test_a_window_of_one_byte_is_served_byte_by_byte() -> None:
    talk = Talk()
    talk.opens(settings(_4=0), call(1))
    talk.calls[0].call.send(b"abc")
    talk.said()
    whole = b""
    for _ in message(b"abc"):
        talk.hears(window_update(1, 1))
        (one,) = talk.said()
        assert len(one.payload) == 1
        whole += one.payload
    assert whole == message(b"abc")
    assert talk.calls[0].events == [("writable", "")]


def test_a_window_that_shrinks_below_nothing_has_to_be_filled_first() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.calls[0].call.send(bytes(60_000))
    talk.hears(settings(_4=0))
    talk.said()
    assert not talk.calls[0].call.send(b"more")
    talk.hears(window_update(1, 60_005))
    assert payload_of(talk.said(), 1) == b""
    talk.hears(window_update(1, 2))
    assert payload_of(talk.said(), 1) == message(b"more")[:2]
    talk.hears(settings(_4=100))
    assert payload_of(talk.said(), 1) == message(b"more")[2:]


def test_larger_frames_are_sent_when_the_client_takes_them() -> None:
    talk = Talk()
    talk.opens(WIDE, settings(_5=2**24 - 1), call(1))
    assert talk.calls[0].call.send(bytes(1_000_000))
    sizes = [len(one.payload) for one in talk.said() if one.kind == DATA]
    assert sum(sizes) == 1_000_005
    assert max(sizes) == outbox.OUR_FRAME_SIZE


def test_equal_bytes_are_the_same_on_every_connection() -> None:
    body = bytes(range(256)) * 1000
    wholes = []
    for stream in (1, 1, 7):
        talk = Talk()
        talk.opens(WIDE, call(stream))
        assert talk.calls[0].call.send(body)
        wholes.append(payload_of(talk.said(), stream))
    assert wholes == [message(body)] * 3


def test_streams_take_turns() -> None:
    talk = Talk()
    talk.opens(WIDE, call(1), call(3))
    talk.blocks()
    for served in talk.calls:
        assert not served.call.send(bytes(500_000))
    talk.unblocks()
    said = talk.said()
    order = [one.stream for one in said if one.kind == DATA]
    turns = sum(a != b for a, b in itertools.pairwise(order))
    assert turns >= 10
    assert [len(payload_of(said, stream)) for stream in (1, 3)] == [500_005] * 2
    assert [served.events for served in talk.calls] == [[("writable", "")]] * 2


def test_what_a_client_sends_is_given_back() -> None:
    talk = Talk()
    talk.opens(call(1))
    for _ in range(40):
        talk.hears(data(1, message(bytes(1_000_000))))
    assert len(talk.calls[0].messages) == 40
    granted = {0: 0, 1: 0}
    for one in talk.said():
        if one.kind == WINDOW_UPDATE:
            granted[one.stream] += int.from_bytes(one.payload, "big")
    sent = 40 * 1_000_005
    assert sent - granted[1] <= limits.STREAM_WINDOW
    assert sent - granted[0] <= limits.CONNECTION_WINDOW


def test_a_call_on_hold_is_given_nothing_until_it_goes_on() -> None:
    talk = Talk(hold=True)
    talk.opens(call(1))
    talk.hears(data(1, message(bytes(60_000))))
    assert talk.said() == []
    assert len(talk.calls[0].messages) == 1
    talk.calls[0].call.resume()
    (one,) = talk.said()
    assert (one.kind, one.stream) == (WINDOW_UPDATE, 1)
    talk.hears(data(1, message(bytes(900_000))))
    assert len(talk.calls[0].messages) == 2


def test_more_than_a_window_is_an_error_of_its_stream() -> None:
    talk = Talk()
    talk.opens(call(1), call(3))
    held = talk.calls[0]
    held.call.hold()
    size = limits.STREAM_WINDOW
    talk.hears(data(1, message(bytes(size + 1))))
    resets = [one for one in talk.said() if one.kind == RST_STREAM]
    assert [(one.stream, one.payload[-1]) for one in resets] == [(1, 3)]
    talk.hears(data(3, message(b"on")))
    assert talk.calls[1].messages == [b"on"]


# --- time ---------------------------------------------------------------------------------


def test_a_quiet_client_is_asked_whether_it_is_there() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.passes(29)
    assert talk.said() == []
    talk.passes(3)
    (ping,) = talk.said()
    assert ping.kind == PING
    talk.hears(frame(PING, ACK, 0, ping.payload))
    talk.passes(20)
    assert talk.connection.failed is None
    talk.passes(40)
    assert talk.connection.failed == "the client does not answer"
    assert talk.calls[0].ends == ["the client does not answer"]


def test_whoever_says_nothing_at_first_is_not_waited_for() -> None:
    talk = Talk()
    talk.hears(PREFACE[:5])
    talk.passes(9)
    assert talk.connection.failed is None
    talk.hears(PREFACE[5:8])
    talk.passes(2)
    assert talk.connection.failed == "no HTTP/2 settings came in time"


def test_a_response_that_is_not_taken_ends_the_call_after_a_minute() -> None:
    talk = Talk()
    talk.opens(settings(_4=100), call(1), call(3))
    talk.calls[0].call.send(bytes(1000))
    for _ in range(59):
        talk.passes(1)
        talk.hears(frame(PING, 0, 0, bytes(8)))
    assert talk.calls[0].ends == []
    talk.said()
    talk.passes(1)
    assert status(talk) == ("8", "no response taken for 60 s")
    assert [len(served.ends) for served in talk.calls] == [1, 0]


# --- ends ---------------------------------------------------------------------------------


def test_draining_lets_calls_end_and_takes_no_new_ones() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.connection.drain()
    (goaway,) = talk.said()
    assert goaway.kind == GOAWAY
    assert goaway.payload[:8] == bytes((0, 0, 0, 1, 0, 0, 0, 0))
    talk.hears(call(3))
    assert len(talk.calls) == 1
    assert not talk.connection.finished
    talk.calls[0].call.send(b"still served")
    talk.calls[0].call.end(StatusCode.UNAVAILABLE, "bye")
    assert talk.connection.finished


def test_a_client_that_goes_away_is_served_to_the_end() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.hears(frame(GOAWAY, 0, 0, bytes(8)))
    assert not talk.connection.finished
    talk.hears(frame(RST_STREAM, 0, 1, bytes(4)))
    assert talk.connection.finished


def test_nothing_is_heard_after_the_end() -> None:
    talk = Talk()
    talk.opens()
    talk.hears(frame(PING, 0, 0, b"short"))
    assert talk.goaway == 6
    talk.said()
    talk.hears(call(1), settings())
    assert talk.calls == []
    assert talk.said() == []


def test_frames_for_a_stream_that_is_gone_are_ignored() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.calls[0].call.end(StatusCode.UNAVAILABLE, "gone")
    talk.said()
    talk.hears(
        data(1, message(b"late")), window_update(1, 5), frame(RST_STREAM, 0, 1, bytes(4)), call(3)
    )
    assert talk.connection.failed is None
    assert len(talk.calls) == 2


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        (":path", "/test.Service/Other", ("12", "there is no method /test.Service/Other")),
        ("te", None, ("13", "the header te: trailers is missing")),
        ("grpc-encoding", "gzip", ("12", "messages compressed by gzip are not supported")),
    ],
)
def test_a_call_that_cannot_be_served_is_told_why(
    header: str, value: str | None, expected: tuple[str, str]
) -> None:
    wanted = {**dict(HEADERS_OF_A_CALL), header: value}
    found = block(*((name, text) for name, text in wanted.items() if text is not None))
    talk = Talk()
    talk.opens()
    talk.hears(frame(HEADERS, END_HEADERS, 1, found), call(3))
    assert status(talk) == expected
    assert len(talk.calls) == 1, "the next call is served"


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        (":method", "GET", "405"),
        ("content-type", "text/html", "415"),
        ("content-type", "application/grpcx", "415"),
    ],
)
def test_what_is_no_grpc_is_told_so_by_http(header: str, value: str, expected: str) -> None:
    wanted = {**dict(HEADERS_OF_A_CALL), header: value}
    talk = Talk()
    talk.opens()
    talk.hears(frame(HEADERS, END_HEADERS, 1, block(*wanted.items())))
    found = [one for one in talk.said() if one.kind == HEADERS]
    assert fields(found[0].payload) == {":status": expected}


def test_compressed_and_oversized_messages_end_their_call() -> None:
    talk = Talk()
    talk.opens(call(1), call(3))
    talk.hears(data(1, b"\x01" + message(b"packed")[1:]))
    assert status(talk)[0] == "13"
    talk.hears(data(3, b"\x00" + (4 * 1024 * 1024 + 1).to_bytes(4, "big")))
    assert status(talk)[0] == "8"
    assert talk.connection.failed is None


def test_a_status_message_may_be_any_text() -> None:
    talk = Talk()
    talk.opens(call(1))
    talk.calls[0].call.end(StatusCode.INVALID_ARGUMENT, "100 % größer\n")
    assert status(talk) == ("3", "100 %25 gr%C3%B6%C3%9Fer%0A")
