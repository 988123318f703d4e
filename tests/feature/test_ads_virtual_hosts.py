"""An Envoy that rejects a route configuration: only the guilty virtual host stays behind."""

from __future__ import annotations

import pytest

from controlplane.ads.progress import ProxyState
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, EDS, LDS, RDS
from controlplane.model.meta import ObjectRef
from controlplane.translate.envoy import RouteConfiguration
from tests.feature.conversation import Answer, DeltaEnvoy, Mesh, SotwEnvoy, serving
from tests.feature.world import ROUTES_ONLY, World, cluster_name

HOSTS = ("details", "ratings", "reviews", "productpage")
WORLD = World(
    clusters=dict.fromkeys((*HOSTS, "fresh"), 1),
    endpoints=dict.fromkeys(HOSTS, ("10.0.0.1",)),
    routes={"80": HOSTS},
    listeners={"80": 1},
)
BROKEN = frozenset({"80/ratings"})
NODES = [f"sidecar~1.1.1.{n}~p{n}.test~default.svc.cluster.local" for n in range(1, 5)]


def hosts(answer: Answer) -> dict[str, bool]:
    """The virtual hosts of a response, and whether they are as broken as they can be."""
    message = RouteConfiguration.FromString(answer.resources["80"])
    return {host.name: host.routes[0].name == "broken" for host in message.virtual_hosts}


async def synced(envoy: SotwEnvoy | DeltaEnvoy) -> Answer:
    await envoy.asks_and_accepts(CDS)
    await envoy.asks_and_accepts(EDS, *map(cluster_name, WORLD.clusters))
    await envoy.asks_and_accepts(LDS)
    return await envoy.asks_and_accepts(RDS, "80")


async def judges(envoy: SotwEnvoy | DeltaEnvoy, answer: Answer, version: str) -> bool:
    """Answer as an Envoy would that says nothing useful; return whether it took the routes."""
    taken = not any(hosts(answer).values())
    match envoy:
        case SotwEnvoy() if taken:
            await envoy.accepts(answer, "80")
        case SotwEnvoy():
            await envoy.rejects(answer, "80", error="missing ): (", version=version)
        case DeltaEnvoy() if taken:
            await envoy.accepts(answer)
        case _:
            await envoy.rejects(answer, error="missing ): (")
    return taken


async def judges_until(
    mesh: Mesh, envoy: SotwEnvoy | DeltaEnvoy, wanted: dict[str, bool], version: str = ""
) -> Answer:
    """Judge what comes until a culprit is found and these hosts are taken; return the answer."""

    def answered() -> float:
        (connection,) = mesh.server.status().connections
        return connection.watches[RDS.url].time_acked

    def judged() -> bool:
        return answered() != before

    taken: Answer | None = None
    while taken is None or hosts(taken) != wanted or not blamed(mesh):
        answer, before = await envoy.hears(RDS), answered()
        if await judges(envoy, answer, version):
            taken, version = answer, answer.version
        await mesh.until(judged)
        assert len(envoy.heard) < 20
    return taken


def blamed(mesh: Mesh) -> set[str]:
    """The objects with a finding."""
    return {str(item.ref) for item in mesh.server.status().diagnostics}


@pytest.mark.parametrize("delta", [True, False])
async def test_an_unnamed_virtual_host_is_found_and_the_others_move_on(delta: bool) -> None:
    async with serving(WORLD) as mesh, mesh.delta() if delta else mesh.sotw() as envoy:
        before = await synced(envoy)
        mesh.becomes(ROUTES_ONLY, routes={"80": ("fresh", *HOSTS)}, broken=BROKEN)
        everything = dict.fromkeys(("fresh", *HOSTS), False)
        taken = await judges_until(mesh, envoy, everything, before.version)
        await envoy.hears_nothing(0.5)
        assert blamed(mesh) == {"VirtualService default/ratings"}
        last = RouteConfiguration.FromString(taken.resources["80"])
        old = RouteConfiguration.FromString(before.resources["80"])
        assert [host for host in last.virtual_hosts if host.name == "ratings"] == [
            host for host in old.virtual_hosts if host.name == "ratings"
        ]
        (connection,) = mesh.server.status().connections
        (rejection,) = connection.watches[RDS.url].rejections
        assert rejection.resource == "80 virtual_hosts[ratings]"
        assert progress(mesh, "ratings") == [ProxyState.REJECTED]
        assert progress(mesh, "fresh") == [ProxyState.ACKNOWLEDGED]
        mesh.becomes(ROUTES_ONLY, broken=frozenset())
        # Mended is as it was, so the client holds all of it already.
        await mesh.until(lambda: not blamed(mesh))
        await mesh.until(lambda: progress(mesh, "ratings") == [ProxyState.ACKNOWLEDGED])


