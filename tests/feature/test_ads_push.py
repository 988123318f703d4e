"""Rows E and G1, and rule 9: what a change pushes, in which order, and what waits for what."""

from __future__ import annotations

import asyncio
import time

from controlplane.ads.types import CDS, EDS, LDS, RDS
from controlplane.model.diff import Change
from controlplane.model.names import Host
from tests.feature.conversation import NODE, SotwEnvoy, serving
from tests.feature.world import CONFIG, World, cluster_name

REVIEWS = cluster_name("reviews")
RATINGS = cluster_name("ratings")
DETAILS = cluster_name("details")
LATE = 15.0  # seconds in which a wait of five ends on a busy machine, too
WORLD = World(
    clusters={"reviews": 1, "ratings": 1},
    endpoints={"reviews": ("10.0.0.1",), "ratings": ("10.0.0.2",), "details": ("10.0.0.3",)},
    routes={"80": ("reviews",)},
    listeners={"80": 1},
)


async def synced(envoy: SotwEnvoy) -> None:
    await envoy.asks_and_accepts(CDS)
    await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS)
    await envoy.asks_and_accepts(LDS)
    await envoy.asks_and_accepts(RDS, "80")


async def test_e1_nothing_is_sent_without_a_change() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(CONFIG)  # an equal world: same bytes
        mesh.becomes(Change(mesh=True))
        await envoy.hears_nothing(1.0)


async def test_e3_one_change_of_all_types_is_sent_in_order() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={"reviews": 2, "ratings": 1},
            endpoints={"reviews": ("10.0.0.9",), "ratings": ("10.0.0.2",)},
            listeners={"80": 2},
            routes={"80": ("reviews", "ratings")},
        )
        order = [(await envoy.hears_anything()).type_url for _ in range(4)]
        assert order == [CDS.url, EDS.url, LDS.url, RDS.url]


async def test_e5_endpoints_push_endpoints_alone() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        made = mesh.generator.made
        mesh.scales("reviews", "10.0.0.1", "10.0.0.7")
        answer = await envoy.hears(EDS)
        assert answer.names == (REVIEWS,)
        assert mesh.generator.made == made + 1, "one load assignment was made, and nothing else"
        await envoy.hears_nothing()


async def test_e7_a_change_that_a_proxy_does_not_see_pushes_nothing() -> None:
    world = WORLD.with_(private={"ratings": "elsewhere"})
    async with serving(world) as mesh, mesh.sotw() as envoy:
        assert (await envoy.asks_and_accepts(CDS)).names == (REVIEWS,)
        mesh.becomes(clusters={"reviews": 1, "ratings": 2})
        await envoy.hears_nothing()


async def test_e8_a_client_that_does_not_read_delays_nobody_and_ends_with_the_last_state() -> None:
    padding = {f"service-{number}": 1 for number in range(800)}
    world = WORLD.with_(clusters={**WORLD.clusters, **padding})
    async with serving(world) as mesh:
        other = "sidecar~1.1.1.2~b.test~default.svc.cluster.local"
        async with mesh.sotw() as slow, mesh.sotw(other) as healthy:
            await slow.asks(CDS)
            await slow.hears(CDS)
            await healthy.asks_and_accepts(CDS)
            slowest = 0.0
            for number in range(2, 202):
                began = time.monotonic()
                mesh.becomes(clusters={**world.clusters, "reviews": number})
                answer = await healthy.hears(CDS)
                slowest = max(slowest, answer.at - began)
                await healthy.accepts(answer)
            assert slowest < 1.0
            heard = 0
            while True:
                late = await slow.hears(CDS)
                heard += 1
                if late.resources == answer.resources:
                    break
            assert heard < 120, f"{heard} of 200 pushes were kept for a client that did not read"


async def test_g1_endpoints_follow_their_changed_cluster_unasked_and_unchanged() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        before = envoy.heard[1]
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        await envoy.hears(CDS)  # not acknowledged: Envoy is silent while the cluster warms
        answer = await envoy.hears(EDS)
        assert answer.names == (REVIEWS,)
        assert answer.resources[REVIEWS] == before.resources[REVIEWS]


async def test_a_newer_cds_is_sent_while_one_is_unacknowledged() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        for number in (2, 3):
            mesh.becomes(clusters={"reviews": number, "ratings": 1})
            assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS)
            await envoy.hears(EDS)


