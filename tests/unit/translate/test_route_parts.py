"""A route configuration is told from the one before, and is what a fresh one would be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

import msgspec
from msgspec import structs

from controlplane.model.assemble import Assembler
from controlplane.model.meta import ObjectRef
from controlplane.model.names import RouteName
from controlplane.model.proxy import make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.sources.parse import parse_file
from controlplane.translate import build
from controlplane.translate.build import Generator
from controlplane.translate.memo import Memo
from controlplane.translate.resources import Resource
from controlplane.translate.routes import RouteInput, RouteParts
from controlplane.translate.scope import ProxyClass
from controlplane.translate.virtual_hosts import (
    RefuseContent,
    VirtualHostInput,
    build_virtual_host,
)

SERVICES = 40


def service(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"s{number}", "namespace": f"n{number % 2}"},
        "spec": {"clusterIP": f"10.96.0.{number + 1}", "ports": [{"name": "http", "port": 80}]},
    }


def split(
    name: str, number: int, *, weight: int = 50, seconds: int = 15, **match: Any
) -> dict[str, Any]:
    host = f"s{number}.n{number % 2}.svc.cluster.local"
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "n0"},
        "spec": {
            "hosts": [host],
            "http": [
                {
                    **({"match": [match]} if match else {}),
                    "timeout": f"{seconds}s",
                    "route": [
                        {"destination": {"host": host}, "weight": weight},
                        {
                            "destination": {"host": "s0.n0.svc.cluster.local"},
                            "weight": 100 - weight,
                        },
                    ],
                }
            ],
        },
    }


class World:
    """Objects that change one after the other."""

    def __init__(self) -> None:
        self._assembler = Assembler()
        self.apply(*(service(number) for number in range(SERVICES)))

    def apply(self, *objects: dict[str, Any]) -> Snapshot:
        parsed = [parse_file("x.json", msgspec.json.encode(item)) for item in objects]
        self._assembler.apply([entry for one in parsed for entry in one.objects], ())
        return self.snapshot

    def remove(self, name: str) -> Snapshot:
        self._assembler.apply((), (ObjectRef("VirtualService", "n0", name),))
        return self.snapshot

    @property
    def snapshot(self) -> Snapshot:
        return self._assembler.snapshot(())


def class_of(generator: Generator, snapshot: Snapshot, namespace: str, app: str) -> ProxyClass:
    proxy = make_proxy(
        f"sidecar~10.0.0.1~{app}.{namespace}~{namespace}.svc.cluster.local",
        {"NAMESPACE": namespace, "LABELS": {"app": app}},
    )
    return generator.classify(proxy, snapshot)


def facts(made: Resource) -> tuple[object, ...]:
    return made.body, made.digest, made.origins, made.clusters


def changes(world: World) -> Iterator[Snapshot]:
    """Snapshots after VirtualServices came, changed and went."""
    chance = random.Random(3)
    present: set[str] = set()
    for _ in range(60):
        name = f"r{chance.randrange(6)}"
        if name in present and chance.random() < 0.3:
            present.discard(name)
            yield world.remove(name)
            continue
        present.add(name)
        number, weight = chance.randrange(8), chance.randrange(1, 100)
        match: dict[str, Any] = {}
        if chance.random() < 0.2:  # what cannot be expressed is left out, and noticed
            match = {"headers": {"@request.auth.claims.sub": {"exact": "a"}}}
        yield world.apply(split(name, number, weight=weight, **match))


def test_what_is_told_from_the_one_before_is_what_a_fresh_generator_gives() -> None:
    world, generator = World(), Generator()
    told = noticed = 0
    with mock.patch.object(RouteParts, "of", wraps=RouteParts.of) as anew:
        for snapshot in changes(world):
            for namespace in ("n0", "n1"):
                cls = class_of(generator, snapshot, namespace, "client")
                anew.reset_mock()
                made = generator.route(snapshot, cls, "80")
                told += not anew.called
                fresh = Generator()
                assert facts(made) == facts(fresh.route(snapshot, cls, "80"))
                expected = fresh.diagnostics(snapshot, cls)
                assert generator.diagnostics(snapshot, cls) == expected
                noticed += bool(expected)
    assert told > 20
    assert noticed > 10


def test_only_the_virtual_hosts_that_changed_are_looked_at() -> None:
    world, generator = World(), Generator()
    snapshot = world.apply(split("r", 5))
    cls = class_of(generator, snapshot, "n0", "client")
    generator.route(snapshot, cls, "80")
    snapshot = world.apply(split("r", 5, weight=70))
    with mock.patch.object(generator, "_virtual_host", wraps=generator._virtual_host) as asked:
        asked.breathe.return_value = False
        made = generator.route(snapshot, cls, "80")
    assert {call.args[0].name for call in asked.call_args_list} == {
        "s5.n1.svc.cluster.local:80",
        "allow_any",
    }
    asked.each.assert_not_called()
    assert facts(made) == facts(Generator().route(snapshot, cls, "80"))


def test_classes_with_the_same_virtual_hosts_share_what_is_told() -> None:
    world, generator = World(), Generator()
    for weight in (30, 40, 50):
        snapshot = world.apply(
            split("r", 5, weight=weight), split("other", 3, sourceLabels={"app": "a"})
        )
        first, second, other = (class_of(generator, snapshot, "n0", app) for app in ("b", "c", "a"))
        assert first != other
        made = generator.route(snapshot, first, "80")
        assert made is generator.route(snapshot, second, "80")
        assert made is not generator.route(snapshot, other, "80")


def test_parts_with_other_origins_are_others() -> None:
    host = build_virtual_host(
        VirtualHostInput.of(name="block_all", text="*", content=RefuseContent(), sources=())
    )
    same = structs.replace(host)
    other = structs.replace(host, sources=ObjectRef("Service", "n0", "s0"))
    value = RouteInput(name=RouteName("80"))
    parts, equal, another = (RouteParts.of(value, (one,)) for one in (host, same, other))
    assert parts == equal
    assert hash(parts) == hash(equal)
    assert parts.digests == another.digests
    assert parts != another
    assert parts != RouteParts.of(structs.replace(value, ignore_port=False), (host,))


def test_a_virtual_host_that_is_in_use_is_not_built_again_for_a_new_class() -> None:
    def small(function: Any, minimum: int = 0) -> Memo[Any, Any]:
        return Memo(function, minimum=8)

    build_one = mock.Mock(side_effect=build_virtual_host)
    with (
        mock.patch.object(build, "build_virtual_host", build_one),
        mock.patch.object(build, "Memo", small),
    ):
        generator = Generator()
    world = World()
    for number in range(400):  # more than the memory keeps of what nobody asks for
        snapshot = world.apply(split("r", 5, seconds=1 + number))
        generator.route(snapshot, class_of(generator, snapshot, "x", "client"), "80")
    assert build_one.call_count >= SERVICES + 400
    build_one.reset_mock()
    # All services are in other namespaces than both classes.
    generator.route(snapshot, class_of(generator, snapshot, "y", "client"), "80")
    build_one.assert_not_called()
