"""The classic exercises in captured pods, however traffic is captured and xDS is spoken."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from controlplane.demo.exercises import EXERCISES, get_page, judge
from controlplane.demo.namespace_mesh import NamespaceMesh
from controlplane.demo.ports import choose_namespace_layout
from tests.envoy.harness import SETTLED_STATS, eventually, free_ports

pytestmark = [pytest.mark.netns, pytest.mark.envoy]

# It takes six seconds. `pylot demo --once` spends them for one of the four ways, this file for the
# one that is farthest from it, `make soak` for all.
SLOW = "delay of 7 s"
SOAKING = bool(os.environ.get("PYLOT_SOAK"))


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
@pytest.mark.parametrize("transparent", [False, True], ids=["redirect", "tproxy"])
async def test_the_exercises_hold_and_nothing_is_rejected(transparent: bool, delta: bool) -> None:
    layout = choose_namespace_layout(free_ports(1)[0])
    with tempfile.TemporaryDirectory(prefix="pylot-bookinfo-") as directory:
        made = NamespaceMesh(layout, Path(directory), transparent=transparent, delta=delta)
        async with made as mesh:
            await mesh.start()
            patient = SOAKING or (transparent and not delta)
            titles = [exercise.title for exercise in EXERCISES]
            assert SLOW in titles
            for exercise in EXERCISES:
                if patient or exercise.title != SLOW:
                    good, seen = await judge(exercise, mesh)
                    assert good, f"{exercise.title}: {seen}"
            await mesh.pods()
            assert (await get_page(mesh)).status == 200
            counted = {pod.proxy.partition(".")[0]: pod.requests for pod in await mesh.pods()}
            assert set(counted) == set(made.admins())
            for name in ("istio-ingressgateway", "productpage-v1", "details-v1"):
                assert counted[name], f"{name} has counted no request"
            await eventually(lambda: troubles(made), lambda found: not found, what="settled Envoys")
            statuses = await mesh.statuses()
            assert len(statuses) == 7
            assert {status["delta"] for status in statuses} == {delta}
            assert not [status["rejections"] for status in statuses if status["rejections"]]


async def troubles(mesh: NamespaceMesh) -> list[str]:
    """What an Envoy rejected or waits for, and what the control plane thinks is not in sync."""
    wrong = []
    for name, admin in mesh.admins().items():
        stats = await admin.stats(SETTLED_STATS)
        assert stats["cluster_manager.warming_clusters"] == 0
        wrong += [
            f"{name}: {stat} is {value}"
            for stat, value in stats.items()
            if value != (1 if stat == "control_plane.connected_state" else 0)
        ]
    return wrong + [
        f"{status['proxy']}: {url} is {watch['status']}"
        for status in await mesh.statuses()
        for url, watch in status["resources"].items()
        if watch["status"] not in ("SYNCED", "NOT SENT")
    ]
