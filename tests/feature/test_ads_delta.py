"""Rows F of the protocol checklist, and the delta side of E, G and rule 9."""

from __future__ import annotations

import time

from controlplane.ads.types import CDS, EDS, LDS, RDS
from tests.feature.conversation import DeltaEnvoy, serving
from tests.feature.world import World, cluster_name

REVIEWS = cluster_name("reviews")
RATINGS = cluster_name("ratings")
DETAILS = cluster_name("details")
WORLD = World(
    clusters={"reviews": 1, "ratings": 1},
    endpoints={"reviews": ("10.0.0.1",), "ratings": ("10.0.0.2",), "details": ("10.0.0.3",)},
    routes={"80": ("reviews",)},
    listeners={"80": 1, "90": 1},
)


async def synced(envoy: DeltaEnvoy) -> None:
    await envoy.asks_and_accepts(CDS)
    await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS)
    await envoy.asks_and_accepts(LDS)
    await envoy.asks_and_accepts(RDS, "80")


async def test_f1_responses_have_a_nonce_and_resources_a_name_and_a_version() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        answer = await envoy.asks_and_accepts(CDS)
        assert answer.nonce
        assert set(answer.versions) == {REVIEWS, RATINGS}
        assert all(answer.versions.values())


async def test_f2_a_first_request_without_names_means_everything() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        for info, names in ((CDS, (REVIEWS, RATINGS)), (LDS, ("80", "90"))):
            answer = await envoy.asks_and_accepts(info)
            assert answer.names == names
            assert answer.removed == ()
        mesh.becomes(clusters={"reviews": 1, "ratings": 1, "details": 1})
        assert (await envoy.hears(CDS)).names == (DETAILS,)


async def test_f2_an_empty_mesh_is_answered_too() -> None:
    async with serving(World()) as mesh, mesh.delta() as envoy:
        answer = await envoy.asks_and_accepts(CDS)
        assert (answer.names, answer.removed) == ((), ())


async def test_f3_a_star_subscribes_to_everything_and_ends_it() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        assert (await envoy.asks_and_accepts(CDS, "*")).names == (REVIEWS, RATINGS)
        await envoy.asks(CDS, unsubscribe=["*"])
        await envoy.hears_nothing()
        mesh.becomes(clusters={"reviews": 2})
        await envoy.hears_nothing()
        await envoy.asks(CDS, "*")
        assert (await envoy.hears(CDS)).names == (REVIEWS,)


async def test_f4_an_added_name_is_answered_alone() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(EDS, REVIEWS)
        assert (await envoy.asks_and_accepts(EDS, RATINGS)).names == (RATINGS,)


async def test_f5_a_name_subscribed_again_is_sent_again() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        first = await envoy.asks_and_accepts(EDS, REVIEWS)
        assert (await envoy.asks_and_accepts(EDS, REVIEWS)).resources == first.resources
        await envoy.asks_and_accepts(CDS)
        await envoy.accepts(await envoy.hears(EDS))  # it follows its cluster
        assert (await envoy.asks_and_accepts(CDS, RATINGS)).names == (RATINGS,)


async def test_f6_an_end_of_subscription_is_met_with_silence() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS)
        await envoy.asks(EDS, unsubscribe=[REVIEWS])
        await envoy.hears_nothing()
        mesh.scales("reviews", "10.0.0.9")
        await envoy.hears_nothing()
        mesh.scales("ratings", "10.0.0.9")
        assert (await envoy.hears(EDS)).names == (RATINGS,)


async def test_f7_unsubscribing_a_name_under_a_wildcard_says_what_it_is() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        answer = await envoy.asks_and_accepts(CDS, "*", REVIEWS, DETAILS)
        assert answer.names == (REVIEWS, RATINGS)
        assert answer.removed == (DETAILS,)
        await envoy.asks(CDS, unsubscribe=[REVIEWS])
        assert (await envoy.hears(CDS)).names == (REVIEWS,)
        await envoy.asks(CDS, unsubscribe=[DETAILS])
        answer = await envoy.hears(CDS)
        assert (answer.names, answer.removed) == ((), (DETAILS,))


async def test_f8_a_phantom_end_of_subscription_does_no_harm() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        answer = await envoy.asks_and_accepts(CDS)
        await envoy.asks(CDS, unsubscribe=["nobody"])
        await envoy.hears_nothing()
        watch = mesh.server.status().connections[0].watches[CDS.url]
        assert watch.nonce_acked == watch.nonce_sent == answer.nonce


async def test_f9_a_deleted_resource_is_removed_and_no_other() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"ratings": 1})
        answer = await envoy.hears(CDS)
        assert (answer.names, answer.removed) == ((), (REVIEWS,))


