"""Tokens that the API server knows."""

from __future__ import annotations

import msgspec
import pytest
from aiohttp import web

from controlplane.debug.auth import Identity, RefusedError, make_doors
from controlplane.debug.token_review import TokenReviews
from controlplane.kubernetes.client import Client
from tests.unit.kubernetes.fake_server import PlainAccess, serving

USERS = {
    "root": ("system:serviceaccount:istio-system:istiod", ["system:authenticated"]),
    "other": ("system:serviceaccount:shop:cart", []),
    "admin": ("jane", ["system:masters"]),
    "plain": ("joe", []),
}


async def review(request: web.Request) -> web.Response:
    """Answer as the API server does."""
    if request.headers.get("Authorization") != "Bearer mine":
        return web.Response(status=401)
    assert request.path == "/apis/authentication.k8s.io/v1/tokenreviews"
    asked = msgspec.json.decode(await request.read())
    assert (request.method, asked["kind"]) == ("POST", "TokenReview")
    user = USERS.get(asked["spec"]["token"])
    status: dict[str, object] = {"authenticated": False, "error": "no such token"}
    if user is not None:
        status = {"authenticated": True, "user": {"username": user[0], "groups": user[1]}}
    return web.json_response(asked | {"status": status}, status=201)


@pytest.mark.parametrize(
    ("token", "identity"),
    [
        ("root", Identity(name=USERS["root"][0], namespace="istio-system", privileged=True)),
        ("other", Identity(name=USERS["other"][0], namespace="shop")),
        ("admin", Identity(name="jane", privileged=True)),
        ("plain", Identity(name="joe")),
        ("unknown", None),
    ],
)
async def test_the_api_server_says_whose_a_token_is(token: str, identity: Identity | None) -> None:
    async with serving(review) as url, Client(PlainAccess(url, "mine")) as client:
        reviews = TokenReviews(client, root_namespace="istio-system")
        assert await reviews.authenticate(token) == identity


async def test_without_an_answer_nobody_is_let_in() -> None:
    async with serving(review) as url, Client(PlainAccess(url, "wrong")) as client:
        doors = make_doors(None, others=[TokenReviews(client, root_namespace="istio-system")])
        with pytest.raises(RefusedError, match="not valid") as caught:
            await doors.admit(peer="10.0.0.1", host="x", authorization="Bearer root")
    assert caught.value.status == 401


async def test_a_token_that_is_no_text_is_refused_and_asked_about_nowhere() -> None:
    """As a server reads bytes of a header that are no UTF-8."""
    async with serving(review) as url, Client(PlainAccess(url, "mine")) as client:
        doors = make_doors(None, others=[TokenReviews(client, root_namespace="istio-system")])
        with pytest.raises(RefusedError, match="not valid"):
            await doors.admit(peer="10.0.0.1", host="x", authorization="Bearer \udcff")


async def test_a_token_of_kubernetes_opens_the_doors() -> None:
    async with serving(review) as url, Client(PlainAccess(url, "mine")) as client:
        doors = make_doors(None, others=[TokenReviews(client, root_namespace="istio-system")])
        found = await doors.admit(peer="10.0.0.1", host="x", authorization="Bearer other")
    assert found.namespace == "shop"
