"""The name table that agents ask for, over the stream of their own."""

from __future__ import annotations

from controlplane.ads.types import CDS, NDS
from controlplane.model.diff import Change
from controlplane.model.names import Host
from controlplane.translate.envoy import NameTable
from tests.feature.conversation import serving
from tests.feature.world import World

SERVICE = Change(services=frozenset({Host("ratings")}))

WORLD = World(
    clusters={"reviews": 1},
    endpoints={"reviews": ("10.0.0.1",), "ratings": ("10.0.0.2",)},
    routes={"80": ("reviews",)},
)


async def test_an_agent_gets_the_whole_table_and_then_every_change() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as agent:
        answer = await agent.asks_and_accepts(NDS)
        assert list(NameTable.FromString(answer.resources[""]).table) == ["reviews"]
        mesh.becomes(SERVICE, clusters={"reviews": 1, "ratings": 1})
        answer = await agent.hears(NDS)
        assert set(NameTable.FromString(answer.resources[""]).table) == {"reviews", "ratings"}


async def test_a_table_that_stays_the_same_is_not_sent_again() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as agent:
        await agent.asks_and_accepts(NDS)
        mesh.becomes(routes={"80": ("ratings",)})
        await agent.hears_nothing()


async def test_delta_agents_get_it_too() -> None:
    async with serving(WORLD) as mesh, mesh.delta() as agent:
        assert (await agent.asks_and_accepts(NDS)).names == ("",)
        mesh.becomes(SERVICE, clusters={"ratings": 1})
        answer = await agent.hears(NDS)
        assert (answer.names, answer.removed) == (("",), ())


async def test_an_envoy_that_does_not_ask_for_names_hears_of_none() -> None:
    async with serving(WORLD) as mesh, mesh.sotw() as envoy:
        await envoy.asks_and_accepts(CDS)
        mesh.becomes(clusters={"reviews": 2})
        assert (await envoy.hears(CDS)).names
        await envoy.hears_nothing()
