"""The validating webhook: what it lets through, what it refuses with which words, at what cost."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from controlplane.admission.http import MAX_BODY, make_admission_app
from controlplane.admission.review import Review, ReviewError, decode
from controlplane.admission.validation import Verdict, judge
from controlplane.admission.webhook import add_validation
from controlplane.debug.metrics import Metrics
from controlplane.model.kinds import KINDS, Kind

V1 = "admission.k8s.io/v1"
TO = [{"destination": {"host": "web"}}]
LONGEST = 8.0
"""Seconds of CPU for the worst object, on a slow machine."""


def virtual_service(**spec: Any) -> dict[str, Any]:
    """Return a VirtualService that is good unless `spec` makes it bad."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
        "spec": {"hosts": ["web"], "http": [{"route": TO}], **spec},
    }


def question(item: Any, **request: Any) -> dict[str, Any]:
    """Return the request about an object."""
    return {
        "uid": "u-1",
        "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
        "namespace": "shop",
        "name": "web",
        "operation": "CREATE",
        "object": item,
        **request,
    }


def judged(item: Any, **request: Any) -> Verdict:
    """Return what becomes of an object."""
    return judge(Review(V1, question(item, **request)), revision="default")


def refusal(item: Any, **request: Any) -> str:
    """Return the words that an object is refused with."""
    response = judged(item, **request).review["response"]
    assert response["allowed"] is False, "it was let through"
    assert response["uid"] == "u-1"
    assert response["status"]["code"] == 400
    message: str = response["status"]["message"]
    return message


def test_a_good_object_passes_without_a_word() -> None:
    response = judged(virtual_service()).review["response"]
    assert response == {"uid": "u-1", "allowed": True}


def test_a_refusal_names_object_field_and_reason() -> None:
    bad = virtual_service(http=[{"route": TO, "timeout": "soon"}], hots=["web"])
    text = refusal(bad)
    assert text.startswith("VirtualService shop/web: ")
    assert "spec.http[0].timeout: 'soon' is not a duration" in text
    assert "spec.hots: unknown field 'hots'; did you mean 'hosts'?" in text


def test_a_port_below_zero_is_refused() -> None:
    route = {"route": [{"destination": {"host": "web", "port": {"number": -1}}}]}
    assert "spec.http[0].route[0].destination.port.number: -1 is out of range" in refusal(
        virtual_service(http=[route])
    )


def test_deprecated_and_unsupported_fields_are_warned_of() -> None:
    rule = {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "DestinationRule",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "host": "web",
            "workloadSelector": {"matchLabels": {"app": "web"}},
            "trafficPolicy": {"loadBalancer": {"simple": "LEAST_CONN"}},
        },
    }
    kind = {"group": "networking.istio.io", "version": "v1beta1", "kind": "DestinationRule"}
    response = judged(rule, kind=kind).review["response"]
    assert response["allowed"] is True
    text = "\n".join(response["warnings"])
    assert "DestinationRule shop/web: spec.trafficPolicy.loadBalancer.simple: LEAST_CONN is" in text
    assert "deprecated" in text
    assert "spec.workloadSelector: is not supported yet" in text


@pytest.mark.parametrize(
    "request_",
    [{"operation": "DELETE", "object": None}, {"operation": "CONNECT"}, {"subResource": "status"}],
)
def test_what_stores_no_object_is_let_through(request_: dict[str, Any]) -> None:
    verdict = judged(virtual_service(hosts=5), **request_)
    assert verdict.review["response"]["allowed"] is True
    assert not verdict.resource, "it counts as validated"


def test_objects_of_another_revision_are_let_through() -> None:
    bad = virtual_service(hosts=5)
    bad["metadata"]["labels"] = {"istio.io/rev": "canary"}
    assert judged(bad).review["response"]["allowed"] is True
    bad["metadata"]["labels"] = {"istio.io/rev": "default"}
    assert judged(bad).review["response"]["allowed"] is False