async def test_a_route_to_a_new_cluster_waits_for_its_acknowledgement() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1}, routes={"80": ("reviews", "details")}
        )
        answer = await envoy.hears(CDS)
        assert DETAILS in answer.names
        await envoy.asks(EDS, REVIEWS, RATINGS, DETAILS, nonce=envoy.heard[1].nonce)
        assert (await envoy.hears(EDS)).names == (DETAILS,)
        await envoy.hears_nothing(0.3)
        await envoy.accepts(answer)
        assert b"details" in (await envoy.hears(RDS)).resources["80"]


async def test_a_route_waits_five_seconds_at_most() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        began = time.monotonic()
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1}, routes={"80": ("reviews", "details")}
        )
        await envoy.hears(CDS)
        answer = await envoy.hears(RDS, LATE)
        assert 4.5 < answer.at - began < LATE


async def test_a_route_that_newly_names_nothing_being_added_does_not_wait() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1}, routes={"80": ("reviews", "ratings")}
        )
        await envoy.hears(CDS)
        await envoy.hears(RDS, 1.0)


async def test_a_route_to_a_destination_that_does_not_exist_waits_for_nothing() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1}, routes={"80": ("reviews", "nobody")}
        )
        await envoy.hears(CDS)
        await envoy.hears(RDS, 1.0)


async def test_a_listener_that_names_a_new_cluster_waits_and_another_does_not() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1},
            listeners={"80": 2, "tcp": 1},
            tcp={"tcp": ("details",)},
        )
        clusters = await envoy.hears(CDS)
        assert (await envoy.hears(LDS)).names == ("80",)
        await envoy.accepts(clusters)
        assert (await envoy.hears(LDS)).names == ("80", "tcp")


async def test_a_cluster_stays_until_the_routes_that_stopped_using_it_are_acknowledged() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(clusters={"ratings": 1}, routes={"80": ("ratings",)})
        routes = await envoy.hears(RDS)  # no CDS before: old and new together are as before
        await envoy.hears_nothing()
        await envoy.accepts(routes, "80")
        assert (await envoy.hears(CDS)).names == (RATINGS,)


async def test_an_unused_cluster_goes_at_once() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(clusters={"reviews": 1})
        assert (await envoy.hears(CDS, 1.0)).names == (REVIEWS,)


async def test_retirement_waits_for_all_streams_of_the_class() -> None:
    other = "sidecar~1.1.1.2~b.test~default.svc.cluster.local"
    async with serving(WORLD) as mesh, mesh.sotw() as one, mesh.sotw(other) as two:
        await synced(one)
        await synced(two)
        mesh.becomes(clusters={"ratings": 1}, routes={"80": ("ratings",)})
        await one.accepts(await one.hears(RDS), "80")
        routes = await two.hears(RDS)
        await one.hears_nothing()
        await two.accepts(routes, "80")
        assert (await one.hears(CDS)).names == (RATINGS,)
        assert (await two.hears(CDS)).names == (RATINGS,)


async def test_retirement_waits_five_seconds_at_most_and_not_for_who_has_left() -> None:
    other = "sidecar~1.1.1.2~b.test~default.svc.cluster.local"
    async with serving(WORLD) as mesh, mesh.sotw() as one, mesh.sotw(other) as two:
        await synced(one)
        await synced(two)
        began = time.monotonic()
        mesh.becomes(clusters={"ratings": 1}, routes={"80": ("ratings",)})
        await one.accepts(await one.hears(RDS), "80")
        answer = await one.hears(CDS, LATE)
        assert 4.5 < answer.at - began < LATE
        await one.accepts(answer)
        mesh.becomes(clusters={"details": 1}, routes={"80": ("details",)})
        clusters = await one.hears(CDS)
        assert set(clusters.names) == {DETAILS, RATINGS}
        await one.accepts(clusters)
        await one.accepts(await one.hears(RDS), "80")
        two.leaves()
        assert (await one.hears(CDS, 2.0)).names == (DETAILS,)


async def test_replacing_a_cluster_shows_old_and_new_together_first() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={"ratings": 1, "details": 1}, routes={"80": ("details",)}, endpoints={}
        )
        both = await envoy.hears(CDS)
        assert set(both.names) == {REVIEWS, RATINGS, DETAILS}
        endpoints = await envoy.hears(EDS)
        assert REVIEWS not in endpoints.names, "the endpoints of a cluster on its way out stay"
        await envoy.accepts(both)
        await envoy.accepts(await envoy.hears(RDS), "80")
        assert set((await envoy.hears(CDS)).names) == {RATINGS, DETAILS}


