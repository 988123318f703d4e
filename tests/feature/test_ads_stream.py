"""Rows A and B of the protocol checklist: streams, nodes, nonces and versions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import grpc
import pytest

from controlplane.ads.types import CDS, EDS, LDS, RDS
from controlplane.ads.wire import SOTW_METHOD
from controlplane.debug.metrics import Metrics
from controlplane.debug.reporter import MetricsReporter
from controlplane.model.snapshot import Snapshot
from controlplane.translate.resources import Resource
from controlplane.translate.scope import ProxyClass
from tests.feature.conversation import Mesh, SotwEnvoy, serving
from tests.feature.world import World, cluster_name

REVIEWS = cluster_name("reviews")
RATINGS = cluster_name("ratings")
WORLD = World(
    clusters={"reviews": 1, "ratings": 1},
    endpoints={"reviews": ("10.0.0.1",), "ratings": ("10.0.0.2",)},
    routes={"80": ("reviews",)},
    listeners={"80": 1, "90": 1},
)


async def test_a1_both_methods_answer() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.sotw() as envoy:
            await envoy.asks(CDS)
            assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS)
        async with mesh.delta() as envoy:
            await envoy.asks(CDS)
            assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS)


async def test_a2_a_missing_node_id_is_an_invalid_argument() -> None:
    async with serving(WORLD) as mesh:
        for stream in (mesh.sotw, mesh.delta):
            async with stream("") as envoy:
                await envoy.asks(CDS)
                code, details = await envoy.is_refused()
                assert code is grpc.StatusCode.INVALID_ARGUMENT
                assert details == "missing node information"


@pytest.mark.parametrize("node", ["x", "sidecar~1.1.1.1~a", "car~1.1.1.1~a.b~c", "sidecar~no~a~c"])
async def test_a3_a_malformed_node_id_is_an_invalid_argument(node: str) -> None:
    async with serving(WORLD) as mesh, mesh.sotw(node) as envoy:
        await envoy.asks(CDS)
        code, details = await envoy.is_refused()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert node in details


async def test_a4_later_requests_need_no_node_even_after_a_rejection() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        await envoy.rejects(await envoy.hears(CDS))
        await envoy.asks(LDS)
        assert (await envoy.hears(LDS)).names == ("80", "90")


async def test_a5_a_server_that_is_not_ready_is_unavailable() -> None:
    async with serving(WORLD, ready=lambda: False) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        code, _ = await envoy.is_refused()
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a5_a_stream_that_comes_while_sources_are_read_is_served_when_they_are() -> None:
    read = False
    async with (
        serving(WORLD, ready=lambda: read, admitted_per_second=1000) as mesh,
        mesh.sotw() as first,
        mesh.delta() as second,
        mesh.sotw() as gone,
    ):
        await first.asks(CDS)
        await second.asks(CDS)
        await gone.asks(CDS)
        gone.leaves()
        await first.hears_nothing()
        await second.hears_nothing()
        read = True
        mesh.becomes(clusters={"fresh": 1})
        assert (await first.hears(CDS)).names == (cluster_name("fresh"),)
        assert (await second.hears(CDS)).names == (cluster_name("fresh"),)
        await mesh.until(lambda: mesh.pusher.stream_count() == 2)


@pytest.mark.parametrize("way", ["leaves", "half_closes"])
async def test_a6_one_stream_of_a_node_ends_and_the_other_lives_on(way: str) -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as first, mesh.sotw() as second:
        await first.asks_and_accepts(CDS)
        await second.asks_and_accepts(CDS)
        assert mesh.pusher.stream_count() == 2
        if way == "leaves":
            first.leaves()
        else:
            await first.half_closes()
        await mesh.until(lambda: mesh.pusher.stream_count() == 1)
        mesh.becomes(clusters={"reviews": 2})
        assert (await second.hears(CDS)).names == (REVIEWS,)


async def test_connection_ids_are_the_node_and_a_number() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as first, mesh.delta() as second:
        await first.asks_and_accepts(CDS)
        await second.asks_and_accepts(CDS)
        ids = [connection.connection_id for connection in mesh.server.status().connections]
        node = "sidecar~1.1.1.1~app.test~default.svc.cluster.local"
        assert ids == [f"{node}-1", f"{node}-2"]


async def test_garbage_is_an_invalid_argument_and_leaks_nothing() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as healthy:
        await healthy.asks_and_accepts(CDS)
        async with mesh.sotw() as envoy:
            await envoy.sends_bytes(b"\xff\xff\xff")
            code, _ = await envoy.is_refused()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        async with mesh.sotw() as envoy:
            await envoy.asks_and_accepts(CDS)
            await envoy.sends_bytes(b"\x0a\xff")
            code, _ = await envoy.is_refused()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        await mesh.until(lambda: mesh.pusher.stream_count() == 1)
        mesh.becomes(clusters={"reviews": 7})
        await healthy.hears(CDS)


async def test_a_mistake_of_ours_ends_the_stream_that_meets_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics(version="1")
    async with serving(WORLD, reporter=MetricsReporter(metrics)) as mesh, mesh.sotw() as healthy:
        fails_for("unlucky", mesh, monkeypatch)
        await healthy.asks_and_accepts(CDS)
        async with mesh.sotw(namespace="unlucky") as envoy:
            await envoy.asks(CDS)
            code, details = await envoy.is_refused()
            assert code is grpc.StatusCode.INTERNAL
            assert details == "an error of the control plane"
        assert internal_errors(metrics) == 1
        await mesh.until(lambda: mesh.pusher.stream_count() == 1)
        await healthy.asks_and_accepts(LDS)


@pytest.mark.parametrize("delta", [False, True])
async def test_a_mistake_of_ours_after_the_first_requests_ends_one_stream(
    delta: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.ads.connection._NEW", 0)  # requests are taken at once
    monkeypatch.setattr("controlplane.ads.connection._NEW_FOR", 0.0)
    metrics = Metrics(version="1")

    def fails(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    async with (
        serving(WORLD, reporter=MetricsReporter(metrics)) as mesh,
        mesh.sotw() as healthy,
        mesh.delta() if delta else mesh.sotw() as envoy,
    ):
        await healthy.asks_and_accepts(CDS)
        await envoy.asks_and_accepts(CDS)
        with monkeypatch.context() as patch:
            patch.setattr(mesh.pusher, "on_request", fails)
            await envoy.asks(LDS)
            code, _ = await envoy.is_refused()
        assert code is grpc.StatusCode.INTERNAL
        assert internal_errors(metrics) == 1
        await healthy.asks_and_accepts(LDS)


async def test_a_class_that_cannot_be_made_keeps_no_other_from_its_push(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics(version="1")
    async with (
        serving(WORLD, reporter=MetricsReporter(metrics)) as mesh,
        mesh.sotw(namespace="unlucky") as unlucky,
        mesh.sotw() as healthy,
    ):
        await unlucky.asks_and_accepts(CDS)
        await healthy.asks_and_accepts(CDS)
        with monkeypatch.context() as patch:
            fails_for("unlucky", mesh, patch)
            mesh.becomes(clusters={"reviews": 7})
            assert (await healthy.hears(CDS)).names == (REVIEWS,)
            await unlucky.hears_nothing()
        assert internal_errors(metrics) == 1
        # What it missed is made up for by whatever changes next.
        mesh.scales("reviews", "10.0.0.9")
        assert (await unlucky.hears(CDS)).names == (REVIEWS,)


def fails_for(namespace: str, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clusters of one namespace's proxies be a mistake of ours."""
    make = mesh.generator.clusters

    def clusters(snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        if cls.outbound.namespace == namespace:
            raise ZeroDivisionError("a mistake")
        return make(snapshot, cls)

    monkeypatch.setattr(mesh.generator, "clusters", clusters)


def internal_errors(metrics: Metrics) -> float:
    """What the metrics say about mistakes of ours."""
    return metrics.registry.get_sample_value("pilot_total_xds_internal_errors_total") or 0.0


async def test_a_request_over_four_mebibytes_is_resource_exhausted() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        await envoy.asks(EDS, "x" * (5 * 1024 * 1024))
        code, _ = await envoy.is_refused()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await mesh.until(lambda: mesh.pusher.stream_count() == 0)


async def test_a_megabyte_of_names_is_served_and_disturbs_nobody() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy, mesh.sotw() as other:
        await other.asks_and_accepts(CDS)
        names = [f"outbound|80||{number}.example.com" for number in range(30_000)]
        await envoy.asks(EDS, REVIEWS, *names)
        answer = await envoy.hears(EDS)
        assert REVIEWS in answer.names
        assert len(answer.names) <= 5_001
        mesh.becomes(clusters={"reviews": 7})
        await other.hears(CDS)


async def test_draining_ends_streams_with_unavailable() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        stopping = asyncio.ensure_future(mesh.server.stop(1.0))
        code, _ = await envoy.is_refused()
        assert code is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(stopping, 3)
        assert mesh.pusher.stream_count() == 0


async def test_draining_spreads_the_ends_of_streams_and_takes_no_new_ones() -> None:
    """Their clients come to the other replicas one after the other."""
    loop = asyncio.get_running_loop()
    streams = 20
    async with serving(WORLD) as mesh, contextlib.AsyncExitStack() as stack:
        envoys = [await stack.enter_async_context(mesh.sotw()) for _ in range(streams)]
        for envoy in envoys:
            await envoy.asks_and_accepts(CDS)

        async def ended(envoy: SotwEnvoy) -> float:
            code, _ = await envoy.is_refused()
            assert code is grpc.StatusCode.UNAVAILABLE
            return loop.time()

        waiting = [asyncio.ensure_future(ended(envoy)) for envoy in envoys]
        began = loop.time()
        stopping = asyncio.ensure_future(mesh.server.stop(2.0))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert not all(one.done() for one in waiting), "all ended at once"
        async with mesh.sotw() as late:
            await late.asks(CDS)
            assert (await late.is_refused())[0] is grpc.StatusCode.UNAVAILABLE
        ends = sorted(await asyncio.gather(*waiting))
        await asyncio.wait_for(stopping, 10)
        # 20 streams take 50 ms each. A loaded machine may end some late, but none before its turn.
        for number, end in enumerate(ends):
            assert end - began >= number * 0.05 - 0.01, (number, [one - began for one in ends])


async def test_g6_too_many_new_streams_are_refused_and_old_ones_served() -> None:
    async with (
        serving(WORLD, admitted_per_second=3.0, patience=1.0) as mesh,
        mesh.sotw() as old,
    ):
        await old.asks_and_accepts(CDS)

        async def tries() -> grpc.StatusCode | None:
            async with mesh.sotw() as envoy:
                await envoy.asks(CDS)
                try:
                    await envoy.hears(CDS)
                except AssertionError:
                    return (await envoy.is_refused())[0]
                return None

        codes = await asyncio.gather(*(tries() for _ in range(12)))
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 5
        assert codes.count(None) >= 3
        mesh.becomes(clusters={"reviews": 2})
        await old.hears(CDS)


async def test_g6_new_streams_wait_for_their_turn_and_leavers_give_it_to_others() -> None:
    async with serving(WORLD, admitted_per_second=10.0, patience=1.5) as mesh:

        async def leaves_at_once() -> None:
            async with mesh.sotw() as envoy:
                await envoy.asks(CDS)

        async def is_served() -> None:
            async with mesh.sotw() as envoy:
                await envoy.asks_and_accepts(CDS)

        await asyncio.gather(*(leaves_at_once() for _ in range(24)))
        await asyncio.sleep(0.1)
        # Those of the ten at the start who are still queued would leave no room for so many.
        await asyncio.gather(*(is_served() for _ in range(12)))


async def test_an_unserved_type_is_met_with_silence() -> None:
    async with serving(WORLD) as mesh, mesh.call(SOTW_METHOD) as call:
        from controlplane.translate.envoy import DiscoveryRequest, Node

        node = Node(id="sidecar~1.1.1.1~app.test~default.svc.cluster.local")
        secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
        for url in (secret, CDS.url):
            request = DiscoveryRequest(type_url=url, node=node)
            await call.write(request.SerializeToString())
        payload = await asyncio.wait_for(call.read(), 5)
        assert CDS.url.encode() in payload


async def test_b1_and_b2_nonces_are_unique_and_versions_follow_the_content() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        first = await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        second = await envoy.hears(CDS)
        await envoy.accepts(second)
        mesh.becomes(clusters={"reviews": 1, "ratings": 1})
        third = await envoy.hears(CDS)
        assert first.version != second.version
        assert first.version == third.version, "the same content has the same version"
        assert len({first.nonce, second.nonce, third.nonce}) == 3


async def test_b3_an_acknowledgement_counts_for_its_type_alone() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks(CDS)
        await envoy.asks(LDS)
        clusters, listeners = await envoy.hears(CDS), await envoy.hears(LDS)
        await envoy.accepts(clusters)

        def acked(url: str) -> str:
            return mesh.server.status().connections[0].watches[url].version_acked

        await mesh.until(lambda: acked(CDS.url) == clusters.version)
        assert acked(LDS.url) == ""
        await envoy.accepts(listeners)
        await mesh.until(lambda: acked(LDS.url) == listeners.version)


async def test_b4_every_resource_has_the_type_that_was_asked_for() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        for info, names in ((CDS, ()), (EDS, (REVIEWS,)), (LDS, ()), (RDS, ("80",))):
            answer = await envoy.asks_and_accepts(info, *names)
            assert answer.type_url == info.url
            assert answer.any_urls == {info.url}


async def test_b5_an_acknowledgement_is_met_with_silence() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        answer = await envoy.asks_and_accepts(EDS, REVIEWS, RATINGS)
        await envoy.hears_nothing()
        await envoy.accepts(answer, RATINGS, REVIEWS)
        await envoy.hears_nothing()


async def test_b6_a_stale_nonce_is_ignored() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        old = await envoy.asks_and_accepts(EDS, REVIEWS)
        mesh.scales("reviews", "10.0.0.3")
        new = await envoy.hears(EDS)
        await envoy.accepts(new, REVIEWS)
        await envoy.accepts(old, REVIEWS, RATINGS)
        await envoy.hears_nothing()
        watch = mesh.server.status().connections[0].watches[EDS.url]
        assert watch.names == (REVIEWS,)
        assert watch.version_acked == new.version


async def test_b7_a_new_stream_is_silent_about_what_the_client_holds() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.sotw() as envoy:
            clusters = await envoy.asks_and_accepts(CDS)
            listeners = await envoy.asks_and_accepts(LDS)
            endpoints = await envoy.asks_and_accepts(EDS, REVIEWS)
        async with mesh.sotw() as envoy:
            await envoy.asks(CDS, version=clusters.version, nonce=clusters.nonce)
            await envoy.asks(LDS, version=listeners.version)
            await envoy.hears_nothing()
            await envoy.asks(EDS, REVIEWS, version=endpoints.version, nonce=endpoints.nonce)
            assert (await envoy.hears(EDS)).names == (REVIEWS,)
            mesh.becomes(clusters={"reviews": 2, "ratings": 1})
            assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS)


async def test_b7_a_new_stream_with_an_old_version_gets_everything() -> None:
    async with serving(WORLD) as mesh:
        async with mesh.sotw() as envoy:
            old = await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2, "ratings": 1})
        async with mesh.sotw() as envoy:
            await envoy.asks(CDS, version=old.version, nonce=old.nonce)
            assert (await envoy.hears(CDS)).names == (REVIEWS, RATINGS)


@pytest.mark.parametrize("delta", [True, False])
async def test_an_ended_stream_is_free_without_a_collection_of_garbage(delta: bool) -> None:
    """It holds views and responses: crowds that come and go would keep many of them."""
    async with serving(WORLD) as mesh, mesh.delta() if delta else mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        await envoy.asks_and_accepts(LDS)
        (stream,) = mesh.pusher.streams()
        session = weakref.ref(stream.session)
        del stream
        gc.collect()
        gc.disable()
        try:
            envoy.leaves()
            await mesh.until(lambda: mesh.pusher.stream_count() == 0)
            await mesh.until(lambda: session() is None)
        finally:
            gc.enable()