def test_an_object_that_is_being_deleted_is_not_held_up() -> None:
    bad = virtual_service(hosts=5)
    bad["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert judged(bad, operation="UPDATE").review["response"]["allowed"] is True


def test_an_unknown_kind_of_our_groups_is_refused_and_a_foreign_one_is_not() -> None:
    unknown = {**virtual_service(), "kind": "VirtualServise"}
    assert "did you mean 'VirtualService'?" in refusal(unknown)
    foreign = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    assert judged(foreign).review["response"]["allowed"] is True


def test_kinds_that_have_no_struct_pass_with_a_warning() -> None:
    item = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "any", "namespace": "shop"},
        "spec": {"configPatches": []},
    }
    response = judged(item).review["response"]
    assert response["allowed"] is True
    assert "EnvoyFilter is not supported yet" in response["warnings"][0]


def _nested(depth: int) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for _ in range(depth):
        item = {"a": item}
    return item


def _matches(pattern: str) -> dict[str, Any]:
    return virtual_service(http=[{"route": TO, "match": [{"uri": {"regex": pattern}}]}])


_KEYS = st.sampled_from(
    "hosts http route match uri regex destination host port number labels name namespace "
    "annotations timeout headers servers selector tls ports endpoints trafficPolicy status".split()
)

BOUNDED = {
    "long annotation": (
        {
            **virtual_service(),
            "metadata": {"name": "web", "namespace": "shop", "annotations": {"a": "x" * 100_000}},
        },
        "",
    ),
    "many hosts": (virtual_service(hosts=[f"h{i}.example.com" for i in range(10_000)]), ""),
    "many bad hosts": (
        virtual_service(hosts=[f"h{i}..example.com" for i in range(10_000)]),
        "'h0..example.com' is not a valid host name",
    ),
    "many unknown fields": (
        virtual_service(**{f"hots{i}": 1 for i in range(60_000)}),
        "unknown field 'hots0'",
    ),
    "many misspelt routes": (
        virtual_service(http=[{"route": TO, "mach": 1} for _ in range(25_000)]),
        "did you mean 'match'?",
    ),
    "many retry conditions": (
        virtual_service(http=[{"route": TO, "retries": {"retryOn": "x," * 500_000}}]),
        "'x' is no condition that Envoy retries on",
    ),
    "long duration": (
        virtual_service(http=[{"route": TO, "timeout": "1" * 1_000_000 + "x"}]),
        "is not a duration",
    ),
    "long host": (virtual_service(hosts=["a-" * 500_000 + "!"]), "is not a valid host name"),
    "groups in groups": (_matches("(" * 300 + "a+" + ")+" * 300), ""),
    "repetitions of repetitions": (_matches("(a{1,1000}){1,1000}"), "more than 1000 times"),
    "long pattern": (_matches("(a+)+" * 200_000), "longer than 1024 characters"),
    "many patterns": (
        virtual_service(
            http=[
                {"route": TO, "match": [{"uri": {"regex": f"(a|b|{i})*" * 60}}]} for i in range(500)
            ]
        ),
        "",
    ),
    "large number": (
        virtual_service(
            http=[{"route": [{"destination": {"host": "web", "port": {"number": 10**400}}}]}]
        ),
        "destination.port.number",
    ),
    "levels of a struct": (virtual_service(http=[_nested(500)]), "unknown field 'a'"),
    "levels of anything": (
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "any", "namespace": "shop"},
            "spec": _nested(900),
        },
        "too many levels",
    ),
    "more than etcd takes": (virtual_service(hosts=["x" * 2_000_000]), "that etcd takes"),
    "long kind": ({**virtual_service(), "kind": "VirtualService" * 70_000}, "unknown kind"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_hostile_objects_cost_little_and_get_a_short_answer(name: str) -> None:
    item, words = BOUNDED[name]
    began = time.process_time()
    response = judged(item).review["response"]
    assert time.process_time() - began < LONGEST
    if words:
        assert response["allowed"] is False
        assert words in response["status"]["message"]
    else:
        assert response["allowed"] is True
    assert len(json.dumps(response)) < 6000


@pytest.mark.parametrize(("metadata", "allowed"), [({}, False), ({"deletionTimestamp": "x"}, True)])
def test_levels_that_no_decoder_bears_are_answered(metadata: dict[str, str], allowed: bool) -> None:
    """With a sentence for the user; and nothing holds up what is being deleted."""
    item = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata,
        "spec": "deep",
    }
    body = {"apiVersion": V1, "kind": "AdmissionReview", "request": question(item)}
    levels = '{"a":' * 9000 + "1" + "}" * 9000
    asked = decode(json.dumps(body).replace('"deep"', levels).encode())
    response = judge(asked, revision="default").review["response"]
    assert response["allowed"] is allowed
    assert allowed or "too many levels" in response["status"]["message"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    kind=st.sampled_from([row for row in KINDS.values() if row.group.endswith(".istio.io")]),
    metadata=st.just({"name": "web", "namespace": "shop"}) | _JSON,
    spec=_JSON,
    rest=st.dictionaries(_KEYS, _JSON, max_size=2),
)
def test_every_question_gets_an_answer(kind: Kind, metadata: Any, spec: Any, rest: Any) -> None:
    """Whatever the object holds: it is let through or refused, and nothing is raised."""
    identity = {"apiVersion": kind.api_versions[0], "kind": kind.kind}
    item = {**rest, **identity, "metadata": metadata, "spec": spec}
    response = judged(item).review["response"]
    assert response["allowed"] or response["status"]["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b'{"kind": "AdmissionReview", "\xff": 1}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "not an AdmissionReview"),
        (b'{"kind":"AdmissionReview","apiVersion":"v1"}', "apiVersion 'v1'"),
        (json.dumps({"kind": "AdmissionReview", "apiVersion": V1}).encode(), "no request"),
    ],
)
def test_what_is_no_review_cannot_be_answered(body: bytes, reason: str) -> None:
    with pytest.raises(ReviewError, match=reason):
        decode(body)


