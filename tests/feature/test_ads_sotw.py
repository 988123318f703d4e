"""Rows C and D of the protocol checklist: rejections and subscriptions, state of the world."""

from __future__ import annotations

from controlplane.ads.types import CDS, EDS, LDS, RDS
from tests.feature.conversation import serving
from tests.feature.world import World, cluster_name

REVIEWS = cluster_name("reviews")
RATINGS = cluster_name("ratings")
DETAILS = cluster_name("details")
WORLD = World(
    clusters={"reviews": 1, "ratings": 1},
    endpoints={"reviews": ("10.0.0.1",), "ratings": ("10.0.0.2",)},
    routes={"80": ("reviews",), "90": ("ratings",)},
    listeners={"80": 1, "90": 1},
)


async def test_c1_a_rejected_response_is_not_sent_again_at_once() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        await envoy.rejects(await envoy.hears(CDS))
        await envoy.hears_nothing(1.2)


async def test_c1_a_rejected_change_is_never_sent_again() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        await envoy.rejects(await envoy.hears(CDS), version=held.version)
        await envoy.hears_nothing()
        # Another change goes out with the predecessor of what was rejected.
        mesh.becomes(clusters={"reviews": 2, "ratings": 3})
        answer = await envoy.hears(CDS)
        assert answer.resources[REVIEWS] == held.resources[REVIEWS]
        assert answer.resources[RATINGS] != held.resources[RATINGS]
        await envoy.accepts(answer)
        # Mended: a new content, which nobody rejected.
        mesh.becomes(clusters={"reviews": 4, "ratings": 3})
        answer = await envoy.hears(CDS)
        assert answer.resources[REVIEWS] != held.resources[REVIEWS]


async def test_c2_an_error_with_the_version_it_answers_is_an_acknowledgement() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        answer = await envoy.hears(CDS)
        await envoy.rejects(answer, version=answer.version, error="an older one was broken")
        await envoy.hears_nothing()
        watch = mesh.server.status().connections[0].watches[CDS.url]
        assert watch.version_acked == answer.version
        assert watch.rejections == ()
        assert mesh.server.status().diagnostics == ()


async def test_c2_a_rejection_is_known_by_its_error_not_by_the_version() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        answer = await envoy.hears(CDS)
        # No error: an acknowledgement, although the version is the old one.
        await envoy.asks(CDS, version=held.version, nonce=answer.nonce)
        await mesh.until(
            lambda: (
                mesh.server.status().connections[0].watches[CDS.url].version_acked == answer.version
            )
        )


async def test_c3_after_a_rejection_later_changes_are_pushed_and_accepted() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        await envoy.rejects(await envoy.hears(CDS))
        await envoy.hears_nothing()
        mesh.becomes(clusters={"reviews": 1, "ratings": 1, "details": 1})
        answer = await envoy.hears(CDS)
        assert answer.names == (REVIEWS, RATINGS, DETAILS)
        await envoy.accepts(answer)
        await mesh.until(
            lambda: (
                mesh.server.status().connections[0].watches[CDS.url].version_acked == answer.version
            )
        )


async def test_c4_a_rejection_shows_with_the_objects_to_blame() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        answer = await envoy.hears(CDS)
        await envoy.rejects(answer, version=held.version, error="no such thing")
        await mesh.until(lambda: bool(mesh.server.status().diagnostics))
        status = mesh.server.status()
        watch = status.connections[0].watches[CDS.url]
        assert watch.version_sent == answer.version
        assert watch.version_acked == held.version
        assert watch.last_error == "no such thing"
        (rejection,) = watch.rejections
        assert rejection.resource == REVIEWS
        assert [str(ref) for ref in rejection.objects] == ["DestinationRule default/reviews"]
        (diagnostic,) = status.diagnostics
        assert str(diagnostic.ref) == "DestinationRule default/reviews"
        assert diagnostic.field == "spec"
        assert "no such thing" in diagnostic.message
        # Lifted by itself when the object changes.
        mesh.becomes(clusters={"reviews": 3, "ratings": 1})
        await envoy.accepts(await envoy.hears(CDS))
        await mesh.until(lambda: mesh.server.status().diagnostics == ())


async def test_d1_no_names_at_first_mean_everything() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS)
        await envoy.asks(LDS)
        assert (await envoy.hears(LDS)).names == ("80", "90")


async def test_d2_a_star_means_everything() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS, "*")
        answer = await envoy.hears(CDS)
        assert answer.names == (REVIEWS, RATINGS)
        await envoy.accepts(answer, "*")
        mesh.becomes(clusters={"reviews": 1, "ratings": 1, "details": 1})
        assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS, DETAILS)


