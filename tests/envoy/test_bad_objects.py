"""A bad file or object hurts only itself: a clear finding, and every other byte as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.envoy.harness import NETWORKING, Bed, bed, eventually

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

REVIEWS_V1 = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: {name}
spec:
  hosts:
  - {host}
  http:
  - route:
    - destination:
        host: {destination}
"""
CLASHING_GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: clash
spec:
  selector:
    istio: ingressgateway
  servers:
  - port:
      number: 80
      name: tcp
      protocol: TCP
    hosts:
    - "*"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Bed]:
    async with bed() as made:
        made.copy("virtual-service-reviews-v3.yaml", "reviews.yaml")
        await made.sidecar()
        await made.gateway()
        await made.settled()
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def mesh(running: Bed) -> AsyncIterator[Bed]:
    """The bed; what a test added to the directory is taken away afterwards."""
    files = {path: path.read_text() for path in running.live.rglob("*.yaml")}
    before = await everything(running)
    yield running
    for path in running.live.rglob("*.yaml"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            running.write(str(path.relative_to(running.live)), text)
    await eventually(lambda: everything(running), lambda now: now == before, what="as before")


async def everything(mesh: Bed) -> dict[str, Any]:
    """All that the Envoys run: clusters and listeners by version, virtual hosts by content."""
    found: dict[str, Any] = {}
    for name, envoy in mesh.envoys.items():
        for entry in await envoy.admin.config_dump("dynamic_active_clusters"):
            found[f"{name} cluster {entry['cluster']['name']}"] = entry["version_info"]
        for entry in await envoy.admin.config_dump("dynamic_listeners"):
            found[f"{name} listener {entry['name']}"] = entry["active_state"]["version_info"]
        for entry in await envoy.admin.config_dump("dynamic_route_configs"):
            routes = entry["route_config"]
            for host in routes.get("virtual_hosts", ()):
                found[f"{name} route {routes['name']} {host['name']}"] = host
    return found


async def finding(mesh: Bed, *words: str) -> dict[str, Any]:
    """The first finding of `/debug/configz` that holds all the words; it is in the log too."""

    async def look() -> list[dict[str, Any]]:
        found = await mesh.findings()
        return [entry for entry in found if all(word in str(entry) for word in words)]

    found = await eventually(look, bool, what=f"a finding with {words}")
    await mesh.settled()
    return found[0]


async def test_a_file_that_is_no_yaml_keeps_its_last_good_content(mesh: Bed) -> None:
    before = await everything(mesh)
    mesh.write("reviews.yaml", "kind: VirtualService\nspec: [oops\n")
    found = await finding(mesh, "reviews.yaml")
    assert found["level"] == "Error"
    assert found["line"] >= 2
    assert await everything(mesh) == before
    assert "reviews.yaml" in mesh.log


async def test_a_misspelt_field_is_found_with_file_line_object_and_path(mesh: Bed) -> None:
    before = await everything(mesh)
    text = (NETWORKING / "virtual-service-reviews-50-v3.yaml").read_text()
    mesh.write("reviews.yaml", text.replace("      weight: 50", "      wieght: 50", 1))
    found = await finding(mesh, "wieght")
    assert found["level"] == "Error"
    assert found["origin"] == "VirtualService default/reviews"
    assert found["field"] == "spec.http[0].route[0].wieght"
    assert found["line"] == 1 + text[: text.index("weight: 50")].count("\n")
    now = await everything(mesh)
    assert {key for key in now if now[key] != before.get(key)} <= {
        key for key in before if " reviews." in key
    }
    assert set(now) == set(before)
    assert "wieght" in mesh.log


async def test_a_virtual_service_to_a_missing_host_is_found_and_harms_nobody(mesh: Bed) -> None:
    before = await everything(mesh)
    text = REVIEWS_V1.format(name="ratings", host="ratings", destination="nowhere")
    mesh.write("ratings.yaml", text)
    found = await finding(mesh, "nowhere")
    assert found["origin"] == "VirtualService default/ratings"
    now = await everything(mesh)
    changed = {key for key in {*now, *before} if now.get(key) != before.get(key)}
    assert changed == {key for key in before if " ratings." in key and "route" in key}


async def test_of_two_virtual_services_on_one_host_the_loser_is_named(mesh: Bed) -> None:
    before = await everything(mesh)
    # Neither has a creation time, so the name decides, and `reviews` comes first.
    text = REVIEWS_V1.format(name="second", host="reviews", destination="reviews")
    mesh.write("second.yaml", text)
    found = await finding(mesh, "VirtualService default/second")
    assert "reviews" in found["message"]
    assert await everything(mesh) == before


async def test_a_gateway_that_wants_a_taken_port_in_another_way_is_refused(mesh: Bed) -> None:
    before = await everything(mesh)
    mesh.write("clash.yaml", CLASHING_GATEWAY)
    found = await finding(mesh, "Gateway default/clash")
    assert found["field"] == "spec.servers[0].port"
    assert "bookinfo-gateway" in found["message"]
    assert await everything(mesh) == before


async def test_an_unreadable_file_leaves_everything_else(mesh: Bed) -> None:
    before = await everything(mesh)
    # A directory with the name of a file cannot be read as one, even by root.
    (mesh.live / "broken.yaml").symlink_to(mesh.live / "nothing")
    try:
        found = await finding(mesh, "broken.yaml")
        assert found["level"] == "Error"
        assert await everything(mesh) == before
    finally:
        (mesh.live / "broken.yaml").unlink()
