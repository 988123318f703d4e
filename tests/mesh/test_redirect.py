"""A sidecar whose traffic two iptables rules bring to it, in a network namespace.

Two namespaces are connected by a veth pair. `pod` holds an application (reviews v1), its sidecar
and the rules; `peer` holds the control plane and another application (ratings). A call from the pod
to the cluster IP of ratings has to leave through 15001, a call from the peer to the pod's
address has to come in through 15006.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.envoy import Envoy
from controlplane.demo.layout import Layout
from controlplane.demo.namespaces import owned
from tests.envoy.harness import (
    BOOKINFO,
    Bed,
    assert_settled,
    empty_bed,
    eventually,
    redirect_bootstrap,
)

pytestmark = [pytest.mark.netns, pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

POD = "10.244.0.13"
PEER = "10.244.0.12"
RATINGS = "10.96.0.12"
# The sidecar calls endpoints, never cluster IPs, so these two rules need no exception for it.
RULES = f"""*nat
-A OUTPUT -p tcp -d 10.96.0.0/16 -j REDIRECT --to-ports 15001
-A PREROUTING -p tcp -d {POD} --dport 9080 -j REDIRECT --to-ports 15006
COMMIT
"""
CALL = (
    "import sys, urllib.request\n"
    "with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:\n"
    "    print(answer.status, answer.headers['x-app'], answer.headers['server'])\n"
)
LAYOUT = Layout(
    prefix="10.244.0.",
    grpc=SocketAddress(host=PEER, port=15010),
    http=SocketAddress(host="127.0.0.1", port=8081),
    monitoring=SocketAddress(host="127.0.0.1", port=15014),
)


def run(*words: str, stdin: str = "") -> str:
    """Run a program to its end and return what it printed; fail when it fails."""
    done = subprocess.run(
        words, input=stdin, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[str, str]]:
    """`pod` and `peer`, connected, each with its address; removed afterwards."""
    pod, peer = (owned(f"redirect-{name}") for name in ("pod", "peer"))
    with contextlib.ExitStack() as stack:
        for name in (pod, peer):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
        run(
            *("ip", "-n", pod, "link", "add", "eth0", "type", "veth"),
            *("peer", "name", "eth0", "netns", peer),
        )
        for name, address in ((pod, POD), (peer, PEER)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        # Without a route to the cluster IPs connect() fails before the rule is reached.
        run("ip", "-n", pod, "route", "add", "default", "via", PEER)
        run("ip", "netns", "exec", pod, "iptables-restore", "--noflush", stdin=RULES)
        yield pod, peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(namespaces: tuple[str, str]) -> AsyncIterator[Bed]:
    """Control plane and ratings in `peer`, reviews v1 and its sidecar in `pod`."""
    pod, peer = namespaces
    made = empty_bed(LAYOUT)
    try:
        for folder, names in (
            ("mesh", ("namespaces", "reviews", "ratings")),
            ("networking", ("destination-rule-all",)),
        ):
            for name in names:
                made.write(f"{name}.yaml", (BOOKINFO / folder / f"{name}.yaml").read_text())
        await made.start_control_plane(network_namespace=peer)
        for namespace, app, address in ((pod, "reviews", POD), (peer, "ratings", PEER)):
            program = str(BOOKINFO / "apps" / f"{app}.py")
            command = [sys.executable, program, "--host", address, "--instance", app]
            await made.start_child(app, command, network_namespace=namespace)
        await made.launch(
            "sidecar",
            redirect_bootstrap(LAYOUT, admin=made.admin("sidecar"), ip=POD),
            network_namespace=pod,
        )
        yield made
    finally:
        await made.close()
        made.remove_directory()


@pytest.fixture
def sidecar(mesh: Bed) -> Envoy:
    return mesh.envoys["sidecar"]


async def call(namespace: str, url: str) -> str:
    """One request from inside a namespace: its status, who answered, and the server header."""
    words = ("ip", "netns", "exec", namespace, sys.executable, "-c", CALL, url)
    return (await asyncio.to_thread(run, *words)).strip()


async def requests(sidecar: Envoy, cluster: str) -> int:
    """How many requests the sidecar has sent to a cluster."""
    for entry in await sidecar.admin.clusters():
        if entry["name"] == cluster:
            return sum(
                int(stat.get("value", 0))
                for host in entry.get("host_statuses", ())
                for stat in host["stats"]
                if stat["name"] == "rq_total"
            )
    return 0


def redirected(namespace: str, port: int) -> int:
    """How many connections the rule to one port of the sidecar has taken."""
    saved = run("ip", "netns", "exec", namespace, "iptables-save", "--counters", "-t", "nat")
    return sum(
        int(packets)
        for packets in re.findall(rf"^\[(\d+):\d+\] .*--to-ports {port}$", saved, re.MULTILINE)
    )


async def connections(sidecar: Envoy, listener: str) -> int:
    """How many connections a listener has got."""
    stats = await sidecar.admin.stats(r"^listener\..*\.downstream_cx_total$")
    return sum(value for name, value in stats.items() if listener in name)


async def test_the_sidecar_settles(sidecar: Envoy) -> None:
    await assert_settled(sidecar)


async def test_a_request_leaves_through_the_outbound_listener(
    mesh: Bed, sidecar: Envoy, namespaces: tuple[str, str]
) -> None:
    cluster = "outbound|9080||ratings.default.svc.cluster.local"

    async def attempt() -> str:
        try:
            return await call(namespaces[0], f"http://{RATINGS}:9080/ratings/0")
        except AssertionError as error:
            return str(error)

    seen = await eventually(
        attempt, lambda text: text == "200 ratings-v1 (ratings) envoy", what="an answer of ratings"
    )
    assert seen.startswith("200")
    assert await requests(sidecar, cluster) >= 1
    assert redirected(namespaces[0], 15001) >= 1
    # virtualOutbound hands the connection to the listener of its original address.
    assert await connections(sidecar, "0.0.0.0_9080") >= 1


async def test_a_request_comes_in_through_the_inbound_listener(
    mesh: Bed, sidecar: Envoy, namespaces: tuple[str, str]
) -> None:
    before = await requests(sidecar, "inbound|9080||")

    async def attempt() -> str:
        try:
            return await call(namespaces[1], f"http://{POD}:9080/reviews/0")
        except AssertionError as error:
            return str(error)

    await eventually(
        attempt,
        lambda text: text == "200 reviews-v1 (reviews) istio-envoy",
        what="an answer of reviews through its sidecar",
    )
    assert await requests(sidecar, "inbound|9080||") > before
    assert redirected(namespaces[0], 15006) >= 1
    assert await connections(sidecar, "0.0.0.0_15006") >= 1
