"""Responses that are joined from bytes read the same in an independent codec."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import pytest

from controlplane.ads.cache import Collection, Sequences
from controlplane.ads.name_lists import NameLists, RecentLists
from controlplane.ads.types import CDS, EDS
from controlplane.ads.wire import (
    Answers,
    Failure,
    RequestError,
    decode_delta_request,
    decode_request,
    delta_response,
    sotw_response,
)
from controlplane.errors import NodeError
from controlplane.translate.envoy import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    Node,
)
from controlplane.translate.resources import Common, Joined, Origin, Resource, ResourceType
from controlplane.translate.scope import EXTENSIONS_READ

with warnings.catch_warnings():
    # The library warns about its own use of pydantic while it is being imported.
    warnings.simplefilter("ignore")
    from envoy_data_plane.envoy.service.discovery import v3 as betterproto

NODE = "sidecar~1.1.1.1~app.test~default.svc.cluster.local"


def cluster(name: str, body: bytes = b"") -> Resource:
    raw = name.encode()
    return Resource.of(ResourceType.CLUSTER, name, bytes([10, len(raw)]) + raw + body)


COLLECTION = Collection.of(ResourceType.CLUSTER, [cluster("a"), cluster("b" * 100)])


def test_a_state_of_the_world_response_is_read_by_betterproto() -> None:
    made = COLLECTION.content().sotw(Sequences(7))
    message = betterproto.DiscoveryResponse.parse(made.payload)
    assert message.version_info == COLLECTION.version
    assert message.nonce == made.nonce == f"{COLLECTION.version}-7"
    assert message.type_url == CDS.url
    assert [entry.value for entry in message.resources] == [
        item.body for item in COLLECTION.by_name.values()
    ]
    assert {entry.type_url for entry in message.resources} == {CDS.url}


def test_a_delta_response_is_read_by_betterproto() -> None:
    content = COLLECTION.content(frozenset({"a"}), ("gone", "too"))
    made = content.delta(Sequences(0))
    message = betterproto.DeltaDiscoveryResponse.parse(made.payload)
    assert [(entry.name, entry.version) for entry in message.resources] == [
        ("a", COLLECTION.by_name["a"].version)
    ]
    entry = message.resources[0].resource
    assert entry is not None
    assert entry.value == COLLECTION.by_name["a"].body
    assert message.removed_resources == ["gone", "too"]
    assert message.system_version_info == content.version


class Piece(NamedTuple):
    beginning: bytes
    tail: bytes
    digest: bytes = b""
    clusters: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()


def test_a_message_in_pieces_goes_out_as_if_it_were_whole() -> None:
    whole = cluster("name", b"\x12\x03abc\x12\x03def\x20\x05")
    pieces = (Piece(b"\x12\x03a", b"bc"), Piece(b"\x12\x03def", b""))
    joined = Resource.of(ResourceType.CLUSTER, "name", Joined(b"\x0a\x04name", pieces, b"\x20\x05"))
    assert joined.body == whole.body
    assert joined.size == whole.size
    assert sotw_response(b"", [joined, whole]) == sotw_response(b"", [whole, joined])
    (sent,) = DeltaDiscoveryResponse.FromString(delta_response(b"", [joined], ())).resources
    assert (sent.version, sent.resource.value) == (joined.version, whole.body)


def test_the_version_of_a_message_in_pieces_is_that_of_the_pieces() -> None:
    def made(*pieces: Piece) -> str:
        return Resource.of(ResourceType.ROUTE, "name", Joined(b"head", pieces, b"tail")).version

    first, second = Piece(b"a", b"", b"of a"), Piece(b"b", b"", b"of b")
    assert made(first, second) == made(first, second)
    assert len({made(first, second), made(second, first), made(first)}) == 3


def test_a_message_with_a_common_end_goes_out_as_if_it_were_whole() -> None:
    whole = cluster("name", b"\x12\x03abc\x20\x05")
    split = Resource.of(Common(ResourceType.CLUSTER, tail=whole.body[-4:]), "name", whole.body[:-4])
    assert split.body == whole.body
    assert split.size == whole.size
    assert split.version == whole.version
    assert sotw_response(b"", [split, whole]) == sotw_response(b"", [whole, split])
    assert delta_response(b"", [split, whole], ()) == delta_response(b"", [whole, split], ())


def test_a_deflated_message_goes_out_as_it_was() -> None:
    whole = cluster("name", b"\x12\x40" + b"of the dictionary" * 3 + b"not of the it")
    kept = Resource.of(
        Common(ResourceType.CLUSTER, dictionary=b"of the dictionary"), "name", whole.body
    )
    assert isinstance(kept.kept, bytes)
    assert len(kept.kept) < len(whole.body)
    assert kept.body == whole.body
    assert kept.size == whole.size
    assert kept.version == whole.version
    assert sotw_response(b"", [kept, whole]) == sotw_response(b"", [whole, kept])
    assert delta_response(b"", [kept, whole], ()) == delta_response(b"", [whole, kept], ())


def test_another_nonce_goes_before_the_same_body() -> None:
    content = Collection(CDS.kind, COLLECTION.by_name).content()
    sequences = Sequences(3)
    first = content.sotw(sequences)
    again = content.sotw(sequences, after=first.sequence)
    assert content.sotw(sequences, after=first.sequence) is again
    messages = [betterproto.DiscoveryResponse.parse(made.payload) for made in (first, again)]
    assert [message.nonce for message in messages] == [
        f"{COLLECTION.version}-3",
        f"{COLLECTION.version}-4",
    ]
    assert messages[0].resources == messages[1].resources


def test_a_request_is_decoded_without_its_node() -> None:
    message = DiscoveryRequest(
        type_url=CDS.url, resource_names=["a"], version_info="v", response_nonce="n"
    )
    message.error_detail.code = 13
    message.error_detail.message = "no"
    request, proxy = decode_request(message.SerializeToString(), first=False)
    assert proxy is None
    assert (request.names, request.version, request.nonce) == (("a",), "v", "n")
    assert request.error == Failure(13, "no")


def test_the_node_of_a_first_request_becomes_a_proxy_and_its_extensions_are_sifted() -> None:
    node = Node(id=NODE, cluster="app.default", user_agent_name="envoy")
    node.user_agent_build_version.version.major_number = 1
    node.user_agent_build_version.version.minor_number = 40
    node.metadata.update({"NAMESPACE": "shop", "LABELS": {"app": "web"}, "PROXY_CONFIG": {"n": 3}})
    node.locality.region, node.locality.zone = "r", "z"
    for name in ("istio.stats", "envoy.filters.http.router"):
        node.extensions.add().name = name
    message = DeltaDiscoveryRequest(type_url=CDS.url, node=node)
    _, proxy = decode_delta_request(message.SerializeToString(), first=True)
    assert proxy is not None
    assert (proxy.namespace, proxy.labels, proxy.locality) == ("shop", {"app": "web"}, "r/z")
    assert proxy.extensions == {"istio.stats"}
    assert proxy.user_agent == "envoy/1.40.0"


@pytest.mark.parametrize("name", sorted(EXTENSIONS_READ))
def test_each_extension_that_matters_is_found_among_others(name: str) -> None:
    node = Node(id=NODE)
    for other in ("envoy.filters.http.router", name, "istio.other"):
        node.extensions.add().name = other
    message = DiscoveryRequest(type_url=CDS.url, node=node)
    _, proxy = decode_request(message.SerializeToString(), first=True)
    assert proxy is not None
    assert proxy.extensions == {name}


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x05ab", b"\x12\x01\xff"])
def test_bytes_that_are_no_request_are_an_error(payload: bytes) -> None:
    with pytest.raises(RequestError):
        decode_request(payload, first=False)


def test_a_first_request_without_a_node_is_an_error() -> None:
    with pytest.raises(NodeError, match="missing node information"):
        decode_request(DiscoveryRequest(type_url=CDS.url).SerializeToString(), first=True)


def test_an_acknowledgement_in_the_same_bytes_is_read_once() -> None:
    answers = Answers()
    payload = DiscoveryRequest(
        type_url=CDS.url, resource_names=["a"], version_info="v", response_nonce="n"
    ).SerializeToString()
    first, _ = decode_request(payload, first=False, answers=answers)
    again, _ = decode_request(bytes(bytearray(payload)), first=False, answers=answers)
    assert again is first
    assert (again.names, again.version, again.nonce) == (("a",), "v", "n")
    delta = DeltaDiscoveryRequest(type_url=CDS.url, response_nonce="n").SerializeToString()
    once, _ = decode_delta_request(delta, first=False, answers=answers)
    assert decode_delta_request(delta, first=False, answers=answers)[0] is once
    assert once.nonce == "n"


def test_only_short_acknowledgements_are_remembered_and_not_many() -> None:
    answers = Answers()
    rejection = DiscoveryRequest(type_url=CDS.url, response_nonce="n")
    rejection.error_detail.message = "no"
    others = (
        rejection,
        DiscoveryRequest(type_url=CDS.url, resource_names=["a"]),
        DiscoveryRequest(type_url=CDS.url, response_nonce="n", resource_names=["a" * 600]),
    )
    for message in others:
        decode_request(message.SerializeToString(), first=False, answers=answers)
    assert not answers.sotw
    for number in range(1_000):
        message = DiscoveryRequest(type_url=CDS.url, response_nonce=str(number))
        decode_request(message.SerializeToString(), first=False, answers=answers)
    assert len(answers.sotw) <= 256


def test_a_list_of_names_that_was_cut_out_is_put_back_into_a_remembered_acknowledgement() -> None:
    answers, lists = Answers(), NameLists()
    made = [
        DiscoveryRequest(
            type_url=EDS.url,
            resource_names=[f"outbound|{port}||a-service-with-a-long-name" for port in ports],
            version_info="v",
            response_nonce="n",
        )
        for ports in (range(100), range(100), range(50, 150))
    ]
    for message in made:
        request, _ = decode_request(
            message.SerializeToString(), first=False, recent=RecentLists(lists), answers=answers
        )
        assert list(request.names) == list(message.resource_names)
        assert (request.version, request.nonce) == ("v", "n")
