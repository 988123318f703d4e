"""What happens to a connection in a mesh: by name, by address, past the sidecar, to nowhere.

One bed for the module: three versions of reviews and their friends, two echoes (`web` over HTTP,
`store` over TCP, at the port of the HTTP services), and a machine outside the mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from controlplane.demo.namespaces import run_program
from controlplane.demo.pods import Pod
from controlplane.demo.visitor import Visitor
from controlplane.errors import OutsideError
from controlplane.model.base import FrozenDict
from tests.envoy.harness import BOOKINFO
from tests.mesh.bed import (
    MESH_CONFIG,
    PRIVATE,
    QUICK_LOG,
    USER,
    WORLD,
    WORLD_POD,
    MeshBed,
    add_world,
    echo,
    mesh_bed,
    pod_object,
    service,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
]

WEB: Final = "10.96.0.80"
STORE: Final = "10.96.0.50"
THROUGH_PROXY: Final = "127.0.0.6"
FILES: Final = {
    **{
        f"{name}.yaml": (BOOKINFO / "mesh" / f"{name}.yaml").read_text()
        for name in ("namespaces", "productpage", "reviews", "ratings")
    },
    "web.yaml": service("web", WEB, "http:8000:8000") + pod_object("web", 30),
    "store.yaml": service("store", STORE, "tcp-db:9080:9080") + pod_object("store", 31),
}


class Traffic:
    """The bed with the pods that the tests speak of."""

    def __init__(self, bed: MeshBed, world: Visitor) -> None:
        self.bed = bed
        self.world = world

    def pod(self, name: str) -> Pod:
        return self.bed.pods.running[name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traffic() -> AsyncIterator[Traffic]:
    async with mesh_bed(FILES) as bed:
        world = await add_world(bed.network)
        try:
            await bed.plane.start_child(
                "world",
                echo("world", 80, 9080, 9999, 8888),
                network_namespace=bed.network.node.replace("-node", "-world"),
            )
            await asyncio.gather(
                *(bookinfo(bed, f"reviews-v{number}", 12 + number) for number in (1, 2, 3)),
                bookinfo(bed, "ratings-v1", 12),
                bookinfo(bed, "productpage-v1", 16),
                bed.add("web", 30, 8000, 7777, 7778, capture=("-d", "15090,15021,15020,7778")),
                bed.add("store", 31, 9080),
                bed.add("picky", 32, capture=("-o", "9999", "-x", f"{PRIVATE}/32")),
            )
            await bed.ready()
            await bed.settled()
            yield Traffic(bed, world)
        finally:
            world.close()


async def bookinfo(bed: MeshBed, name: str, number: int) -> Pod:
    app, _, version = name.partition("-")
    program = str(BOOKINFO / "apps" / f"{app}.py")
    pod = await bed.add(name, number, labels={"app": app, "version": version})
    words = [sys.executable, program, "--instance", name, "--version", version]
    await bed.pods.start_application(pod, words)
    return pod


async def captured(pod: Pod, port: int) -> int:
    """How many connections the rules of a pod have sent to one port of its proxy."""
    saved = await run_program(
        *("ip", "netns", "exec", pod.namespace, "iptables-save", "--counters", "-t", "nat")
    )
    rules = re.findall(rf"^\[(\d+):\d+\] .*--to-ports {port}$", saved, re.MULTILINE)
    return sum(map(int, rules))


CALL: Final = (
    "import sys, urllib.request\n"
    "with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:\n"
    "    print(answer.status, answer.headers['x-app'], answer.headers['server'])\n"
)


async def test_a_call_by_name_takes_the_whole_way(traffic: Traffic) -> None:
    bed, client = traffic.bed, traffic.pod("productpage-v1")
    before = await captured(client, 15001), len(bed.log(client))
    # Ours may be in a directory that only root can search.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    said = await run_program(
        *("ip", "netns", "exec", client.namespace, "setpriv", f"--reuid={USER}"),
        *(f"--regid={USER}", "--clear-groups", python, "-c", CALL),
        "http://reviews:9080/reviews/0",
    )
    status, version, instance, server = said.split()
    assert (status, server) == ("200", "envoy")
    assert instance == f"({version})"
    reviews = traffic.pod(version)

    out = await bed.logged(client, '"GET /reviews/0 HTTP/1.1" 200', "outbound|9080||reviews")
    assert f'"{reviews.spec.address}:9080"' in out
    assert " 10.96.0.13:9080 " in out  # where the application meant to go
    inbound = await bed.logged(reviews, '"GET /reviews/0 HTTP/1.1" 200', "inbound|9080||")
    # The application sees this address as its client's.
    assert re.search(rf"inbound\|9080\|\| {THROUGH_PROXY}:\d+ ", inbound)
    assert await captured(client, 15001) > before[0]
    assert await captured(reviews, 15006) >= 1
    stats = await client.admin.stats(r"^http\.outbound_0\.0\.0\.0_9080")
    assert sum(stats.values()) >= 1, "the listener 0.0.0.0_9080 has routed it"


async def test_names_are_answered_by_the_agent_alone(traffic: Traffic) -> None:
    client = traffic.pod("productpage-v1")
    for name, address in (
        ("reviews", "10.96.0.13"),
        ("reviews.default", "10.96.0.13"),
        ("reviews.default.svc.cluster.local", "10.96.0.13"),
        ("store", STORE),
    ):
        asked = ("ip", "netns", "exec", client.namespace, "getent", "ahostsv4", name)
        assert (await run_program(*asked)).split()[0] == address
    # Nobody serves the cluster's DNS here, so nobody else can have answered.
    with pytest.raises(OutsideError):
        await run_program(
            *("ip", "netns", "exec", client.namespace, "getent", "ahostsv4", "nobody.example.com")
        )


async def test_the_application_sees_its_own_proxy(traffic: Traffic) -> None:
    status, said = await traffic.bed.ask(traffic.pod("productpage-v1"), WEB, 8000, "/seen")
    assert status == 200
    assert said["peer"] == THROUGH_PROXY


async def test_the_address_of_a_tcp_service_wins_over_the_port_of_http(traffic: Traffic) -> None:
    bed, client = traffic.bed, traffic.pod("productpage-v1")
    said = await bed.say(client.visitor, STORE, 9080)
    assert said == f"store {THROUGH_PROXY}"
    await bed.logged(client, "outbound|9080||store.default.svc.cluster.local")


async def test_an_unknown_address_is_passed_through(traffic: Traffic) -> None:
    bed, client = traffic.bed, traffic.pod("productpage-v1")
    assert await bed.say(client.visitor, WORLD, 9999) == f"world {client.spec.address}"
    await bed.logged(client, "PassthroughCluster", f"{WORLD}:9999")


async def test_an_unknown_host_at_the_port_of_a_service_is_allowed(traffic: Traffic) -> None:
    bed, client = traffic.bed, traffic.pod("productpage-v1")
    status, said = await bed.ask(client, WORLD, 9080, "/any", name="nobody.example.com")
    assert (status, said["name"], said["host"]) == (200, "world", "nobody.example.com")
    line = await bed.logged(client, '"GET /any HTTP/1.1" 200', "PassthroughCluster")
    assert line.endswith("allow_any")


async def test_an_undeclared_inbound_port_is_passed_through(traffic: Traffic) -> None:
    bed, web = traffic.bed, traffic.pod("web")
    assert await bed.say(traffic.world, web.spec.address, 7777) == f"web {THROUGH_PROXY}"
    await bed.logged(web, "InboundPassthroughCluster", ":7777")


async def test_a_direct_call_to_the_inbound_port_ends_in_the_black_hole(traffic: Traffic) -> None:
    bed, web = traffic.bed, traffic.pod("web")
    before = await captured(web, 15006)
    with pytest.raises(OSError):  # noqa: PT011 - reset, or ended without a word
        await bed.say(traffic.world, web.spec.address, 15006)
    assert await captured(web, 15006) >= before
    assert web.agent.returncode is None
    # It did not loop: the proxy still answers.
    assert (await bed.ask(traffic.pod("store"), WEB, 8000))[0] == 200


async def test_the_own_service_is_called_through_both_halves(traffic: Traffic) -> None:
    bed, web = traffic.bed, traffic.pod("web")
    status, said = await bed.ask(web, WEB, 8000, "/own")
    assert (status, said["name"], said["peer"]) == (200, "web", THROUGH_PROXY)
    await bed.logged(web, "/own", "outbound|8000||web.default.svc.cluster.local")
    await bed.logged(web, "/own", "inbound|8000||")


@pytest.mark.parametrize("where", ["own pod address", "localhost"])
async def test_the_pod_itself_is_called_past_the_sidecar(traffic: Traffic, where: str) -> None:
    bed, web = traffic.bed, traffic.pod("web")
    host = web.spec.address if where == "own pod address" else "127.0.0.1"
    status, said = await bed.ask(web, host, 8000, "/past")
    assert (status, said["name"], said["peer"]) == (200, "web", host)
    await bed.unlogged(web, "/past")


async def test_the_proxy_s_own_calls_are_not_captured(traffic: Traffic) -> None:
    bed, client = traffic.bed, traffic.pod("productpage-v1")
    status, said = await bed.ask(client, WORLD, 9080, "/as-proxy", name="p.example.com", uid=1337)
    assert (status, said["name"]) == (200, "world")
    await bed.unlogged(client, "/as-proxy")
    # And so a service's address leads nowhere for it.
    with pytest.raises(OSError, match="Connect call failed") as caught:
        await bed.ask(client, WEB, 8000, uid=1337)
    assert caught.value.errno == errno.EHOSTUNREACH


async def test_excluded_outbound_ports_and_ranges_are_not_captured(traffic: Traffic) -> None:
    bed, picky = traffic.bed, traffic.pod("picky")
    before = len(bed.log(picky))
    assert await bed.say(picky.visitor, WORLD, 9999) == f"world {picky.spec.address}"
    assert await bed.say(picky.visitor, PRIVATE, 8888) == f"world {picky.spec.address}"
    for excluded in (f"{WORLD}:9999", f"{PRIVATE}:8888"):
        await bed.unlogged(picky, excluded, before=before)
    # The same address at another port, and the same port at another address.
    assert await bed.say(picky.visitor, WORLD, 8888) == f"world {picky.spec.address}"
    await bed.logged(picky, "PassthroughCluster", f"{WORLD}:8888")


async def test_an_excluded_inbound_port_is_not_captured(traffic: Traffic) -> None:
    bed, web = traffic.bed, traffic.pod("web")
    assert await bed.say(traffic.world, web.spec.address, 7778) == f"web {WORLD_POD}"
    await bed.unlogged(web, ":7778")


async def test_root_is_captured_like_everybody(traffic: Traffic) -> None:
    bed, client = traffic.bed, traffic.pod("productpage-v1")
    assert (await bed.ask(client, WEB, 8000, "/as-root", uid=0))[0] == 200
    await bed.logged(client, "/as-root", "outbound|8000||web")


async def test_nobody_outside_the_registry_is_reached_when_the_mesh_says_so() -> None:
    config = f"{MESH_CONFIG}outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}\n"
    async with mesh_bed(FILES, mesh_config=config) as bed:
        world = await add_world(bed.network)
        with contextlib.closing(world):
            await bed.plane.start_child(
                "world",
                echo("world", 9080, 9999),
                network_namespace=bed.network.node.replace("-node", "-world"),
            )
            client, _ = await asyncio.gather(bed.add("client", 40), bed.add("web", 30, 8000))
            await bed.ready()
            assert (await bed.ask(client, WEB, 8000))[0] == 200
            assert (await bed.ask(client, WORLD, 9080, name="nobody.example.com"))[0] == 502
            with pytest.raises(OSError):  # noqa: PT011 - reset, or ended without a word
                await bed.say(client.visitor, WORLD, 9999)
            # The world is there: whoever is not captured reaches it.
            assert await bed.say(client.visitor, WORLD, 9999, uid=1337) == "world 10.244.0.40"


async def test_tproxy_shows_the_application_its_real_client() -> None:
    environment = FrozenDict({**QUICK_LOG})
    async with mesh_bed(FILES) as bed:
        web, client = await asyncio.gather(
            bed.add("web", 30, 8000, capture=("-m", "TPROXY"), environment=environment),
            bed.add("client", 40, capture=("-m", "TPROXY")),
        )
        await bed.ready()
        status, said = await bed.ask(client, WEB, 8000, "/transparent")
        assert (status, said["peer"]) == (200, client.spec.address)
        await bed.logged(client, "/transparent", "outbound|8000||web")
        await bed.logged(web, "/transparent", "inbound|8000||")
