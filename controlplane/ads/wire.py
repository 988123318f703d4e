"""Bytes to requests and back: the only module of the engine that knows the protobuf messages.

Requests are decoded by protobuf and copied into small values; the node of a first request (61 kB
with 516 extensions from an Envoy 1.40) is read for the facts that matter and dropped. Responses
are joined from bytes that exist already. The rule that is easy to break: nothing decoded may
keep the protobuf message alive.
"""

from __future__ import annotations

import functools
from array import array
from binascii import hexlify
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from operator import is_not
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from controlplane.ads.name_lists import RecentLists
from controlplane.ads.splices import Piece
from controlplane.ads.types import TYPE_BY_URL
from controlplane.errors import NodeError
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.translate.resources import Resource, ResourceType, length_delimited, varint
from controlplane.translate.scope import EXTENSIONS_READ

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SOTW_METHOD: Final = "StreamAggregatedResources"
DELTA_METHOD: Final = "DeltaAggregatedResources"
_SHORT: Final = 512  # bytes of an acknowledgement that is remembered
_ANSWERS: Final = 256
_LONG_ANSWERS: Final = 4
_LONGEST_ANSWER: Final = 256 * 1024  # as much as the transport reads at once
_ISTIO: Final = b"istio."  # what the names of all extensions begin with that matter


class RequestError(ValueError):
    """The bytes are no discovery request."""


class Failure(msgspec.Struct, frozen=True):
    """The error_detail of a request that rejects a response."""

    code: int
    message: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A DiscoveryRequest without its node."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: Failure | None = None


class DeltaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A DeltaDiscoveryRequest without its node."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = {}  # resource name -> version the client holds
    nonce: str = ""
    error: Failure | None = None


_Request = TypeVar("_Request", Request, DeltaRequest)


class Answers:
    """Acknowledgements by their bytes: streams of a class are sent one nonce, and all of them
    answer it in the same bytes. Only the newest few hundred are kept, and of those that repeat a
    long list of names the newest few, which the transport hands over as the very same object."""

    __slots__ = ("_long", "delta", "sotw")

    def __init__(self) -> None:
        self._long: Final[deque[tuple[bytes, Request]]] = deque(maxlen=_LONG_ANSWERS)
        self.sotw: Final[dict[bytes, Request]] = {}
        self.delta: Final[dict[bytes, DeltaRequest]] = {}

    def long(self, payload: bytes) -> Request | None:
        """Return what was read from this very object."""
        for known, request in self._long:
            if known is payload:
                return request
        return None

    def remember_long(self, payload: bytes, request: Request) -> None:
        """Take note of what a payload says, unless it is too long to be kept."""
        if len(payload) <= _LONGEST_ANSWER:
            self._long.appendleft((payload, request))


def decode_request(
    payload: bytes,
    *,
    first: bool,
    recent: RecentLists | None = None,
    answers: Answers | None = None,
) -> tuple[Request, Proxy | None]:
    """Return a state-of-the-world request and, when it is the stream's first, who sends it.

    `recent` are the lists of names that the stream sent before: one that comes again is the same
    tuple again. `answers` are what any streams acknowledged.

    Raises RequestError when the bytes are no such message, NodeError when the node is wrong.
    """
    short = _is_short(payload)
    known = answers.sotw.get(payload) if answers is not None and short else None
    if known is not None and not first:
        return known, None
    if recent is None or short:
        request, proxy = _read(payload, first=first, answers=answers)
        return _with_names(request, request.names, recent), proxy
    known_answer = answers.long(payload) if answers is not None and not first else None
    if known_answer is not None:
        return _with_names(known_answer, known_answer.names, recent), None
    request, proxy = _read_long(payload, first=first, recent=recent, answers=answers)
    if answers is not None and request.nonce and not first:
        answers.remember_long(payload, request)
    return request, proxy


def _read_long(
    payload: bytes, *, first: bool, recent: RecentLists, answers: Answers | None
) -> tuple[Request, Proxy | None]:
    """Return a request of which the list of names may have come before."""
    cut = recent.cut(payload)
    if cut is None:
        request, proxy = _read(payload, first=first, answers=answers)
        return _with_names(request, request.names, recent), proxy
    known, rest = cut
    again: Request | None = None if first else known.read.get(rest)
    if again is not None:
        recent.remember(again.type_url, again.names)
        return again, None
    request, proxy = _read(rest, first=first, answers=None)
    if request.names or request.type_url not in TYPE_BY_URL:
        request, proxy = _read(payload, first=first, answers=answers)
        return _with_names(request, request.names, recent), proxy
    request = _with_names(request, known.names, recent)
    if request.names is known.names:
        _remember(known.read, rest, request)
    return request, proxy


