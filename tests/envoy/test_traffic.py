"""What the exercises promise is what requests through real Envoys see."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.envoy.harness import Bed, bed, eventually, virtual_hosts
from tests.envoy.traffic import Backend, Call, Caller, Load, backends

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


class Mesh:
    """A bed with one sidecar, one gateway and backends, and a caller of each."""

    def __init__(self, bed: Bed, apps: dict[str, Backend], caller: Caller, visitor: Caller) -> None:
        self.bed = bed
        self.apps = apps
        self.caller = caller
        self.visitor = visitor

    def host(self, service: str) -> str:
        """The Host header of a call to a service."""
        return f"{service}:{self.bed.layout.service_port}"

    async def apply(self, **files: str) -> None:
        """Make these files hold, `reviews="90-10"` style names of whole files, and no others."""
        sidecar = self.bed.envoys["sidecar"]
        before = await virtual_hosts(sidecar)
        changed = False
        for path in self.bed.live.glob("*.yaml"):
            if path.stem not in files:
                path.unlink()
                changed = True
        for name, exercise in files.items():
            self.bed.copy(f"virtual-service-{exercise}.yaml", f"{name}.yaml")
            changed = True
        if changed:
            await eventually(
                lambda: virtual_hosts(sidecar), lambda now: now != before, what=f"routes {files}"
            )
        await self.bed.settled()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Mesh]:
    async with bed() as made, backends(made.layout) as apps:
        await made.sidecar()
        await made.gateway()
        layout = made.layout
        async with Caller(layout.service_port) as caller, Caller(layout.gateway_port) as visitor:
            yield Mesh(made, apps, caller, visitor)


async def test_the_gateway_routes_by_path_to_productpage(mesh: Mesh) -> None:
    answer = await mesh.visitor.get("anything.example.com", "/productpage")
    assert (answer.status, answer.app) == (200, "productpage-v1")
    other = await mesh.visitor.get("anything.example.com", "/elsewhere")
    assert other.status == 404


async def test_without_a_virtual_service_all_versions_answer_evenly(mesh: Mesh) -> None:
    await mesh.apply()
    seen = await mesh.caller.count(mesh.host("reviews"), 120)
    assert set(seen) == {"reviews-v1", "reviews-v2", "reviews-v3"}
    assert min(seen.values()) > 15, seen


@pytest.mark.parametrize(
    "host",
    ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local"],
)
async def test_a_service_answers_to_all_its_names(mesh: Mesh, host: str) -> None:
    for name in (host, mesh.host(host)):
        answer = await mesh.caller.get(name)
        assert (answer.status, answer.app[:7]) == (200, "reviews")


async def test_all_v1(mesh: Mesh) -> None:
    await mesh.apply(reviews="all-v1")
    assert await mesh.caller.count(mesh.host("reviews"), 50) == {"reviews-v1": 50}


async def test_jason_gets_version_2(mesh: Mesh) -> None:
    await mesh.apply(reviews="reviews-test-v2")
    jason = await mesh.caller.count(mesh.host("reviews"), 20, end_user="jason")
    others = await mesh.caller.count(mesh.host("reviews"), 20, end_user="jasonx")
    assert (jason, others) == ({"reviews-v2": 20}, {"reviews-v1": 20})


async def test_jason_and_everybody_else_are_two_groups(mesh: Mesh) -> None:
    await mesh.apply(reviews="reviews-jason-v2-v3")
    jason = await mesh.caller.count(mesh.host("reviews"), 20, end_user="jason")
    others = await mesh.caller.count(mesh.host("reviews"), 20)
    assert (jason, others) == ({"reviews-v2": 20}, {"reviews-v3": 20})


@pytest.mark.parametrize(
    ("exercise", "shares"),
    [
        ("reviews-80-20", {"reviews-v1": 0.8, "reviews-v2": 0.2}),
        ("reviews-50-v3", {"reviews-v1": 0.5, "reviews-v3": 0.5}),
        ("reviews-v2-v3", {"reviews-v2": 0.5, "reviews-v3": 0.5}),
    ],
)
async def test_weights_divide_the_calls(
    mesh: Mesh, exercise: str, shares: dict[str, float]
) -> None:
    await mesh.apply(reviews=exercise)
    seen = await mesh.caller.count(mesh.host("reviews"), 600)
    assert set(seen) == set(shares)
    for name, share in shares.items():
        assert seen[name] / 600 == pytest.approx(share, abs=0.1)


async def test_a_split_copied_in_under_load_fails_no_request(mesh: Mesh) -> None:
    await mesh.apply(reviews="all-v1")
    load = Load(mesh.caller, mesh.host("reviews"))
    await load.reach(300)
    await mesh.apply(reviews="reviews-90-10")
    # Calls under way were routed before.
    changed = len(load.outcomes) + 16
    await load.reach(changed + (100_000 if os.environ.get("PYLOT_SOAK") else 4000))
    seen = await load.stop()
    assert set(seen) == {"reviews-v1", "reviews-v2"}, seen
    assert {outcome for _, outcome in load.outcomes[:300]} == {"reviews-v1"}
    after = [outcome for _, outcome in load.outcomes[changed:]]
    assert after.count("reviews-v2") / len(after) == pytest.approx(0.1, abs=0.03)


async def test_a_delay_is_for_jason_only(mesh: Mesh) -> None:
    await mesh.apply(ratings="ratings-test-delay")
    other = await mesh.caller.get(mesh.host("ratings"))
    jason = await mesh.caller.get(mesh.host("ratings"), end_user="jason")
    assert (jason.status, other.status) == (200, 200)
    assert 6.9 < jason.seconds < 12.0
    assert other.seconds < 6.0


async def test_an_abort_is_for_jason_only_and_never_reaches_the_service(mesh: Mesh) -> None:
    await mesh.apply(ratings="ratings-test-abort")
    calls = len(mesh.apps["ratings-v1"].calls)
    jason = await mesh.caller.get(mesh.host("ratings"), end_user="jason")
    assert (jason.status, jason.text) == (500, "fault filter abort")
    assert len(mesh.apps["ratings-v1"].calls) == calls
    assert (await mesh.caller.get(mesh.host("ratings"))).status == 200


async def test_a_mirror_sends_a_copy_and_answers_from_the_route(mesh: Mesh) -> None:
    await mesh.apply(reviews="reviews-mirror")
    routed, copied = mesh.apps["reviews-v1"].calls, mesh.apps["reviews-v3"].calls
    routed.clear()
    copied.clear()
    seen = await mesh.caller.count(mesh.host("reviews"), 20)
    assert seen == {"reviews-v1": 20}

    async def copies() -> list[Call]:
        return list(copied)

    found = await eventually(copies, lambda calls: len(calls) == 20, what="20 copies")
    ids = {call.headers["x-request-id"] for call in routed}
    assert {call.headers["x-request-id"] for call in found} == ids
    # As Istio does it, a copy does not show that it is one.
    assert {call.host for call in found} == {mesh.host("reviews")}


async def test_a_timeout_ends_the_wait(mesh: Mesh) -> None:
    await mesh.apply(reviews="reviews-timeout")
    mesh.apps["reviews-v2"].delay = 6.0
    try:
        answer = await mesh.caller.get(mesh.host("reviews"))
    finally:
        mesh.apps["reviews-v2"].delay = 0.0
    assert (answer.status, answer.text) == (504, "upstream request timeout")
    assert 0.45 < answer.seconds < 5.0


async def test_retries_hide_three_failures_and_not_four(mesh: Mesh) -> None:
    await mesh.apply(ratings="ratings-retries")
    ratings = mesh.apps["ratings-v1"]
    ratings.fail = 3
    assert (await mesh.caller.get(mesh.host("ratings"))).status == 200
    ratings.fail = 4
    assert (await mesh.caller.get(mesh.host("ratings"))).status == 503
    assert ratings.fail == 0


async def test_by_default_an_error_of_the_service_is_not_retried(mesh: Mesh) -> None:
    await mesh.apply()
    ratings = mesh.apps["ratings-v1"]
    ratings.calls.clear()
    ratings.fail = 1
    assert (await mesh.caller.get(mesh.host("ratings"))).status == 503
    assert len(ratings.calls) == 1


async def test_by_default_another_endpoint_is_tried_when_one_refuses(mesh: Mesh) -> None:
    await mesh.apply()
    dead = mesh.apps["reviews-v2"]
    await dead.stop()
    try:
        seen = await mesh.caller.count(mesh.host("reviews"), 60)
    finally:
        await dead.start()
    assert set(seen) == {"reviews-v1", "reviews-v3"}
