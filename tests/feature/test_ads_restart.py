"""Make before break across restarts: what only the client knows stays until its routes moved.

The second server has never seen the client; both make the same versions of the same content.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from controlplane.ads.types import CDS, EDS, LDS, RDS
from controlplane.translate.envoy import Cluster
from tests.feature.conversation import Answer, DeltaEnvoy, SotwEnvoy, serving
from tests.feature.world import World, cluster_name

REVIEWS, RATINGS, DETAILS = map(cluster_name, ("reviews", "ratings", "details"))
WORLD = World(
    clusters={"reviews": 1, "ratings": 1},
    endpoints={"reviews": ("10.0.0.1",), "ratings": ("10.0.0.2",)},
    routes={"80": ("reviews",), "90": ("ratings",)},
    listeners={"80": 1, "90": 1},
)
# Reviews is gone, and what was routed to it is routed to something new.
AFTER = World(
    clusters={"ratings": 1, "details": 1},
    endpoints={"ratings": ("10.0.0.2",), "details": ("10.0.0.3",)},
    routes={"80": ("details",)},
    listeners={"80": 1},
)


async def held_before(envoy: DeltaEnvoy | SotwEnvoy) -> Mapping[str, Answer]:
    """What a client holds when the first server goes away."""
    return {
        answer.type_url: answer
        for answer in (
            await envoy.asks_and_accepts(CDS),
            await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS),
            await envoy.asks_and_accepts(LDS),
            await envoy.asks_and_accepts(RDS, "80", "90"),
        )
    }


async def comes_back_in_delta(envoy: DeltaEnvoy, held: Mapping[str, Answer]) -> None:
    await envoy.asks(CDS, initial=held[CDS.url].versions)
    await envoy.asks(EDS, REVIEWS, RATINGS, initial=held[EDS.url].versions)
    await envoy.asks(LDS, initial=held[LDS.url].versions)
    await envoy.asks(RDS, "80", "90", initial=held[RDS.url].versions)


async def comes_back(envoy: SotwEnvoy, held: Mapping[str, Answer]) -> None:
    await envoy.asks(CDS, version=held[CDS.url].version)
    await envoy.asks(EDS, REVIEWS, RATINGS, version=held[EDS.url].version)
    await envoy.asks(LDS, version=held[LDS.url].version)
    await envoy.asks(RDS, "80", "90", version=held[RDS.url].version)


async def test_delta_old_clusters_stay_until_the_new_routes_are_acknowledged() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        held = await held_before(envoy)
    async with serving(AFTER) as mesh, mesh.delta() as envoy:
        await comes_back_in_delta(envoy, held)
        clusters = await envoy.hears(CDS)
        assert (clusters.names, clusters.removed) == ((DETAILS,), ())
        endpoints = await envoy.hears(EDS)
        assert endpoints.names == (RATINGS,), "nobody may empty a cluster that is still in use"
        await envoy.accepts(await envoy.hears(LDS))
        await envoy.accepts(endpoints)
        await envoy.hears_nothing()
        await envoy.accepts(clusters)
        routes = await envoy.hears(RDS)
        assert routes.names == ("80",), "a listener that drains still uses the other one"
        await envoy.hears_nothing()
        await envoy.accepts(routes)
        gone = await envoy.hears(CDS)
        assert (gone.names, gone.removed) == ((), (REVIEWS,))
        await envoy.accepts(gone)
        await envoy.hears_nothing()


async def test_sotw_old_clusters_stay_until_the_new_routes_are_acknowledged() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await held_before(envoy)
    async with serving(AFTER) as mesh, mesh.sotw() as envoy:
        await comes_back(envoy, held)
        clusters = await envoy.hears(CDS)
        assert set(clusters.names) == {REVIEWS, RATINGS, DETAILS}
        kept = Cluster.FromString(clusters.resources[REVIEWS])
        assert kept.type == Cluster.EDS
        assert kept.eds_cluster_config.service_name == REVIEWS
        assert kept.eds_cluster_config.HasField("eds_config")
        endpoints = await envoy.hears(EDS)
        assert endpoints.names == (RATINGS,), "or the cluster that only warms takes over, empty"
        await envoy.accepts(await envoy.hears(LDS))
        # No word about clusters: an Envoy is silent while one warms.
        await envoy.accepts(endpoints, REVIEWS, RATINGS, DETAILS)
        endpoints = await envoy.hears(EDS)
        assert endpoints.names == (DETAILS,)
        await envoy.hears_nothing()
        await envoy.accepts(endpoints, REVIEWS, RATINGS, DETAILS)
        routes = await envoy.hears(RDS, 1.0)
        assert routes.names == ("80",), "a listener that drains still uses the other one"
        await envoy.hears_nothing()
        await envoy.accepts(routes, "80", "90")
        gone = await envoy.hears(CDS)
        assert set(gone.names) == {RATINGS, DETAILS}
        await envoy.accepts(gone)
        # Clusters that were never acknowledged may warm again.
        assert set((await envoy.hears(EDS)).names) == {RATINGS, DETAILS}
        await envoy.hears_nothing()


async def test_sotw_clusters_wait_for_what_the_client_says_it_holds() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await held_before(envoy)
    async with serving(AFTER) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS, version=held[CDS.url].version)
        await envoy.hears_nothing(0.5)
        await envoy.asks(EDS, REVIEWS, RATINGS, version=held[EDS.url].version)
        assert REVIEWS in (await envoy.hears(CDS)).names
    async with serving(AFTER) as mesh, mesh.sotw() as envoy:
        # Whoever says no more is answered all the same.
        await envoy.asks(CDS, version=held[CDS.url].version)
        assert set((await envoy.hears(CDS)).names) == {RATINGS, DETAILS}


@pytest.mark.parametrize("delta", [True, False])
async def test_a_client_that_acknowledges_nothing_keeps_old_clusters_for_a_while_only(
    delta: bool,
) -> None:
    async with serving(WORLD) as mesh, mesh.delta() if delta else mesh.sotw() as envoy:
        held = await held_before(envoy)
    async with serving(AFTER) as mesh, mesh.delta() if delta else mesh.sotw() as envoy:
        began = time.monotonic()
        if isinstance(envoy, DeltaEnvoy):
            await comes_back_in_delta(envoy, held)
        else:
            await comes_back(envoy, held)
        while True:  # how many come before depends on how many requests are read at once
            last = await envoy.hears_anything(25.0)
            gone = last.removed == (REVIEWS,) if delta else REVIEWS not in last.names
            if last.type_url == CDS.url and gone:
                break
        assert 4.5 < last.at - began < 25.0


async def test_a_client_with_clusters_of_today_rebuilds_nothing() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await held_before(envoy)
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await comes_back(envoy, held)
        assert set((await envoy.hears(EDS)).names) == {REVIEWS, RATINGS}
        assert set((await envoy.hears(RDS)).names) == {"80", "90"}
        await envoy.hears_nothing()