async def test_the_only_virtual_host_that_changed_is_convicted_at_once() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await synced(envoy)
        mesh.becomes(ROUTES_ONLY, broken=BROKEN)
        assert not await judges(envoy, await envoy.hears(RDS), held.version)
        await mesh.until(lambda: blamed(mesh) == {"VirtualService default/ratings"})
        await envoy.hears_nothing(1.0)


async def test_a_new_client_gets_all_but_the_guilty_virtual_host() -> None:
    async with serving(WORLD.with_(broken=BROKEN)) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(CDS)
        await envoy.asks_and_accepts(EDS, *map(cluster_name, WORLD.clusters))
        await envoy.asks_and_accepts(LDS)
        await envoy.asks(RDS, "80")
        others = [host for host in HOSTS if host != "ratings"]
        await judges_until(mesh, envoy, dict.fromkeys(others, False))
        await envoy.hears_nothing(0.5)
        assert blamed(mesh) == {"VirtualService default/ratings"}


async def test_others_are_spared_a_virtual_host_and_keep_its_predecessor() -> None:
    async with serving(WORLD) as mesh, mesh.sotw(NODES[0]) as one, mesh.sotw(NODES[1]) as two:
        held = await synced(one)
        await synced(two)
        mesh.becomes(ROUTES_ONLY, broken=BROKEN)
        for envoy in (one, two):
            assert not await judges(envoy, await envoy.hears(RDS), held.version)
        await mesh.until(
            lambda: any("2 proxies" in item.message for item in mesh.server.status().diagnostics)
        )
        async with mesh.sotw(NODES[2]) as three:
            assert hosts(await synced(three)) == dict.fromkeys(HOSTS, False)
            # Whatever else changes reaches it.
            mesh.becomes(ROUTES_ONLY, routes={"80": ("fresh", *HOSTS)})
            answer = await three.hears(RDS)
            assert hosts(answer) == dict.fromkeys(("fresh", *HOSTS), False)
        async with mesh.sotw(NODES[3], agent="another envoy") as four:
            assert hosts(await synced(four))["ratings"], "another build is not spared"


async def test_a_virtual_host_that_somebody_accepts_is_withheld_from_nobody() -> None:
    async with (
        serving(WORLD) as mesh,
        mesh.sotw(NODES[0]) as one,
        mesh.sotw(NODES[1]) as two,
        mesh.sotw(NODES[2]) as tolerant,
        mesh.sotw(NODES[3]) as late,
    ):
        held = await synced(one)
        await synced(two)
        await synced(tolerant)
        mesh.becomes(ROUTES_ONLY, broken=BROKEN)
        for envoy in (one, two):
            assert not await judges(envoy, await envoy.hears(RDS), held.version)
        await mesh.until(
            lambda: any("2 proxies" in item.message for item in mesh.server.status().diagnostics)
        )
        await tolerant.accepts(await tolerant.hears(RDS), "80")
        await mesh.until(lambda: all(item.accepted for item in mesh.pusher.rejections.of(RDS.kind)))
        assert hosts(await synced(late))["ratings"]


def progress(mesh: Mesh, host: str) -> list[ProxyState]:
    """How far the proxies are with a VirtualService."""
    found = mesh.pusher.progress(ObjectRef("VirtualService", "default", host))
    return [proxy.state for proxy in found.proxies]


async def test_what_stays_keeps_the_clusters_that_it_uses() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await synced(envoy)
        without = {host: 1 for host in WORLD.clusters if host != "ratings"}
        mesh.becomes(clusters=without, broken=BROKEN)
        assert not await judges(envoy, await envoy.hears(RDS), held.version)
        await mesh.until(lambda: blamed(mesh) == {"VirtualService default/ratings"})
        # Longer than anything waits for an acknowledgement: it is in use for good.
        await envoy.hears_nothing(ACKNOWLEDGE_LIMIT + 1)
        mesh.becomes(ROUTES_ONLY, routes={"80": tuple(h for h in HOSTS if h != "ratings")})
        await envoy.accepts(await envoy.hears(RDS), "80")
        assert set((await envoy.hears(CDS)).names) == {*map(cluster_name, without)}
