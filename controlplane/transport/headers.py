"""What the headers of a request mean to gRPC, and the headers of responses as ready bytes.

Follows RFC 9113, section 8, and gRPC's PROTOCOL-HTTP2 document. Response headers are literals
that enter no table, so that they are the same bytes on every connection.

`grpc-timeout` is not read: a client ends a call itself when its time is over, and one that has
vanished is found by keepalive. The rule that is easy to break: whatever is refused here has been
decoded before, because a skipped header block would spoil the decoder of the connection.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple

_FORBIDDEN: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_LONGEST_MESSAGE: Final = 1024  # characters of a status message


class StatusCode(enum.IntEnum):
    """The gRPC status codes that are sent."""

    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class MalformedError(ValueError):
    """The header list is no HTTP/2 request."""


class Refusal(NamedTuple):
    """The header block that answers a request which cannot be served."""

    block: bytes


def read_request(fields: Iterable[tuple[bytes, bytes]]) -> str | Refusal:
    """Return the path (`/SERVICE/METHOD`) of a gRPC call, or what it is refused with.

    Raises MalformedError when the headers are not even those of an HTTP/2 request.
    """
    found = _read(fields)
    content_type = found.get(b"content-type", b"")
    if not content_type.startswith(b"application/grpc") or content_type[16:17] not in b"+;":
        return Refusal(_http_error(415))
    if found[b":method"] != b"POST":
        return Refusal(_http_error(405))
    if found.get(b"te") != b"trailers":
        return Refusal(trailers_only(StatusCode.INTERNAL, "the header te: trailers is missing"))
    encoding = found.get(b"grpc-encoding", b"identity")
    if encoding != b"identity":
        message = f"messages compressed by {encoding.decode('latin-1')} are not supported"
        block = trailers_only(StatusCode.UNIMPLEMENTED, message)
        return Refusal(block + _literal(b"grpc-accept-encoding", b"identity"))
    return found[b":path"].decode("latin-1")


def _read(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in found or name not in _PSEUDO:
                raise MalformedError("a pseudo-header is out of place")
        else:
            regular = True
            if not name or name != name.lower() or name in _FORBIDDEN:
                raise MalformedError("a header has a name that HTTP/2 does not allow")
        found.setdefault(name, value)
    if not found.keys() >= {b":method", b":scheme", b":path"} or not found[b":path"]:
        raise MalformedError("a pseudo-header is missing")
    return found


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that enters no table (RFC 7541, section 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    prefix = bytearray((127,))
    size -= 127
    while size >= 128:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + text


def _percent_encoded(message: str) -> bytes:
    """The form of grpc-message: printable ASCII stays, but for the percent sign itself."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message[:_LONGEST_MESSAGE].encode(errors="replace")
    )


def _http_error(status: int) -> bytes:
    return _literal(b":status", str(status).encode())


RESPONSE: Final = b"\x88" + _literal(b"content-type", b"application/grpc")  # :status 200 is 8
"""The header block that precedes the messages of a response."""


def trailers(code: StatusCode, message: str) -> bytes:
    """Return the header block that ends a response."""
    block = _literal(b"grpc-status", str(code.value).encode())
    if message:
        block += _literal(b"grpc-message", _percent_encoded(message))
    return block


def trailers_only(code: StatusCode, message: str) -> bytes:
    """Return the one header block of a response without messages."""
    return RESPONSE + trailers(code, message)
