"""A long list of names that comes again is recognised; whatever else comes is read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.ads.name_lists import LONG, NameLists, RecentLists
from controlplane.ads.types import EDS, RDS
from controlplane.ads.wire import Answers, Request, decode_request
from controlplane.translate.envoy import DiscoveryRequest, Node

NAMES = tuple(f"outbound|80||{number}.example.com" for number in range(LONG + 8))
OTHERS = tuple(f"{number}" for number in range(LONG + 3))


def encode(
    names: tuple[str, ...], *, url: str = EDS.url, nonce: str = "n1", version: str = "v1",
    node: str = "",
) -> bytes:  # fmt: skip
    request = DiscoveryRequest(
        type_url=url, resource_names=names, response_nonce=nonce, version_info=version
    )
    if node:
        request.node.CopyFrom(Node(id=node))
    payload: bytes = request.SerializeToString()
    return payload


def read(payload: bytes, recent: RecentLists | None = None) -> Request:
    request, _ = decode_request(payload, first=False, recent=recent)
    return request


def test_a_list_that_comes_again_is_the_same_tuple() -> None:
    recent = RecentLists(NameLists())
    first = read(encode(NAMES), recent)
    again = read(encode(NAMES, nonce="n2", version="v" * 300, node="x" * 200), recent)
    assert again.names is first.names
    assert (again.nonce, again.version, again.type_url) == ("n2", "v" * 300, EDS.url)


def test_streams_with_the_same_names_share_the_list() -> None:
    lists = NameLists()
    one, two = RecentLists(lists), RecentLists(lists)
    assert read(encode(NAMES), one).names is read(encode(NAMES), two).names


def test_the_very_payload_of_another_stream_is_read_once() -> None:
    lists, answers = NameLists(), Answers()
    one, two = RecentLists(lists), RecentLists(lists)
    payload = encode(NAMES)
    first, _ = decode_request(payload, first=False, recent=one, answers=answers)
    again, _ = decode_request(payload, first=False, recent=two, answers=answers)
    assert again is first
    other, _ = decode_request(encode(NAMES, nonce="n2"), first=False, recent=two, answers=answers)
    assert (other.nonce, other.names is first.names) == ("n2", True)
    for number in range(8):
        decode_request(encode(NAMES, nonce=f"m{number}"), first=False, recent=one, answers=answers)
    later, _ = decode_request(payload, first=False, recent=two, answers=answers)
    assert later is not first, "only the newest ones are kept"


def test_a_first_request_is_read_for_its_node_though_its_payload_came_before() -> None:
    recent, answers = RecentLists(NameLists()), Answers()
    payload = encode(NAMES, node="sidecar~1.1.1.1~a.b~b.svc.cluster.local")
    decode_request(payload, first=False, recent=recent, answers=answers)
    _, proxy = decode_request(payload, first=True, recent=recent, answers=answers)
    assert proxy is not None


def test_one_name_more_or_less_is_another_list() -> None:
    recent = RecentLists(NameLists())
    read(encode(NAMES), recent)
    assert read(encode((*NAMES, "more")), recent).names == (*NAMES, "more")
    read(encode(NAMES), recent)
    assert read(encode(NAMES[:-1]), recent).names == NAMES[:-1]


def test_names_after_the_other_fields_are_read_too() -> None:
    recent = RecentLists(NameLists())
    read(encode(NAMES), recent)
    split = encode(NAMES) + DiscoveryRequest(resource_names=["late"]).SerializeToString()
    assert read(split, recent).names == (*NAMES, "late")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((NAMES, NAMES[:-1], OTHERS, ("one",), ())),
            st.sampled_from((EDS.url, RDS.url, "type.googleapis.com/unknown", "")),
            st.sampled_from(("", "n", "n" * 130)),
            st.sampled_from(("", "sidecar~1.1.1.1~a.b~c")),
            st.binary(max_size=3),
        ),
        max_size=8,
    )
)
def test_requests_say_the_same_whether_lists_are_remembered_or_not(
    requests: list[tuple[tuple[str, ...], str, str, str, bytes]],
) -> None:
    recent = RecentLists(NameLists())
    for names, url, nonce, node, junk in requests:
        payload = encode(names, url=url, nonce=nonce, node=node)
        assert read(payload, recent) == read(payload)
        recent.cut(junk + payload)  # never fails, whatever the bytes
