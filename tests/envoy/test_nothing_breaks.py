"""No request fails, whatever changes: real Envoys under steady load."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.envoy.chaos_support import (
    SECONDS,
    ChaosMesh,
    Document,
    base,
    chaos_mesh,
    destination_rule,
    endpoint_slice,
    service,
    virtual_service,
)

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[ChaosMesh]:
    async with chaos_mesh() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def mesh(running: ChaosMesh) -> AsyncIterator[ChaosMesh]:
    yield running
    running.clear()
    base(running)
    await asyncio.sleep(0.3)
    await running.settled()


def rounds() -> Iterator[int]:
    """Count until the time is over."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


async def pause() -> None:
    """As long as a change takes, sometimes shorter, sometimes longer."""
    await asyncio.sleep(random.uniform(0.05, 0.5))


async def test_routes_flip_between_two_new_services(mesh: ChaosMesh) -> None:
    flips = 0
    async with mesh.load() as loads:
        for number in rounds():
            # Both are new, one is routed to, and the two of the round before are gone.
            names = (f"blue-{number}", f"green-{number}")
            made = [
                document
                for name, address in zip(names, mesh.addresses[2:4], strict=True)
                for document in (
                    service(name, mesh.port),
                    endpoint_slice(name, [address], mesh.port),
                )
            ]
            for name in (*names, *names):
                mesh.route({"host": name}, *made)
                flips += 1
                await pause()
    assert flips > 8
    for load in loads:
        assert {"backend-2", "backend-3"} <= set(load.seen)


async def test_a_subset_comes_and_goes_with_its_route(mesh: ChaosMesh) -> None:
    async with mesh.load() as loads:
        for number in rounds():
            version = f"v{number % 2 + 1}"
            name = f"subset-{number}"
            rule = destination_rule("front", "front", version)
            rule["spec"]["subsets"][0]["name"] = name
            mesh.route({"host": "front", "subset": name}, rule)
            await pause()
            mesh.route({"host": "front"})
            await pause()
    for load in loads:
        assert set(load.seen) == {"backend-0", "backend-1"}


async def test_a_subset_is_replaced_by_another_in_one_change(mesh: ChaosMesh) -> None:
    async with mesh.load():
        for number in rounds():
            rule = destination_rule("front", "front", "v1")
            rule["spec"]["subsets"][0]["name"] = f"subset-{number}"
            mesh.route({"host": "front", "subset": f"subset-{number}"}, rule)
            await pause()


@pytest.mark.parametrize("names", [("http", "tcp"), ("http", "web"), ("tcp", "")])
async def test_port_names_change(mesh: ChaosMesh, names: tuple[str, str]) -> None:
    port = mesh.other_port

    def write(port_name: str) -> None:
        mesh.write(
            "renamed.yaml",
            service("renamed", port, port_name=port_name),
            endpoint_slice("renamed", mesh.addresses[:2], mesh.port, port_name=port_name),
            virtual_service("renamed", "renamed", {"host": "renamed", "port": {"number": port}}),
        )

    write(names[0])
    await asyncio.sleep(0.5)
    await mesh.settled()
    async with mesh.load("renamed", port=port) as loads:
        for number in rounds():
            write(names[(number + 1) % 2])
            await pause()
    for load in loads:
        assert set(load.seen) == {"backend-0", "backend-1"}


async def test_the_control_plane_is_killed_and_restarted(mesh: ChaosMesh) -> None:
    def made(name: str) -> list[Document]:
        return [
            service(name, mesh.port),
            endpoint_slice(name, mesh.addresses[2:4], mesh.port),
        ]

    async with mesh.load():
        for number in rounds():
            if number % 2:
                await mesh.bed.control_plane.kill()
            else:
                await mesh.bed.control_plane.stop()
            # What changes meanwhile is found when it is back: one service is new, and the one
            # that calls went to is gone.
            name = f"while-away-{number}"
            mesh.route({"host": name}, *made(name))
            await mesh.bed.start_control_plane()
            await mesh.applied(f"||{name}.")
            await mesh.settled()
            assert not await mesh.clusters(f"||while-away-{number - 1}.")


async def test_a_fifth_of_the_endpoints_rolls(mesh: ChaosMesh) -> None:
    everybody = list(mesh.apps.values())
    mesh.route(
        {"host": "rolling"},
        service("rolling", mesh.port),
        endpoint_slice("rolling", [app.host for app in everybody], mesh.port),
    )
    await mesh.applied("rolling.")
    await mesh.settled()
    async with mesh.load() as loads:
        for number in rounds():
            away = [everybody[(2 * number + step) % len(everybody)] for step in (0, 1)]
            left = [app.host for app in everybody if app not in away]
            mesh.route(
                {"host": "rolling"},
                service("rolling", mesh.port),
                endpoint_slice("rolling", left, mesh.port),
            )
            await asyncio.sleep(0.5)  # as long as a pod takes to end, at least
            for app in away:
                await app.stop()
            await asyncio.sleep(random.uniform(0.05, 0.3))
            for app in away:
                await app.start()
            mesh.route(
                {"host": "rolling"},
                service("rolling", mesh.port),
                endpoint_slice("rolling", [app.host for app in everybody], mesh.port),
            )
            await pause()
    for load in loads:
        assert set(load.seen) == set(mesh.apps)