async def test_d3_no_names_after_some_mean_none() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS, REVIEWS)
        answer = await envoy.hears(CDS)
        assert answer.names == (REVIEWS,)
        await envoy.accepts(answer)
        await envoy.hears_nothing()
        mesh.becomes(clusters={"reviews": 2, "ratings": 2})
        await envoy.hears_nothing()


async def test_d4_only_requested_names_are_answered() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        assert (await envoy.asks_and_accepts(EDS, REVIEWS)).names == (REVIEWS,)
        assert (await envoy.asks_and_accepts(RDS, "90")).names == ("90",)


async def test_d5_an_added_name_is_answered() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        answer = await envoy.asks_and_accepts(EDS, REVIEWS)
        await envoy.accepts(answer, REVIEWS, RATINGS)
        assert (await envoy.hears(EDS)).names == (RATINGS,)


async def test_d6_a_name_requested_again_is_sent_again() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        answer = await envoy.asks_and_accepts(EDS, REVIEWS)
        await envoy.accepts(answer)
        await envoy.hears_nothing()
        await envoy.accepts(answer, REVIEWS)
        assert (await envoy.hears(EDS)).resources == answer.resources


async def test_d7_a_name_that_goes_is_met_with_silence() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        answer = await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS)
        await envoy.accepts(answer, REVIEWS)
        await envoy.hears_nothing()
        mesh.scales("ratings", "10.0.0.9")
        await envoy.hears_nothing()


async def test_d8_no_names_end_the_subscription() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        answer = await envoy.asks_and_accepts(EDS, REVIEWS)
        await envoy.accepts(answer)
        await envoy.hears_nothing()
        mesh.scales("reviews", "10.0.0.9")
        await envoy.hears_nothing()


async def test_d9_a_name_that_appears_later_is_pushed() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        empty = await envoy.asks_and_accepts(EDS, DETAILS)
        assert b"10.0.0.5" not in empty.resources[DETAILS]
        mesh.becomes(
            clusters={**WORLD.clusters, "details": 1},
            endpoints={**WORLD.endpoints, "details": ("10.0.0.5",)},
        )
        assert b"10.0.0.5" in (await envoy.hears(EDS)).resources[DETAILS]


async def test_d9_a_named_cluster_that_appears_later_is_pushed() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        assert (await envoy.asks_and_accepts(CDS, DETAILS)).names == ()
        mesh.becomes(clusters={**WORLD.clusters, "details": 1})
        assert (await envoy.hears(CDS)).names == (DETAILS,)


async def test_d10_clusters_and_listeners_are_full_state() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        await envoy.asks_and_accepts(LDS)
        await mesh.until(lambda: all(item.session.settled() for item in mesh.pusher.streams()))
        mesh.becomes(clusters={"ratings": 1}, listeners={"90": 1, "95": 1})
        assert (await envoy.hears(CDS)).names == (RATINGS,)
        assert (await envoy.hears(LDS)).names == ("90", "95")


async def test_d11_the_latest_of_two_requests_counts() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(EDS, REVIEWS)
        await envoy.asks(EDS, REVIEWS, RATINGS)
        heard: set[str] = set()
        while heard < {REVIEWS, RATINGS}:
            heard |= set((await envoy.hears(EDS)).names)
        assert mesh.server.status().connections[0].watches[EDS.url].names == (RATINGS, REVIEWS)


async def test_an_unknown_cluster_gets_an_empty_assignment_and_an_unknown_route_no_hosts() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        assert (await envoy.asks_and_accepts(EDS, "nobody")).names == ("nobody",)
        assert (await envoy.asks_and_accepts(RDS, "nobody")).names == ("nobody",)


async def test_an_unnamed_culprit_is_found_and_the_rest_goes_on() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await envoy.asks_and_accepts(CDS)
        version = held.version
        mesh.becomes(
            clusters={"reviews": 2, "ratings": 2, "details": 2}, broken=frozenset({"ratings"})
        )
        for _ in range(10):
            answer = await envoy.hears(CDS, 4.0)
            if any(b"broken" in body for body in answer.resources.values()):
                await envoy.rejects(answer, version=version, error="missing ): (")
            else:
                await envoy.accepts(answer)
                version = answer.version
            if mesh.server.status().diagnostics:
                break
        (diagnostic,) = mesh.server.status().diagnostics
        assert str(diagnostic.ref) == "DestinationRule default/ratings"
        answer = envoy.heard[-1]
        while (
            answer.resources.get(DETAILS) is None
            or answer.resources[REVIEWS] == held.resources[REVIEWS]
        ):
            answer = await envoy.hears(CDS, 4.0)
            await envoy.accepts(answer)
        assert answer.resources[RATINGS] == held.resources[RATINGS]
        await envoy.hears_nothing()


