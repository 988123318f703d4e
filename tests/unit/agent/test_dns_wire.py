"""The DNS codec reads what it wrote, survives any bytes, and keeps to the size of UDP."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.agent.dns_wire import (
    RESPONSE,
    TRUNCATED,
    Code,
    Message,
    Name,
    Question,
    Record,
    RecordType,
    WireError,
    answer_to,
    decode,
    encode,
    fit,
    lowered,
    name_bytes,
    parse_name,
)

labels = st.binary(min_size=1, max_size=20)
names: st.SearchStrategy[Name] = st.lists(labels, max_size=5).map(tuple)
numbers = st.integers(0, 0xFFFF)
plain_types = numbers.filter(lambda kind: kind not in (2, 5, 12))
plain_records = st.builds(
    Record,
    name=names,
    type=plain_types,
    ttl=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=40),
    klass=numbers,
)
name_records = st.builds(
    Record,
    name=names,
    type=st.sampled_from([RecordType.CNAME, RecordType.NS, RecordType.PTR]),
    ttl=st.integers(0, 2**32 - 1),
    data=names.map(name_bytes),
    klass=numbers,
)
sections = st.lists(plain_records | name_records, max_size=4).map(tuple)
messages = st.builds(
    Message,
    id=numbers,
    flags=numbers,
    questions=st.lists(st.builds(Question, names, numbers, numbers), max_size=3).map(tuple),
    answers=sections,
    authorities=sections,
    additionals=sections,
)


@given(messages)
def test_what_was_written_is_read_back(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        message = decode(data)
    except WireError:
        return
    assert decode(encode(message)) == message


@given(messages, st.data())
def test_a_damaged_message_is_a_message_or_an_error(message: Message, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def test_pointers_are_followed_backwards_only() -> None:
    header = bytes.fromhex("0001 8000 0001 0000 0000 0000")
    loop = header + bytes.fromhex("c00c 0001 0001")
    with pytest.raises(WireError, match="forwards"):
        decode(loop)
    # `a` and, 3 bytes later, a pointer to it.
    good = bytes.fromhex("0001 8000 0002 0000 0000 0000") + b"\x01a\x00\x00\x01\x00\x01"
    good += bytes.fromhex("0162 c00c 0001 0001")
    assert decode(good).questions[1].name == (b"b", b"a")


def test_names_are_compressed() -> None:
    name = parse_name("reviews.default.svc.cluster.local")
    query = Message(1, 0, (Question(name, RecordType.A),))
    records = tuple(Record(name, RecordType.A, 30, bytes((10, 0, 0, n))) for n in range(3))
    answer = encode(answer_to(query, Code.NOERROR, answers=records))
    assert len(answer) == len(encode(query)) + 3 * (2 + 10 + 4)


def test_an_answer_too_long_for_udp_says_so_and_keeps_the_question() -> None:
    name = parse_name("many.example.com")
    query = Message(7, 0x0100, (Question(name, RecordType.A),))
    records = tuple(Record(name, RecordType.A, 30, bytes((10, 0, 0, n))) for n in range(100))
    answer = answer_to(query, Code.NOERROR, answers=records)
    short = decode(fit(answer, query.udp_size))
    assert short.flags & TRUNCATED
    assert (short.id, short.questions, short.answers) == (7, query.questions, ())
    whole = decode(fit(answer, 4096))
    assert not whole.flags & TRUNCATED
    assert len(whole.answers) == 100


def test_a_client_with_edns_gets_its_size_and_an_opt_record_back() -> None:
    opt = Record((), RecordType.OPT, 0, b"", 4096)
    query = decode(encode(Message(7, 0, (Question((), 1),), additionals=(opt,))))
    assert query.udp_size == 4096
    assert answer_to(query, Code.NOERROR).has_opt
    assert not answer_to(query._replace(additionals=()), Code.NOERROR).has_opt
    assert answer_to(query, Code.NOERROR).flags & RESPONSE


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".a", ("y" * 60 + ".") * 5])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_name(text)


def test_names_compare_without_case() -> None:
    assert lowered(parse_name("ReViews.Default.")) == "reviews.default"
    assert lowered(parse_name(".")) == ""
