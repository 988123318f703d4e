"""Requests and watches over real sockets: answers, failures, silence, cut streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.discovery import discover
from controlplane.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    KubernetesError,
    NotFoundError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from controlplane.kubernetes.paths import Resource
from tests.unit.kubernetes.fake_server import PlainAccess, serving

ROUTES = Resource("networking.istio.io", "v1", "virtualservices").path()


def status(code: int, message: str, reason: str = "", **details: object) -> web.Response:
    """An answer as the API server gives it."""
    body = {"kind": "Status", "code": code, "message": message, "reason": reason}
    return web.json_response(body | ({"details": details} if details else {}), status=code)


async def test_a_request_brings_bytes_and_sends_what_it_was_given() -> None:
    seen: list[tuple[str, str, str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        kind = request.headers.get("Content-Type", "")
        seen.append((request.method, request.path_qs, kind, await request.read()))
        return web.Response(body=b'{"a": 1}')

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        got = await client.request("GET", ROUTES, query={"limit": "500", "continue": "a+/="})
        assert got == b'{"a": 1}'
        await client.request("PATCH", f"{ROUTES}/x", body=b"{}", content_type="application/x")
    assert seen == [
        ("GET", f"{ROUTES}?limit=500&continue=a%2B/%3D", "", b""),
        ("PATCH", f"{ROUTES}/x", "application/x", b"{}"),
    ]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, InvalidError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, InvalidError),
        (429, TooManyRequestsError),
        (500, UnavailableError),
        (503, UnavailableError),
        (302, UnavailableError),
    ],
)
async def test_each_refusal_has_its_error(code: int, error: type[KubernetesError]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return status(code, "because", "Why")

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(error, match=r"^cannot list virtualservices.*because") as caught:
            await client.request("GET", ROUTES)
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.reason) == (code, "Why")


async def test_a_missing_rule_is_named() -> None:
    async def answer(_: web.Request) -> web.Response:
        return status(403, "User cannot list")

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(ForbiddenError) as caught:
            await client.request("GET", ROUTES)
    assert str(caught.value) == (
        "cannot list virtualservices.networking.istio.io: User cannot list; missing rule: "
        '{apiGroups: ["networking.istio.io"], resources: ["virtualservices"], '
        'verbs: ["list", "watch"]}'
    )
    assert caught.value.call.verb == "list"


async def test_a_busy_server_says_when_to_come_again() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/header":
            return web.Response(status=429, headers={"Retry-After": "7"}, body=b"\xff busy")
        return status(429, "busy", retryAfterSeconds=3)

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(TooManyRequestsError) as by_header:
            await client.request("GET", "/header")
        with pytest.raises(TooManyRequestsError) as by_details:
            await client.request("GET", "/details")
    assert (by_header.value.retry_after, by_details.value.retry_after) == (7, 3)


async def test_a_resource_version_from_the_future_has_its_own_reason() -> None:
    async def answer(_: web.Request) -> web.Response:
        return status(504, "Too large resource version", "Timeout", causes=[
            {"reason": "ResourceVersionTooLarge"}
        ])  # fmt: skip

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.request("GET", ROUTES)
    assert caught.value.reason == "ResourceVersionTooLarge"


async def test_a_refused_token_is_renewed_once() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=200 if seen[-1] == "Bearer new" else 401)

    async with serving(answer) as url:
        async with Client(PlainAccess(url, "old", "new")) as client:
            await client.request("GET", ROUTES)
        assert seen == ["Bearer old", "Bearer new"]
        async with Client(PlainAccess(url, "old", "older", "new")) as client:
            with pytest.raises(UnauthorizedError):
                await client.request("GET", ROUTES)
        assert seen[2:] == ["Bearer old", "Bearer older"]


async def test_no_server_and_no_answer_are_one_sentence() -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(UnavailableError, match=f"at {url}: no answer in time$"):
            await client.request("GET", ROUTES, seconds=0.1)
    async with Client(PlainAccess(url)) as client:
        with pytest.raises(UnavailableError, match=f"at {url}: connection refused$"):
            await client.request("GET", ROUTES)


async def _stream(request: web.Request, *parts: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for part in parts:
        await response.write(part)
        await asyncio.sleep(0.02)
    return response


async def _collect(batches: AsyncIterator[list[bytes]], into: list[bytes]) -> None:
    async for batch in batches:
        into += batch


async def test_a_watch_gives_complete_lines_and_ends_with_the_stream() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        return await _stream(request, b"one\ntw", b"o\nthree\n")

    got: list[bytes] = []
    async with (
        serving(answer) as url,
        Client(PlainAccess(url)) as client,
        client.watch(ROUTES, query={"resourceVersion": "5"}) as batches,
    ):
        await _collect(batches, got)
    assert got == [b"one", b"two", b"three"]
    assert asked == [f"{ROUTES}?resourceVersion=5&watch=true"]


async def test_a_line_of_five_megabytes_is_a_line() -> None:
    line = b"x" * 5_000_000

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _stream(request, line, b"\nshort\n")

    got: list[bytes] = []
    async with (
        serving(answer) as url,
        Client(PlainAccess(url)) as client,
        client.watch(ROUTES, query={}) as batches,
    ):
        await _collect(batches, got)
    assert got == [line, b"short"]


async def test_a_stream_that_ends_within_a_line_is_no_ordinary_end() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await _stream(request, b'{"type":"ADDED"}\n{"type":"ADD')

    got: list[bytes] = []
    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(UnavailableError, match="ended within a line"):
            async with client.watch(ROUTES, query={}) as batches:
                await _collect(batches, got)
    assert got == [b'{"type":"ADDED"}']


async def test_a_broken_connection_is_no_ordinary_end_of_a_watch() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = await _stream(request, b"one\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    got: list[bytes] = []
    async with serving(cut) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(UnavailableError, match=r"cannot watch virtualservices.* broke off$"):
            async with client.watch(ROUTES, query={}) as batches:
                await _collect(batches, got)
    assert got == [b"one"]


async def test_silence_ends_a_watch_in_order_and_only_within_a_line_as_a_failure() -> None:
    """A kind that never changes is silent, and its API server is well."""
    sent = b"one\n"

    async def silent(request: web.Request) -> web.StreamResponse:
        response = await _stream(request, sent)
        await asyncio.sleep(30)
        return response

    async with serving(silent) as url, Client(PlainAccess(url), idle_timeout=0.3) as client:
        got: list[bytes] = []
        async with client.watch(ROUTES, query={}) as batches:
            await _collect(batches, got)
        assert got == [b"one"]
        sent = b"one\ntw"
        with pytest.raises(UnavailableError, match="no answer in time"):
            async with client.watch(ROUTES, query={}) as batches:
                await _collect(batches, got)


async def test_a_watch_that_is_refused_says_why() -> None:
    async def answer(_: web.Request) -> web.Response:
        return status(410, "too old resource version", "Expired")

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(GoneError, match="cannot watch virtualservices"):
            async with client.watch(ROUTES, query={"resourceVersion": "1"}):
                pass


AGGREGATED = {
    "kind": "APIGroupDiscoveryList",
    "items": [
        {
            "metadata": {"name": "networking.istio.io"},
            "versions": [
                {"version": "v1", "resources": [{"resource": "gateways"}], "freshness": "Current"},
                {"version": "v1beta1", "resources": [{"resource": "sidecars"}]},
            ],
        },
        {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": []}]},
    ],
}
PLAIN = {
    "/apis": {"kind": "APIGroupList", "groups": []},
    "/apis/networking.istio.io": {"versions": [{"version": "v1"}, {"version": "v1beta1"}]},
    "/apis/networking.istio.io/v1": {
        "resources": [{"name": "gateways"}, {"name": "gateways/status"}]
    },
    "/apis/networking.istio.io/v1beta1": {"resources": [{"name": "sidecars"}]},
}
SERVED = {"networking.istio.io": {"v1": {"gateways"}, "v1beta1": {"sidecars"}}}
GROUPS = ("networking.istio.io", "discovery.k8s.io")


async def test_discovery_is_one_request_where_the_server_aggregates() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        if request.path == "/readyz":
            return status(403, "not for everybody")
        assert "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" in request.headers["Accept"]
        return web.json_response(AGGREGATED)

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        assert await discover(client, GROUPS) == SERVED
    assert seen == ["/readyz", "/apis"]


async def test_a_server_that_starts_is_not_asked_which_kinds_it_has() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            page = "[+]ping ok\n[-]poststarthook/crd-informer-synced failed: reason withheld\n"
            return web.Response(status=500, text=page)
        return web.json_response({**AGGREGATED, "items": []})

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(
            UnavailableError, match=r"is not ready: poststarthook/crd-informer-synced$"
        ):
            await discover(client, GROUPS)


@pytest.mark.parametrize("refuses", [False, True])
async def test_discovery_asks_each_group_of_an_older_server(refuses: bool) -> None:
    async def answer(request: web.Request) -> web.Response:
        if refuses and request.path == "/apis":
            return status(406, "only JSON")
        found = PLAIN.get(request.path)
        return status(404, "not found") if found is None else web.json_response(found)

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        assert await discover(client, GROUPS) == SERVED


async def test_discovery_that_is_not_current_is_no_answer() -> None:
    stale = msgspec.json.decode(msgspec.json.encode(AGGREGATED))
    stale["items"][0]["versions"][0]["freshness"] = "Stale"

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(stale)

    async with serving(answer) as url, Client(PlainAccess(url)) as client:
        with pytest.raises(UnavailableError, match="not current"):
            await discover(client, GROUPS)