def _with_names(request: Request, names: tuple[str, ...], recent: RecentLists | None) -> Request:
    """Return the request with a list of names, which is the same tuple when it came before."""
    if recent is not None and request.type_url in TYPE_BY_URL:
        names = recent.remember(request.type_url, names)
    if names is request.names:
        return request
    return Request(
        type_url=request.type_url,
        names=names,
        version=request.version,
        nonce=request.nonce,
        error=request.error,
    )


def _read(payload: bytes, *, first: bool, answers: Answers | None) -> tuple[Request, Proxy | None]:
    from controlplane.translate.envoy import DiscoveryRequest

    message = _parse(DiscoveryRequest, payload)
    request = Request(
        type_url=message.type_url,
        names=tuple(message.resource_names),
        version=message.version_info,
        nonce=message.response_nonce,
        error=_failure(message),
    )
    if answers is not None:
        _remember(answers.sotw, payload, request)
    return request, _proxy(message, payload) if first else None


def decode_delta_request(
    payload: bytes, *, first: bool, answers: Answers | None = None
) -> tuple[DeltaRequest, Proxy | None]:
    """Return a delta request and, when it is the stream's first, who sends it.

    Raises RequestError when the bytes are no such message, NodeError when the node is wrong.
    """
    from controlplane.translate.envoy import DeltaDiscoveryRequest

    known = answers.delta.get(payload) if answers is not None and _is_short(payload) else None
    if known is not None and not first:
        return known, None
    message = _parse(DeltaDiscoveryRequest, payload)
    request = DeltaRequest(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=_failure(message),
    )
    if answers is not None:
        _remember(answers.delta, payload, request)
    return request, _proxy(message, payload) if first else None


def _is_short(payload: bytes) -> bool:
    return len(payload) <= _SHORT


def _remember(known: dict[bytes, _Request], payload: bytes, made: _Request) -> None:
    if made.nonce and made.error is None and _is_short(payload):
        if len(known) >= _ANSWERS:
            known.clear()
        known[payload] = made