async def test_f10_a_name_that_does_not_exist_is_removed() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        answer = await envoy.asks_and_accepts(CDS, "nobody")
        assert (answer.names, answer.removed) == ((), ("nobody",))
        address = "type.googleapis.com/istio.workload.Address"
        await envoy.asks(CDS, "/1.2.3.4", type_url=address)
        answer = await envoy.hears_anything()
        assert (answer.type_url, answer.removed) == (address, ("/1.2.3.4",))
        # It exists later: it is pushed.
        mesh.becomes(clusters={"nobody": 1, "reviews": 1})
        await envoy.asks(CDS, cluster_name("nobody"))
        assert (await envoy.hears(CDS)).names == (cluster_name("nobody"),)


async def test_f10_an_unknown_cluster_gets_an_empty_assignment() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        answer = await envoy.asks_and_accepts(EDS, "nobody")
        assert (answer.names, answer.removed) == (("nobody",), ())


async def test_f11_a_reconnect_brings_only_the_differences() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.delta() as envoy:
            clusters = await envoy.asks_and_accepts(CDS)
            listeners = await envoy.asks_and_accepts(LDS)
        mesh.becomes(clusters={"reviews": 2, "details": 1})
        async with mesh.delta() as envoy:
            await envoy.asks(LDS, initial=listeners.versions)
            await envoy.hears_nothing()
            await envoy.asks(CDS, initial=clusters.versions)
            answer = await envoy.hears(CDS)
            assert set(answer.names) == {REVIEWS, DETAILS}
            assert answer.removed == (), "its routes may still use it"
            await envoy.accepts(answer)
            await envoy.asks_and_accepts(RDS, "80")
            assert (await envoy.hears(CDS)).removed == (RATINGS,)


async def test_f11_a_reconnect_without_differences_is_silent_and_then_alive() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.delta() as envoy:
            await synced(envoy)
            versions = {answer.type_url: answer.versions for answer in envoy.heard}
        async with mesh.delta() as envoy:
            await envoy.asks(CDS, initial=versions[CDS.url])
            await envoy.asks(EDS, REVIEWS, RATINGS, initial=versions[EDS.url])
            await envoy.asks(LDS, initial=versions[LDS.url])
            await envoy.asks(RDS, "80", initial=versions[RDS.url])
            # Endpoints come again whatever the client knows: its clusters may be warming.
            await envoy.accepts(await envoy.hears(EDS))
            await envoy.hears_nothing(0.4)
            (connection,) = mesh.server.status().connections
            assert all(
                watch.version_sent == watch.version_acked for watch in connection.watches.values()
            )
            mesh.scales("reviews", "10.0.0.9")
            assert (await envoy.hears(EDS)).names == (REVIEWS,)


async def test_f12_acknowledgement_and_rejection_are_met_with_silence() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(CDS)
        await envoy.hears_nothing()
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        await envoy.rejects(await envoy.hears(CDS))
        await envoy.hears_nothing(1.2)
        mesh.becomes(clusters={"reviews": 2, "ratings": 2})
        answer = await envoy.hears(CDS)
        assert answer.names == (RATINGS,)
        await envoy.accepts(answer)
        mesh.becomes(clusters={"reviews": 3, "ratings": 2})
        assert (await envoy.hears(CDS)).names == (REVIEWS,)


async def test_f12_a_rejection_names_the_objects_to_blame() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        await envoy.rejects(await envoy.hears(CDS), error="no such thing")
        await mesh.until(lambda: bool(mesh.server.status().diagnostics))
        (diagnostic,) = mesh.server.status().diagnostics
        assert str(diagnostic.ref) == "DestinationRule default/reviews"


async def test_f13_a_spontaneous_request_acknowledges_nothing() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks(EDS, REVIEWS)
        first = await envoy.hears(EDS)
        await envoy.asks(EDS, RATINGS)
        second = await envoy.hears(EDS)
        watch = mesh.server.status().connections[0].watches[EDS.url]
        assert watch.nonce_acked == ""
        assert watch.names == (RATINGS, REVIEWS)
        await envoy.accepts(first)
        await envoy.accepts(second)
        await mesh.until(
            lambda: mesh.server.status().connections[0].watches[EDS.url].nonce_acked == second.nonce
        )


async def test_f14_a_stale_nonce_changes_the_subscription_all_the_same() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        old = await envoy.asks_and_accepts(EDS, REVIEWS)
        mesh.scales("reviews", "10.0.0.9")
        await envoy.accepts(await envoy.hears(EDS))
        await envoy.asks(EDS, RATINGS, nonce=old.nonce)
        assert (await envoy.hears(EDS)).names == (RATINGS,)


