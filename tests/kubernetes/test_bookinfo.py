"""Bookinfo in a cluster with kubectl as the only input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from controlplane.demo.exercises import EXERCISES, judge
from tests.kubernetes.bookinfo import KubernetesBookinfo
from tests.kubernetes.node_bed import node_bed

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.controllers,
    pytest.mark.netns,
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
]

# It takes six seconds, which other tests spend as well.
SLOW: Final = "delay of 7 s"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[KubernetesBookinfo]:
    """Bookinfo that the tests of this module share: leave it as it was found."""
    async with node_bed() as bed:
        mesh = KubernetesBookinfo(bed)
        try:
            await mesh.start()
            yield mesh
        finally:
            await mesh.close()


async def test_the_exercises_hold_and_nothing_is_rejected(mesh: KubernetesBookinfo) -> None:
    for exercise in EXERCISES:
        if exercise.title != SLOW:
            good, seen = await judge(exercise, mesh)
            assert good, f"{exercise.title}: {seen}"
    await mesh.apply()
    await mesh.settled()
