"""Which objects some proxies do not run yet, as streams ask, take, refuse and leave."""

from __future__ import annotations

from functools import partial

from controlplane.ads.types import CDS, EDS
from controlplane.model.meta import ObjectRef
from tests.feature.conversation import Mesh, serving
from tests.feature.world import World

A, B = (ObjectRef("DestinationRule", "default", host) for host in ("a", "b"))


async def waiting(mesh: Mesh) -> dict[ObjectRef, int]:
    """What is outstanding, as soon as every class has looked at the newest snapshot."""
    await mesh.until(lambda: mesh.pusher.outstanding().current)
    return dict(mesh.pusher.outstanding().waiting)


def taken(mesh: Mesh) -> bool:
    """Whether every proxy runs everything."""
    found = mesh.pusher.outstanding()
    return found.current and not found.waiting


async def test_an_object_waits_until_every_proxy_has_acknowledged_what_it_made() -> None:
    async with serving(World(clusters={"a": 1, "b": 1})) as mesh:
        assert await waiting(mesh) == {}, "without proxies there is nobody to wait for"
        async with mesh.sotw() as one, mesh.delta("sidecar~1.1.1.2~two.test~x") as two:
            await one.asks(CDS)
            await two.asks(CDS)
            first, second = await one.hears(CDS), await two.hears(CDS)
            assert await waiting(mesh) == {A: 2, B: 2}
            await one.accepts(first)
            await two.accepts(second)
            await mesh.until(partial(taken, mesh))

            mesh.becomes(clusters={"a": 1, "b": 2})
            assert await waiting(mesh) == {B: 2}, "what did not change is not waited for"
            await one.accepts(await one.hears(CDS))
            await mesh.until(lambda: dict(mesh.pusher.outstanding().waiting) == {B: 1})
        await mesh.until(partial(taken, mesh))


async def test_an_object_that_made_something_waits_until_it_is_taken_away() -> None:
    async with serving(World(clusters={"a": 1, "b": 1})) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        await envoy.accepts(await envoy.hears(CDS))
        await mesh.until(partial(taken, mesh))
        mesh.becomes(clusters={"a": 1})
        gone = await envoy.hears(CDS)
        assert await waiting(mesh) == {B: 1}
        await envoy.accepts(gone)
        await mesh.until(partial(taken, mesh))


async def test_what_a_proxy_rejects_is_a_finding_and_not_waited_for() -> None:
    async with serving(World(clusters={"a": 1, "b": 1})) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        await envoy.accepts(await envoy.hears(CDS))
        await mesh.until(partial(taken, mesh))
        mesh.becomes(clusters={"a": 2, "b": 1})
        await envoy.rejects(await envoy.hears(CDS), error="Error adding cluster outbound|80||a: no")
        await mesh.until(lambda: bool(mesh.pusher.findings()))
        (finding,) = mesh.pusher.findings()
        assert (finding.ref, finding.code) == (A, "RejectedByEnvoy")
        await mesh.until(partial(taken, mesh))
        mesh.becomes(clusters={"a": 3, "b": 1})
        await envoy.accepts(await envoy.hears(CDS))
        await mesh.until(lambda: taken(mesh) and not mesh.pusher.findings())


async def test_a_proxy_waits_only_for_what_it_asks_for() -> None:
    world = World(clusters={"a": 1}, endpoints={"a": ("1.1.1.1",)})
    async with serving(world) as mesh, mesh.sotw() as envoy:
        await envoy.asks(EDS, "outbound|80||a")
        await envoy.accepts(await envoy.hears(EDS), "outbound|80||a")
        await mesh.until(partial(taken, mesh))
        mesh.becomes(clusters={"a": 2})
        assert await waiting(mesh) == {}