async def test_a_named_culprit_is_kept_back_at_once() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        held = await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 2})
        await envoy.rejects(
            await envoy.hears(CDS),
            version=held.version,
            error=f"Error adding/updating cluster(s) {RATINGS}: no good",
        )
        answer = await envoy.hears(CDS)
        assert answer.resources[RATINGS] == held.resources[RATINGS]
        assert answer.resources[REVIEWS] != held.resources[REVIEWS]
        await envoy.accepts(answer)
        await envoy.hears_nothing()


async def test_others_are_spared_after_two_nodes_rejected() -> None:
    async with serving(WORLD) as mesh:
        first = mesh.sotw("sidecar~1.1.1.1~a.test~default.svc.cluster.local")
        second = mesh.sotw("sidecar~1.1.1.2~b.test~default.svc.cluster.local")
        late = mesh.sotw("sidecar~1.1.1.3~c.test~default.svc.cluster.local")
        other_build = mesh.sotw(
            "sidecar~1.1.1.4~d.test~default.svc.cluster.local", agent="another envoy"
        )
        async with first as one, second as two, late as three, other_build as four:
            held = await one.asks_and_accepts(CDS)
            await two.asks_and_accepts(CDS)
            mesh.becomes(clusters={"reviews": 2, "ratings": 1})
            for envoy in (one, two):
                await envoy.rejects(await envoy.hears(CDS), version=held.version)
            await mesh.until(
                lambda: any(
                    "2 proxies" in item.message for item in mesh.server.status().diagnostics
                )
            )
            spared = await three.asks_and_accepts(CDS)
            assert spared.resources == held.resources
            tried = await four.asks_and_accepts(CDS)
            assert tried.resources[REVIEWS] != held.resources[REVIEWS]


async def test_proxies_that_reject_everything_change_nothing_for_others() -> None:
    async with serving(WORLD) as mesh:
        nodes = [f"sidecar~1.1.1.{n}~p{n}.test~default.svc.cluster.local" for n in range(4)]
        async with (
            mesh.sotw(nodes[0]) as healthy,
            mesh.sotw(nodes[1]) as one,
            mesh.sotw(nodes[2]) as two,
            mesh.sotw(nodes[3]) as late,
        ):
            held = await healthy.asks_and_accepts(CDS)
            await one.asks_and_accepts(CDS)
            await two.asks_and_accepts(CDS)
            mesh.becomes(clusters={"reviews": 2, "ratings": 1})
            await healthy.accepts(await healthy.hears(CDS))
            for envoy in (one, two):
                await envoy.rejects(await envoy.hears(CDS), version=held.version)
            await mesh.until(lambda: bool(mesh.server.status().diagnostics))
            answer = await late.asks_and_accepts(CDS)
            assert answer.resources[REVIEWS] != held.resources[REVIEWS]


async def test_a_node_that_comes_back_does_not_get_what_it_rejected() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.sotw() as envoy:
            held = await envoy.asks_and_accepts(CDS)
            mesh.becomes(clusters={"reviews": 2, "ratings": 1})
            await envoy.rejects(await envoy.hears(CDS), version=held.version)
            await mesh.until(lambda: bool(mesh.server.status().diagnostics))
        async with mesh.sotw() as envoy:
            assert (await envoy.asks_and_accepts(CDS)).resources == held.resources


async def test_a_long_subscription_may_change_and_come_back() -> None:
    many = (REVIEWS, *(f"outbound|80||{number}.example.com" for number in range(40)))
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        await envoy.asks(EDS, *many)
        answer = await envoy.hears(EDS)
        for _ in range(2):  # the second time the list is known by its bytes
            await envoy.accepts(answer, *many)
        await envoy.accepts(answer, *many, RATINGS)
        answer = await envoy.hears(EDS)
        assert answer.names == (RATINGS,)
        await envoy.accepts(answer, *many)
        await envoy.accepts(answer, *many)
        await envoy.accepts(answer, *many, RATINGS)
        answer = await envoy.hears(EDS)
        assert answer.names == (RATINGS,)
        await envoy.accepts(answer, RATINGS)
        await envoy.accepts(answer, *many, RATINGS)
        assert REVIEWS in (await envoy.hears(EDS)).names