def _samples(metrics: Metrics) -> Iterator[str]:
    for line in metrics.render().decode().splitlines():
        if line.startswith("galley_validation"):
            yield line


async def test_answers_and_counts_over_http() -> None:
    metrics = Metrics(version="test")
    app = make_admission_app()
    add_validation(app, revision="default", metrics=metrics)
    async with TestClient(TestServer(app)) as client:

        async def post(path: str, **kwargs: Any) -> aiohttp.ClientResponse:
            return await client.post(path, **kwargs)

        def review(item: Any, **request: Any) -> dict[str, Any]:
            asked = question(item, **request)
            return {"apiVersion": V1, "kind": "AdmissionReview", "request": asked}

        good = await post("/validate", json=review(virtual_service()))
        assert (await good.json())["response"]["allowed"] is True
        bad = await post("/validate/any?timeout=10s", json=review(virtual_service(hosts=5)))
        assert (await bad.json())["response"]["allowed"] is False
        await post("/validate", json=review({"apiVersion": "networking.istio.io/v1", "kind": "X"}))
        await post("/validate", json=review(None, operation="DELETE"))
        assert (await post("/validate", data=b"{}")).status == 415
        header = {"Content-Type": "application/json"}
        assert (await post("/validate", data=b"{}", headers=header)).status == 400
        large = await post("/validate", data=io.BytesIO(b" " * (MAX_BODY + 1)), headers=header)
        assert large.status == 413
        assert (await client.get("/ready")).status == 200
    labels = 'group="networking.istio.io",resource="virtualservices",version="v1"'
    reason = 'group="networking.istio.io",reason="invalid_resource",resource="virtualservices"'
    assert sorted(_samples(metrics)) == sorted(
        [
            f"galley_validation_passed{{{labels}}} 1.0",
            f'galley_validation_failed{{{reason},version="v1"}} 1.0',
            'galley_validation_failed{group="other",reason="unknown_type",resource="other",'
            'version="other"} 1.0',
            'galley_validation_http_error{status="415"} 1.0',
            'galley_validation_http_error{status="400"} 1.0',
            'galley_validation_http_error{status="413"} 1.0',
        ]
    )


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.admission.http.PATIENCE", 0.05)
    app = make_admission_app()
    add_validation(app, revision="default", metrics=Metrics(version="test"))
    given_up = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await given_up.wait()

    async with TestClient(TestServer(app)) as client:
        header = {"Content-Type": "application/json"}
        answer = await client.post("/validate", data=body(), headers=header)
        given_up.set()
        assert answer.status == 408


async def test_a_mistake_of_ours_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("controlplane.admission.webhook.judge", broken)
    app = make_admission_app()
    add_validation(app, revision="default", metrics=Metrics(version="test"))
    asked = {"apiVersion": V1, "kind": "AdmissionReview", "request": question(virtual_service())}
    async with TestClient(TestServer(app)) as client:
        answer = await (await client.post("/validate", json=asked)).json()
    status = answer["response"]["status"]
    assert status["code"] == 500
    assert "not because of the object" in status["message"]