async def test_e4_every_reference_is_served_after_a_push() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={"reviews": 1, "details": 1},
            routes={"80": ("details",), "95": ("reviews",)},
            listeners={"80": 1, "95": 1},
        )
        held: dict[str, dict[str, bytes]] = {}
        nonces: dict[str, str] = {}
        names = {EDS.url: [REVIEWS, RATINGS], RDS.url: ["80"]}
        for answer in envoy.heard:
            held.setdefault(answer.type_url, {}).update(answer.resources)
            nonces[answer.type_url] = answer.nonce
        try:
            while True:
                answer = await envoy.hears_anything(1.0)
                nonces[answer.type_url] = answer.nonce
                if answer.type_url in (CDS.url, LDS.url):
                    held[answer.type_url] = dict(answer.resources)
                else:
                    held[answer.type_url].update(answer.resources)
                await envoy.accepts(answer, *names.get(answer.type_url, ()))
                if answer.type_url == CDS.url:
                    names[EDS.url] = sorted(answer.names)
                    await envoy.asks(EDS, *names[EDS.url], nonce=nonces[EDS.url])
                if answer.type_url == LDS.url:
                    names[RDS.url] = sorted(answer.names)
                    await envoy.asks(RDS, *names[RDS.url], nonce=nonces[RDS.url])
        except TimeoutError:
            pass
        assert set(held[CDS.url]) == {REVIEWS, DETAILS}
        assert set(held[CDS.url]) <= set(held[EDS.url])
        assert set(held[LDS.url]) == {"80", "95"} <= set(held[RDS.url])
        assert b"details" in held[RDS.url]["80"]
        assert b"reviews" in held[RDS.url]["95"]


async def test_a_route_that_no_listener_asks_for_any_more_is_not_emptied() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(routes={}, listeners={"90": 1})
        await envoy.accepts(await envoy.hears(LDS))
        await envoy.hears_nothing()


async def test_a_proxy_whose_services_change_moves_to_another_class() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(Change(endpoints=frozenset({Host("reviews")})), targets={"1.1.1.1": "reviews"})
        assert set((await envoy.hears(LDS)).names) == {"80", "own_reviews"}
        (connection,) = mesh.server.status().connections
        assert connection.proxy_class is not None
        assert connection.proxy_class.outbound.locality == "reviews"


async def test_a_proxy_that_changes_class_keeps_clusters_until_its_routes_are_replaced() -> None:
    world = WORLD.with_(private={"reviews": "default"})
    async with serving(world) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.becomes(
            targets={"1.1.1.1": "reviews"}, clusters={"ratings": 1}, routes={"80": ("ratings",)}
        )
        listeners = await envoy.hears(LDS)
        routes = await envoy.hears(RDS)
        await envoy.hears_nothing()
        await envoy.accepts(listeners)
        await envoy.accepts(routes, "80")
        assert (await envoy.hears(CDS)).names == (RATINGS,)


async def test_streams_of_one_class_share_their_bytes() -> None:
    async with serving(WORLD) as mesh:
        nodes = [f"sidecar~1.1.1.{n}~p{n}.test~default.svc.cluster.local" for n in range(3)]
        async with mesh.sotw(nodes[0]) as one, mesh.sotw(nodes[1]) as two:
            first, second = await one.asks_and_accepts(CDS), await two.asks_and_accepts(CDS)
            assert (first.nonce, first.version) == (second.nonce, second.version)
            # The same content again on one stream: another nonce before the same body.
            await one.asks(CDS)
            again = await one.hears(CDS)
            assert again.resources == first.resources
            assert again.nonce != first.nonce


async def test_the_journal_says_what_a_push_changed_and_who_acknowledged() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        mesh.scales("reviews", "10.0.0.8")
        await envoy.accepts(await envoy.hears(EDS), REVIEWS, RATINGS)
        await mesh.until(lambda: mesh.pusher.journal.entries()[-1].acknowledged == 1)
        entry = mesh.pusher.journal.entries()[-1]
        assert entry.reason == "endpoints"
        assert entry.hosts == ("reviews",)
        assert [(item.short, item.name) for item in entry.changed] == [("EDS", REVIEWS)]
        assert list(entry.proxies) == [f"{NODE}-1"]
        assert 0 < entry.slowest_ack < 5


async def test_e6_a_burst_of_changes_before_anybody_reads_is_one_push() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await synced(envoy)
        for number in range(50):
            mesh.scales("reviews", f"10.0.1.{number}")
        heard = [await envoy.hears(EDS)]
        await asyncio.sleep(0)
        await envoy.hears_nothing()
        assert b"10.0.1.49" in heard[-1].resources[REVIEWS]