async def test_f15_endpoints_of_one_service_are_pushed_alone() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS)
        mesh.scales("reviews", "10.0.0.7")
        answer = await envoy.hears(EDS)
        assert (answer.names, answer.removed) == ((REVIEWS,), ())
        await envoy.accepts(answer)
        mesh.becomes(clusters={"ratings": 1}, endpoints={"ratings": ("10.0.0.2",)})
        answer = await envoy.hears(EDS)
        assert (answer.names, answer.removed) == ((REVIEWS,), ())
        assert b"10.0.0" not in answer.resources[REVIEWS]


async def test_f16_endpoints_asked_before_clusters_come_again_after_them() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        first = await envoy.asks_and_accepts(EDS, REVIEWS)
        await envoy.asks(CDS)
        await envoy.hears(CDS)
        assert (await envoy.hears(EDS)).resources == first.resources


async def test_f16_endpoints_follow_clusters_that_differ_after_a_reconnect() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.delta() as envoy:
            await synced(envoy)
            versions = {answer.type_url: answer.versions for answer in envoy.heard}
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        async with mesh.delta() as envoy:
            await envoy.asks(EDS, REVIEWS, RATINGS, initial=versions[EDS.url])
            await envoy.accepts(await envoy.hears(EDS))
            await envoy.hears_nothing()
            await envoy.asks(CDS, initial=versions[CDS.url])
            assert (await envoy.hears(CDS)).names == (REVIEWS,)
            assert (await envoy.hears(EDS)).names == (REVIEWS,)


async def test_g1_endpoints_follow_their_changed_cluster_unasked() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await synced(envoy)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        assert (await envoy.hears(CDS)).names == (REVIEWS,)
        answer = await envoy.hears(EDS)
        assert answer.names == (REVIEWS,)
        assert answer.resources[REVIEWS] == envoy.heard[1].resources[REVIEWS]


async def test_g3_names_only_down_the_chain_on_one_stream() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as client:
        assert (await client.asks_and_accepts(LDS, "80")).names == ("80",)
        assert (await client.asks_and_accepts(RDS, "80")).names == ("80",)
        assert (await client.asks_and_accepts(CDS, REVIEWS)).names == (REVIEWS,)
        assert (await client.asks_and_accepts(EDS, REVIEWS)).names == (REVIEWS,)
        mesh.becomes(clusters={"reviews": 1, "ratings": 2})
        await client.hears_nothing()
        mesh.scales("reviews", "10.0.0.9")
        assert (await client.hears(EDS)).names == (REVIEWS,)


async def test_a_route_to_a_new_cluster_waits_in_delta_too() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await synced(envoy)
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1}, routes={"80": ("reviews", "details")}
        )
        answer = await envoy.hears(CDS)
        assert answer.names == (DETAILS,)
        await envoy.asks(EDS, DETAILS)
        assert (await envoy.hears(EDS)).names == (DETAILS,)
        await envoy.hears_nothing(0.3)
        await envoy.accepts(answer)
        assert b"details" in (await envoy.hears(RDS)).resources["80"]


async def test_a_cluster_is_retired_after_the_routes_in_delta_too() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await synced(envoy)
        mesh.becomes(clusters={"ratings": 1}, routes={"80": ("ratings",)})
        routes = await envoy.hears(RDS)
        await envoy.hears_nothing()
        await envoy.accepts(routes)
        assert (await envoy.hears(CDS)).removed == (REVIEWS,)


async def test_after_a_reconnect_a_route_waits_for_clusters_that_the_client_lacks() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.delta() as envoy:
            await synced(envoy)
            versions = {answer.type_url: answer.versions for answer in envoy.heard}
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1}, routes={"80": ("reviews", "details")}
        )
        async with mesh.delta() as envoy:
            began = time.monotonic()
            await envoy.asks(CDS, initial=versions[CDS.url])
            await envoy.asks(EDS, REVIEWS, RATINGS, initial=versions[EDS.url])
            await envoy.asks(LDS, initial=versions[LDS.url])
            await envoy.asks(RDS, "80", initial=versions[RDS.url])
            clusters = await envoy.hears(CDS)
            await envoy.accepts(await envoy.hears(EDS))
            await envoy.hears_nothing(0.3)
            await envoy.accepts(clusters)
            await envoy.hears(RDS)
            assert time.monotonic() - began < 4.9, "it waited until its time was over"


async def test_an_unnamed_culprit_is_found_in_delta_too() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as envoy:
        await synced(envoy)
        mesh.becomes(routes={"80": ("ratings",)}, broken=frozenset({"80"}))
        await envoy.accepts(await envoy.hears(LDS))
        await envoy.rejects(await envoy.hears(RDS), error="missing ): (")
        await mesh.until(lambda: bool(mesh.server.status().diagnostics))
        await envoy.hears_nothing()
        mesh.becomes(broken=frozenset())
        await envoy.accepts(await envoy.hears(LDS))
        assert (await envoy.hears(RDS)).names == ("80",)