def _parse(message_type: Any, payload: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise RequestError(f"the request cannot be decoded: {error}") from None


def _failure(message: Any) -> Failure | None:
    if not message.HasField("error_detail"):
        return None
    return Failure(message.error_detail.code, message.error_detail.message)


def _proxy(message: Any, payload: bytes) -> Proxy:
    node = message.node
    if not node.id:
        raise NodeError("missing node information")
    locality = node.locality
    return make_proxy(
        node.id,
        {key: _plain(value) for key, value in node.metadata.fields.items()},
        cluster=node.cluster,
        locality="/".join(
            part for part in (locality.region, locality.zone, locality.sub_zone) if part
        ),
        extensions=_extensions(node, payload),
        user_agent=_user_agent(node),
    )


def _extensions(node: Any, payload: bytes) -> frozenset[str]:
    """Return the extensions of interest among hundreds, which a stock Envoy has none of."""
    if _ISTIO not in payload:
        return frozenset()
    return EXTENSIONS_READ.intersection(extension.name for extension in node.extensions)


def _user_agent(node: Any) -> str:
    if not node.user_agent_name:
        return ""
    build = node.user_agent_build_version
    version = node.user_agent_version
    if not version and build.HasField("version"):
        number = build.version
        version = f"{number.major_number}.{number.minor_number}.{number.patch}"
    label = build.metadata.fields["build.label"].string_value if build.ByteSize() else ""
    return "/".join(part for part in (node.user_agent_name, version, label) if part)


def _plain(value: Any) -> Any:
    """Return a google.protobuf.Value as plain JSON data."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {key: _plain(entry) for key, entry in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(entry) for entry in value.list_value.values]
        case _:
            return None


# Field numbers of DiscoveryResponse and DeltaDiscoveryResponse. Fields may come in any order.
_VERSION: Final = 1
_RESOURCES: Final = 2
_TYPE_URL: Final = 4
_NONCE: Final = 5
_REMOVED: Final = 6
_RESOURCES_KEY: Final = varint(_RESOURCES << 3 | 2)
# That of Resource: a hash of 8 bytes in hexadecimal digits.
_VERSION_LENGTH: Final = 16
_VERSION_KEY: Final = varint(_VERSION << 3 | 2) + varint(_VERSION_LENGTH)


def header(*, version: str, type_url: str, nonce: str) -> bytes:
    """Return the fields of a response that precede its resources; the same in both protocols."""
    return (
        length_delimited(_VERSION, version.encode())
        + length_delimited(_TYPE_URL, type_url.encode())
        + length_delimited(_NONCE, nonce.encode())
    )


def _any_head(kind: ResourceType, size: int) -> bytes:
    """Return a google.protobuf.Any up to its message of that many bytes."""
    # type_url = 1, value = 2
    return length_delimited(1, kind.url.encode()) + varint(2 << 3 | 2) + varint(size)


# Most resources of a type have one of few lengths.
@functools.lru_cache(maxsize=1024)
def _sotw_head(kind: ResourceType, size: int) -> bytes:
    """Return one `resources` field of a DiscoveryResponse up to its message."""
    head = _any_head(kind, size)
    return _RESOURCES_KEY + varint(len(head) + size) + head


@functools.lru_cache(maxsize=1024)
def _delta_heads(kind: ResourceType, size: int, name: int) -> tuple[bytes, bytes]:
    """Return one `resources` field of a DeltaDiscoveryResponse up to its message.

    In two parts, between which stand a name of that many bytes and a version.
    """
    # message Resource: version = 1, resource = 2, name = 3
    head = _any_head(kind, size)
    after = b"\x12" + varint(len(head) + size) + head
    before = b"\x1a" + varint(name)
    inside = len(before) + name + len(_VERSION_KEY) + _VERSION_LENGTH + len(after) + size
    return _RESOURCES_KEY + varint(inside) + before, after


def sotw_response(head: bytes, resources: Iterable[Resource]) -> bytes:
    """Return a DiscoveryResponse: its header and its `resources` field."""
    out = BytesIO()
    out.write(head)
    for resource in resources:
        pieces = resource.pieces
        out.write(_sotw_head(resource.type, sum(map(len, pieces))))
        out.writelines(pieces)
    return out.getvalue()


def sotw_response_of(head: bytes, resource: Resource, pieces: Sequence[Piece]) -> bytes:
    """Return a DiscoveryResponse with one resource, whose pieces are at hand."""
    return b"".join((head, _sotw_head(resource.type, sum(map(len, pieces))), *pieces))


class Laid(NamedTuple):
    """The resources of a response, its body, and where in that each of them ends."""

    resources: tuple[Resource, ...]
    body: memoryview
    ends: array[int]


def similar_response(
    head: bytes, resources: tuple[Resource, ...], like: Laid | None
) -> tuple[bytes, array[int]]:
    """Return a DiscoveryResponse, and where in its body each resource ends.

    What another response begins with as well is copied from there.
    """
    out = BytesIO()
    out.write(head)
    ends = array("L")
    if like is not None:
        differ = map(is_not, resources, like.resources)
        same = next((at for at, other in enumerate(differ) if other), len(like.resources))
        ends = like.ends[: min(same, len(resources))]
        out.write(like.body[: ends[-1] if ends else 0])
    for resource in resources[len(ends) :]:
        pieces = resource.pieces
        out.write(_sotw_head(resource.type, sum(map(len, pieces))))
        out.writelines(pieces)
        ends.append(out.tell() - len(head))
    return out.getvalue(), ends


def delta_response(head: bytes, resources: Iterable[Resource], removed: Iterable[str]) -> bytes:
    """Return a DeltaDiscoveryResponse: its header, then what comes and what goes."""
    out = BytesIO()
    out.write(head)
    for resource in resources:
        pieces = resource.pieces
        out.writelines((*_delta_head(resource, pieces), *pieces))
    out.writelines(length_delimited(_REMOVED, name.encode()) for name in removed)
    return out.getvalue()


def delta_response_of(head: bytes, resource: Resource, pieces: Sequence[Piece]) -> bytes:
    """Return a DeltaDiscoveryResponse with one resource, whose pieces are at hand."""
    return b"".join((head, *_delta_head(resource, pieces), *pieces))


def _delta_head(resource: Resource, pieces: Sequence[Piece]) -> tuple[bytes, ...]:
    """Return one `resources` field of a DeltaDiscoveryResponse up to its message."""
    name = resource.name.encode()
    before, after = _delta_heads(resource.type, sum(map(len, pieces)), len(name))
    return before, name, _VERSION_KEY, hexlify(resource.digest), after
