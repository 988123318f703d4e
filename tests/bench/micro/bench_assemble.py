"""Micro-benchmarks of serving: snapshots, responses, requests and one push to many streams.

Named `bench_*` so that `make test` does not collect them; `make bench` names them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from controlplane.ads.cache import Collection
from controlplane.ads.classes import Stream
from controlplane.ads.name_lists import NameLists, RecentLists
from controlplane.ads.pusher import Pusher
from controlplane.ads.types import Send
from controlplane.ads.wire import (
    Answers,
    DeltaRequest,
    Request,
    decode_request,
    delta_response,
    sotw_response,
)
from controlplane.model.assemble import Assembler
from controlplane.model.base import dec_hook
from controlplane.model.core import EndpointSlice
from controlplane.model.diff import diff
from controlplane.model.meta import Provenance
from controlplane.model.packed import pack_slice
from controlplane.model.snapshot import EMPTY, Snapshot
from controlplane.sources.mesh_config import parse_mesh_config
from controlplane.sources.parse import parse_file
from controlplane.translate.build import Generator
from controlplane.translate.resources import Resource, ResourceType
from tests.bench import messages, world
from tests.bench.bed import Size, mesh_directory
from tests.bench.translation import load, proxies
from tests.unit.transport.wire import Talk, call, data, message

Run = Callable[..., Any]
SIZE = Size()
STREAMS = 100
ORIGIN = Provenance("bench")
_KINDS = {kind.url: kind for kind in ResourceType}


@pytest.fixture(scope="module")
def snapshot() -> Iterator[Snapshot]:
    with mesh_directory(SIZE) as directory:
        yield load(directory.objects)


@pytest.fixture(scope="module")
def clusters(snapshot: Snapshot) -> tuple[Resource, ...]:
    (proxy,) = proxies(1, classes=1, namespaces=SIZE.namespaces)
    generator = Generator()
    return generator.clusters(snapshot, generator.classify(proxy, snapshot))


def test_body_of_a_state_of_the_world_response(
    benchmark: Run, clusters: tuple[Resource, ...]
) -> None:
    assert len(benchmark(sotw_response, b"", clusters)) > 100 * SIZE.services


def test_body_of_a_delta_response(benchmark: Run, clusters: tuple[Resource, ...]) -> None:
    assert len(benchmark(delta_response, b"", clusters, ())) > 100 * SIZE.services


def test_difference_of_two_collections(benchmark: Run, clusters: tuple[Resource, ...]) -> None:
    old = Collection.of(ResourceType.CLUSTER, clusters)

    def compare() -> int:
        new = Collection.of(ResourceType.CLUSTER, clusters[1:])
        return len(new.difference(old).removed)

    assert benchmark(compare) == 1


def test_decoding_of_an_acknowledgement_with_many_names(
    benchmark: Run, clusters: tuple[Resource, ...]
) -> None:
    names = messages.Sotw.name_list(item.name for item in clusters)
    head = messages.Head("0123456789abcdef", messages.EDS, "nonce")
    payload = messages.Sotw.request(messages.EDS, names=names, head=head)
    request, _ = benchmark(decode_request, payload, first=False)
    assert len(request.names) == len(clusters)


def test_acknowledgement_with_many_names_that_another_client_has_sent(
    benchmark: Run, clusters: tuple[Resource, ...]
) -> None:
    """From the bytes of a socket to the request."""
    names = messages.Sotw.name_list(item.name for item in clusters)
    head = messages.Head("0123456789abcdef", messages.EDS, "nonce")
    frames = data(1, message(messages.Sotw.request(messages.EDS, names=names, head=head)))
    talk, recent, answers = Talk(), RecentLists(NameLists()), Answers()
    talk.opens(call(1))

    def read() -> Request:
        talk.hears(frames)
        payload = talk.calls[0].messages[-1]
        talk.calls[0].events.clear()
        request, _ = decode_request(payload, first=False, recent=recent, answers=answers)
        return request

    assert len(benchmark(read).names) == len(clusters)


def test_decoding_of_a_first_request(benchmark: Run) -> None:
    extensions = messages.extensions(516)
    node = messages.node(1, namespace="ns-1", labels={"app": "svc-1"}, extensions=extensions)
    payload = messages.Sotw.node(node) + messages.Sotw.request(messages.CDS, names=b"", head=None)
    _, proxy = benchmark(decode_request, payload, first=True)
    assert proxy is not None


@pytest.mark.parametrize("kind", ["endpoints", "virtual service"])
def test_snapshot_after_one_change(benchmark: Run, kind: str) -> None:
    assembler = Assembler()
    documents = [parse_file("x.json", msgspec.json.encode(item)) for item in world.documents()]
    assembler.apply([entry for parsed in documents for entry in parsed.objects], ())
    assembler.snapshot(())
    numbers = itertools.count(1)

    def change() -> Snapshot:
        number = next(numbers)
        document = (
            world.endpoint_slice(7, generation=number)
            if kind == "endpoints"
            else world.virtual_service(7, weight=number % 100)
        )
        assembler.apply(parse_file("x.json", msgspec.json.encode(document)).objects, ())
        return assembler.snapshot(())

    assert len(benchmark(change).services) == SIZE.services


def test_packing_of_the_endpoints_of_a_slice(benchmark: Run) -> None:
    item = msgspec.convert(world.endpoint_slice(1), EndpointSlice, dec_hook=dec_hook)
    assert item.endpoints is not None
    kept = benchmark(pack_slice, item)
    assert len(list(kept.rows())) == len(item.endpoints)


def _subscribed(snapshot: Snapshot, *, delta: bool) -> tuple[Pusher, list[Stream]]:
    generator = Generator()
    pusher = Pusher(generator, generator.classify, clock=time.monotonic, epoch=time.time)
    pusher.publish(EMPTY, snapshot, diff(EMPTY, snapshot))
    streams = []
    for proxy in proxies(STREAMS, classes=10, namespaces=SIZE.namespaces):
        stream = pusher.connect(proxy, delta=delta, wake=lambda: None)
        for kind in (ResourceType.CLUSTER, ResourceType.LISTENER):
            pusher.on_request(stream, _request(stream, kind.url))
        names = tuple(item.eds_name for item in stream.session.view.clusters.by_name.values())
        endpoints = _request(stream, ResourceType.ENDPOINT.url, tuple(filter(None, names)))
        pusher.on_request(stream, endpoints)
        streams.append(stream)
    for stream in streams:
        _drain(pusher, stream)
    return pusher, streams


def _request(
    stream: Stream, url: str, names: tuple[str, ...] = (), send: Send | None = None
) -> Request | DeltaRequest:
    nonce, version = ("", "") if send is None else (send.nonce, send.version)
    if stream.delta:
        return DeltaRequest(type_url=url, subscribe=names, nonce=nonce)
    return Request(type_url=url, names=names, nonce=nonce, version=version)


def _drain(pusher: Pusher, stream: Stream) -> int:
    count = 0
    while (send := pusher.take(stream)) is not None:
        count += 1
        # In state of the world every acknowledgement repeats the very same list.
        watch = stream.session.watches[_KINDS[send.type_url]]
        names = () if stream.delta else watch.repeated
        pusher.on_request(stream, _request(stream, send.type_url, names, send))
    return count


@pytest.mark.parametrize("protocol", ["delta", "state of the world"])
def test_push_of_one_endpoint_to_many_streams(benchmark: Run, protocol: str) -> None:
    """From the object to the acknowledgement of every stream, without gRPC."""
    assembler = Assembler()
    documents = [parse_file("x.json", msgspec.json.encode(item)) for item in world.documents()]
    assembler.apply([entry for parsed in documents for entry in parsed.objects], ())
    pusher, streams = _subscribed(assembler.snapshot(()), delta=protocol == "delta")
    numbers = itertools.count(1)

    def push() -> int:
        document = world.endpoint_slice(300, generation=next(numbers))
        assembler.apply(parse_file("x.json", msgspec.json.encode(document)).objects, ())
        old, new = pusher.snapshot, assembler.snapshot(())
        pusher.publish(old, new, diff(old, new))
        return sum(_drain(pusher, stream) for stream in streams)

    assert benchmark(push) == STREAMS


def test_push_of_everything_to_many_streams(benchmark: Run) -> None:
    """The settings of the mesh change, and with them every cluster and listener."""
    assembler = Assembler()
    documents = [parse_file("x.json", msgspec.json.encode(item)) for item in world.documents()]
    assembler.apply([entry for parsed in documents for entry in parsed.objects], ())
    pusher, streams = _subscribed(assembler.snapshot(()), delta=True)
    numbers = itertools.count(1)

    def push() -> int:
        settings = world.mesh_config(generation=next(numbers)).encode()
        mesh, problems = parse_mesh_config("mesh.yaml", settings)
        assert mesh is not None, problems
        assembler.set_mesh(mesh)
        old, new = pusher.snapshot, assembler.snapshot(())
        pusher.publish(old, new, diff(old, new))
        return sum(_drain(pusher, stream) for stream in streams)

    # Clusters, their endpoints again, and listeners.
    assert benchmark(push) == 3 * STREAMS
