"""The wire format of DNS, as much as a forwarder needs (RFC 1035, RFC 6891).

Owns reading and writing messages, name compression and the size limit of UDP answers.
Must not know names of the mesh, nor sockets.
Easy to break: every offset comes from the network. A compression pointer may only lead backwards,
which is what ends the reading of a malicious name.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

Name = tuple[bytes, ...]
"""A domain name as its labels, without the root's empty one."""

HEADER: Final = struct.Struct("!6H")
RECORD: Final = struct.Struct("!HHIH")
IN: Final = 1
PLAIN_UDP_SIZE: Final = 512
OUR_UDP_SIZE: Final = 1232  # fits into an IPv6 packet that no link has to fragment
MAX_NAME: Final = 255
MAX_MESSAGE: Final = 65535

RESPONSE: Final = 0x8000
OPCODE: Final = 0x7800
AUTHORITATIVE: Final = 0x0400
TRUNCATED: Final = 0x0200
RECURSION_DESIRED: Final = 0x0100
RECURSION_AVAILABLE: Final = 0x0080


class RecordType(enum.IntEnum):
    """The record types that are told apart."""

    A = 1
    NS = 2
    CNAME = 5
    PTR = 12
    AAAA = 28
    OPT = 41


class Code(enum.IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


_NAMES_IN_DATA: Final = frozenset({RecordType.NS, RecordType.CNAME, RecordType.PTR})


class WireError(Exception):
    """The bytes are no DNS message."""


class Question(NamedTuple):
    """What is asked."""

    name: Name
    type: int
    klass: int = IN


class Record(NamedTuple):
    """One resource record. Names in `data` are written out, never compressed."""

    name: Name
    type: int
    ttl: int
    data: bytes
    klass: int = IN


class Message(NamedTuple):
    """One message; `flags` hold everything of the second header word."""

    id: int
    flags: int
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    authorities: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()

    @property
    def code(self) -> int:
        """The response code, without the bits that OPT adds."""
        return self.flags & 0xF

    @property
    def udp_size(self) -> int:
        """How long a UDP answer the sender takes."""
        for record in self.additionals:
            if record.type == RecordType.OPT:
                return max(PLAIN_UDP_SIZE, record.klass)
        return PLAIN_UDP_SIZE

    @property
    def has_opt(self) -> bool:
        """Whether the sender speaks EDNS."""
        return any(record.type == RecordType.OPT for record in self.additionals)


def parse_name(text: str) -> Name:
    """Return the labels of a name without escapes; raises WireError when it cannot be one."""
    labels = tuple(text.removesuffix(".").encode("utf-8").split(b".")) if text != "." else ()
    if labels == (b"",):
        return ()
    if any(not 0 < len(label) < 64 for label in labels) or _length(labels) > MAX_NAME:
        raise WireError(f"{text!r} is no domain name")
    return labels


def lowered(name: Name) -> str:
    """The name as lower-case text; bytes that are no UTF-8 become replacement characters."""
    return b".".join(name).lower().decode("utf-8", "replace")


def name_bytes(name: Name) -> bytes:
    """The name written out."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def encode(message: Message) -> bytes:
    """Return the bytes of a message; raises WireError when they would be more than 65535."""
    counts = tuple(map(len, message[2:]))
    out = bytearray(HEADER.pack(message.id, message.flags, *counts))
    known: dict[Name, int] = {}
    for question in message.questions:
        _write_name(out, question.name, known)
        out += struct.pack("!HH", question.type, question.klass)
    for section in message[3:]:
        for record in section:
            _write_name(out, record.name, known)
            out += RECORD.pack(record.type, record.klass, record.ttl, len(record.data))
            out += record.data
    if len(out) > MAX_MESSAGE:
        raise WireError("the message is longer than 65535 bytes")
    return bytes(out)


def decode(data: bytes) -> Message:
    """Return the message that the bytes hold; raises WireError when they hold none.

    Bytes after the message are ignored.
    """
    if len(data) < HEADER.size:
        raise WireError("shorter than a header")
    identity, flags, *counts = HEADER.unpack_from(data)
    offset = HEADER.size
    questions: list[Question] = []
    for _ in range(counts[0]):
        name, offset = _read_name(data, offset)
        if offset + 4 > len(data):
            raise WireError("a question is cut off")
        questions.append(Question(name, *struct.unpack_from("!HH", data, offset)))
        offset += 4
    sections: list[tuple[Record, ...]] = []
    for count in counts[1:]:
        records: list[Record] = []
        for _ in range(count):
            record, offset = _read_record(data, offset)
            records.append(record)
        sections.append(tuple(records))
    return Message(identity, flags, tuple(questions), *sections)


def fit(message: Message, size: int) -> bytes:
    """Return the bytes of an answer in at most `size` bytes.

    Answers that do not fit are left out and the answer is marked as truncated, so that the client
    asks again over TCP.
    """
    data = encode(message)
    if len(data) <= size:
        return data
    opt = tuple(record for record in message.additionals if record.type == RecordType.OPT)
    short = message._replace(
        flags=message.flags | TRUNCATED, answers=(), authorities=(), additionals=opt
    )
    return encode(short)


def answer_to(
    query: Message,
    code: Code,
    *,
    answers: tuple[Record, ...] = (),
    authoritative: bool = False,
) -> Message:
    """Return an answer with the query's id and question, and OPT when the query had it."""
    flags = RESPONSE | RECURSION_AVAILABLE | (query.flags & (OPCODE | RECURSION_DESIRED)) | code
    if authoritative:
        flags |= AUTHORITATIVE
    opt = (Record((), RecordType.OPT, 0, b"", OUR_UDP_SIZE),) if query.has_opt else ()
    return Message(query.id, flags, query.questions, answers, (), opt)


def _length(name: Name) -> int:
    return sum(len(label) + 1 for label in name) + 1


def _write_name(out: bytearray, name: Name, known: dict[Name, int]) -> None:
    for index, label in enumerate(name):
        rest = name[index:]
        if rest in known:
            out += struct.pack("!H", 0xC000 | known[rest])
            return
        if len(out) < 0x4000:
            known[rest] = len(out)
        out.append(len(label))
        out += label
    out.append(0)


def _read_name(data: bytes, offset: int) -> tuple[Name, int]:
    """Return a name and the offset after it."""
    labels: list[bytes] = []
    length = 1
    end = -1
    limit = offset  # a pointer leads in front of everything that was read of this name
    while True:
        if offset >= len(data):
            raise WireError("a name is cut off")
        size = data[offset]
        if size >= 0xC0:
            if offset + 2 > len(data):
                raise WireError("a pointer is cut off")
            target = (size & 0x3F) << 8 | data[offset + 1]
            if target >= limit:
                raise WireError("a pointer leads forwards")
            end = offset + 2 if end < 0 else end
            offset = limit = target
        elif size >= 0x40:
            raise WireError("an unknown kind of label")
        elif size == 0:
            return tuple(labels), offset + 1 if end < 0 else end
        else:
            label = data[offset + 1 : offset + 1 + size]
            length += size + 1
            if len(label) < size or length > MAX_NAME:
                raise WireError("a label is cut off, or a name is too long")
            labels.append(label)
            offset += size + 1


def _read_record(data: bytes, offset: int) -> tuple[Record, int]:
    name, offset = _read_name(data, offset)
    if offset + RECORD.size > len(data):
        raise WireError("a record is cut off")
    kind, klass, ttl, size = RECORD.unpack_from(data, offset)
    offset += RECORD.size
    end = offset + size
    if end > len(data):
        raise WireError("the data of a record is cut off")
    content = data[offset:end]
    if kind in _NAMES_IN_DATA:
        target, after = _read_name(data, offset)
        if after != end:
            raise WireError("the name in a record has another length than the record")
        content = name_bytes(target)
    return Record(name, kind, ttl, content, klass), end
