"""Agents in pods: network namespaces with real capture rules.

A node (a namespace with a bridge) holds the control plane and the cluster's DNS server; each pod
is a namespace with an application, its agent and the rules of `pylot iptables`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from controlplane.agent.bootstrap import PipeAddress, SocketAddress
from controlplane.agent.dns_wire import Code, Record, RecordType, answer_to, decode, encode
from controlplane.agent.processes import Child
from controlplane.demo.layout import Layout
from controlplane.demo.namespaces import owned
from tests.envoy.harness import BOOKINFO, Bed, empty_bed, eventually
from tests.mesh.agent_support import (
    PROXY_ID,
    AgentProcess,
    agent,
    capabilities_of,
    ids_of,
    is_running,
)
from tests.mesh.capture_support import Visitor
from tests.unit.agent.fake_control_plane import FakeControlPlane, table

pytestmark = [pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(90)]

NODE: Final = "10.244.0.1"
SERVICE: Final = "10.96.0.13"
DNS_SERVER: Final = "10.96.0.10"
LAYOUT: Final = Layout(
    prefix="10.244.0.",
    grpc=SocketAddress(host=NODE, port=15010),
    http=SocketAddress(host="127.0.0.1", port=8081),
    monitoring=SocketAddress(host="127.0.0.1", port=15014),
)
CAPTURE: Final = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*",
                  "-x", "", "-b", "*", "-d", "15090,15021,15020")  # fmt: skip
MESH: Final = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec:
  clusterIP: 10.96.0.13
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
"""
SLICE: Final = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: reviews
  namespace: default
  labels: {kubernetes.io/service-name: reviews}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}]
endpoints:
"""
# Asks over connections that are kept and over new ones, until it is told to end.
LOAD: Final = """
import http.client, json, sys, threading, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
deadline = time.monotonic() + seconds
good, bad, servers, lock = [0], [], set(), threading.Lock()
def ask(kept):
    connection = None
    while time.monotonic() < deadline:
        try:
            connection = connection or http.client.HTTPConnection(host, port, timeout=10)
            connection.request("GET", "/reviews/0")
            answer = connection.getresponse()
            body = answer.read()
            with lock:
                if answer.status == 200:
                    good[0] += 1
                    servers.add(answer.headers["x-app"])
                else:
                    bad.append(f"{answer.status} {body[:80]!r}")
            if not kept or answer.will_close:
                connection.close()
                connection = None
        except OSError as error:
            with lock:
                bad.append(repr(error))
            connection = None
        time.sleep(0.005)
threads = [threading.Thread(target=ask, args=(index % 2 == 0,)) for index in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"good": good[0], "bad": bad, "servers": sorted(map(str, servers))}))
"""
# Tells the caller whom it sees.
ECHO: Final = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        self.send_response(200)
        self.send_header("x-app", self.client_address[0])
        self.send_header("content-length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("", 9080), Handler).serve_forever()
"""
NET_ADMIN: Final = 1 << 12


async def run(*words: str, namespace: str = "", stdin: str = "") -> str:
    """Run a program to its end and return what it printed; fail when it fails."""
    prefix = ("ip", "netns", "exec", namespace) if namespace else ()
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, f"{' '.join(words)}: {err.decode()}{out.decode()}"
    return out.decode()


def namespace_of(name: str) -> str:
    """The network namespace of a pod or of the node."""
    return owned(f"agent-{name}")


class Cluster:
    """A node and its pods."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._pods = 0
        self.node = namespace_of("node")

    async def start(self) -> None:
        """Make the node."""
        await self._namespace(self.node)
        for words in (
            "link add br0 type bridge",
            f"address add {NODE}/24 dev br0",
            f"address add {DNS_SERVER}/32 dev lo",
            "link set br0 up",
            # A service's address that nobody captured fails at once instead of hanging.
            f"route add unreachable {SERVICE}/32",
        ):
            await run("ip", "-n", self.node, *words.split())

    async def pod(self, name: str, *capture: str) -> tuple[str, str]:
        """Make a pod with capture rules, and return its namespace and its address."""
        self._pods += 1
        address = f"10.244.0.{10 + self._pods}"
        made = namespace_of(name)
        await self._namespace(made)
        peer = f"veth{self._pods}"
        for words in (
            f"-n {made} link add eth0 type veth peer name {peer} netns {self.node}",
            f"-n {self.node} link set {peer} master br0 up",
            f"-n {made} address add {address}/24 dev eth0",
            f"-n {made} link set eth0 up",
            f"-n {made} route add default via {NODE}",
        ):
            await run("ip", *words.split())
        program = (sys.executable, "-m", "controlplane", "iptables")
        await run(*program, *CAPTURE, *capture, namespace=made)
        return made, address

    async def _namespace(self, name: str) -> None:
        await run("ip", "netns", "add", name)
        self._stack.push_async_callback(run, "ip", "netns", "del", name)
        await run("ip", "-n", name, "link", "set", "lo", "up")


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    async with contextlib.AsyncExitStack() as stack:
        made = Cluster(stack)
        await made.start()
        yield made


@contextlib.asynccontextmanager
async def control_plane(node: str) -> AsyncIterator[Bed]:
    made = empty_bed(LAYOUT)
    try:
        made.mesh_config = "accessLogFile: /dev/stdout\n"
        made.write("mesh.yaml", MESH)
        await made.start_control_plane(network_namespace=node)
        yield made
    finally:
        await made.close()
        made.remove_directory()


def write_slice(bed: Bed, addresses: Sequence[str]) -> None:
    bed.write("slice.yaml", SLICE + "".join(f"- addresses: [{ip}]\n" for ip in addresses))


async def reviews(bed: Bed, name: str, namespace: str, address: str) -> Child:
    program = str(BOOKINFO / "apps" / "reviews.py")
    command = [sys.executable, program, "--host", address, "--port", "9080", "--instance", name]
    return await bed.start_child(name, command, network_namespace=namespace)


def sidecar(
    name: str, namespace: str, address: str, **environment: str
) -> contextlib.AbstractAsyncContextManager[AgentProcess]:
    return agent(
        LAYOUT.grpc,
        name=name,
        environment={
            "INSTANCE_IP": address,
            "ISTIO_METAJSON_LABELS": json.dumps({"app": name.partition("-")[0]}),
            **environment,
        },
        network_namespace=namespace,
    )


async def ready(pods: Sequence[tuple[str, AgentProcess]]) -> None:
    """Wait until the kubelet's probe succeeds in each pod."""
    probe = "import urllib.request as u; u.urlopen('http://127.0.0.1:15021/healthz/ready')"
    for namespace, proxy in pods:
        await proxy.ready()
        await run(sys.executable, "-c", probe, namespace=namespace)


async def _logs(proxy: AgentProcess, words: str) -> None:
    """Wait until an agent's output has the words."""

    async def look() -> str:
        return proxy.log

    await eventually(look, lambda log: words in log, what=words)


async def test_a_pod_that_ends_under_load_fails_no_request() -> None:
    async with cluster() as node, control_plane(node.node) as bed:
        pods = {name: await node.pod(name) for name in ("reviews-1", "reviews-2", "client")}
        for name in ("reviews-1", "reviews-2"):
            await reviews(bed, name, *pods[name])
        addresses = [pods[name][1] for name in ("reviews-1", "reviews-2")]
        write_slice(bed, addresses)
        drain = {"MINIMUM_DRAIN_DURATION": "2s"}
        async with (
            sidecar("reviews-1", *pods["reviews-1"]) as first,
            sidecar("reviews-2", *pods["reviews-2"], **drain) as second,
            sidecar("client", *pods["client"], ISTIO_META_DNS_CAPTURE="true") as client,
        ):
            await ready(
                [
                    (pods["reviews-1"][0], first),
                    (pods["reviews-2"][0], second),
                    (pods["client"][0], client),
                ]
            )
            load = asyncio.create_task(
                run(
                    *(sys.executable, "-c", LOAD, SERVICE, "9080", "8"),
                    namespace=pods["client"][0],
                )
            )
            await asyncio.sleep(2)
            envoy = second.envoy_pid
            os.kill(second.child.pid, signal.SIGTERM)
            # As a cluster does it: the others learn a little later.
            await asyncio.sleep(0.7)
            write_slice(bed, addresses[:1])
            assert await asyncio.wait_for(second.child.wait(), 20) == 0
            assert not is_running(envoy)
            seen = json.loads(await load)
            # Envoy, which is not root, writes to the standard output of an agent that is.
            for proxy, cluster_name in (
                (client, "outbound|9080||reviews.default.svc.cluster.local"),
                (first, "inbound|9080||"),
            ):
                await _logs(proxy, cluster_name)
            assert "name_table_unavailable" not in client.log
    assert seen["bad"] == []
    assert seen["good"] > 200
    assert [server.partition(" ")[2] for server in seen["servers"]] == [
        "(reviews-1)",
        "(reviews-2)",
    ]


async def test_tproxy_keeps_one_capability_and_the_callers_address() -> None:
    async with cluster() as node, control_plane(node.node) as bed:
        mode = {"ISTIO_META_INTERCEPTION_MODE": "TPROXY"}
        server, address = await node.pod("reviews-1", "-m", "TPROXY")
        caller, callers_address = await node.pod("client")
        await bed.start_child("echo", [sys.executable, "-c", ECHO], network_namespace=server)
        write_slice(bed, [address])
        async with (
            sidecar("reviews-1", server, address, **mode) as first,
            sidecar("client", caller, callers_address) as client,
        ):
            await ready([(server, first), (caller, client)])
            assert ids_of(first.envoy_pid) == (0, PROXY_ID)
            assert capabilities_of(first.envoy_pid) == NET_ADMIN
            load = (sys.executable, "-c", LOAD, SERVICE, "9080", "1")
            seen = json.loads(await run(*load, namespace=caller))
    assert seen["bad"] == []
    assert seen["good"] > 20
    assert seen["servers"] == [callers_address]


class DnsServer:
    """The cluster's DNS server, on a socket inside the node: knows one name of the world."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: list[bytes] = []

    def answer(self) -> None:
        data, client = self.sock.recvfrom(512)
        query = decode(data)
        question = query.questions[0]
        self.asked.append(b".".join(question.name))
        records: tuple[Record, ...] = ()
        code = Code.NXDOMAIN
        if question.name == (b"www", b"example", b"org"):
            code = Code.NOERROR
            if question.type == RecordType.A:
                records = (Record(question.name, RecordType.A, 5, socket.inet_aton("203.0.113.9")),)
        self.sock.sendto(encode(answer_to(query, code, answers=records)), client)


@contextlib.contextmanager
def dns_server(node: str) -> Iterator[DnsServer]:
    visitor = Visitor(node)
    sock = visitor.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((DNS_SERVER, 53))
    sock.setblocking(False)
    made = DnsServer(sock)
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, made.answer)
    try:
        yield made
    finally:
        loop.remove_reader(sock)
        sock.close()
        visitor.close()


@contextlib.contextmanager
def resolv_conf(namespace: str) -> Iterator[None]:
    """What `ip netns exec` shows as /etc/resolv.conf."""
    directory = Path("/etc/netns") / namespace
    directory.mkdir(parents=True)
    file = directory / "resolv.conf"
    file.write_text(
        f"nameserver {DNS_SERVER}\nsearch default.svc.cluster.local svc.cluster.local\n"
        "options ndots:5 timeout:2\n"
    )
    try:
        yield
    finally:
        file.unlink()
        directory.rmdir()


async def resolve(namespace: str, name: str, *options: str) -> list[str]:
    """The addresses of a name as an application of the pod (uid 1000) finds them."""
    code = (
        "import json, socket, sys\n"
        "try:\n"
        "    found = socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET, socket.SOCK_STREAM)\n"
        "except socket.gaierror:\n"
        "    found = []\n"
        "print(json.dumps(sorted({entry[4][0] for entry in found})))\n"
    )
    words = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/env")
    # Ours may be in a directory that only root can search.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    out = await run(*words, *options, python, "-c", code, name, namespace=namespace)
    found: list[str] = json.loads(out)
    return found


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_names_are_resolved_by_the_agent_and_the_rest_by_the_cluster(transport: str) -> None:
    plane: Any = FakeControlPlane()
    pipe = PipeAddress(path=f"/tmp/pylag-{os.getpid()}.sock")
    # The rules capture queries to the servers of the pod's resolv.conf.
    with resolv_conf(namespace_of("web")):
        async with cluster() as node:
            namespace, address = await node.pod("web", "--redirect-dns")
            environment = {"INSTANCE_IP": address, "ISTIO_META_DNS_CAPTURE": "true"}
            with dns_server(node.node) as server:
                async with (
                    plane.listening(str(pipe)),
                    agent(pipe, name="web", environment=environment, network_namespace=namespace),
                ):
                    plane.send("1", table("reviews.default.svc.cluster.local", "*.example.com"))
                    await plane.request()
                    assert (await plane.request()).response_nonce == "1"
                    options = ["RES_OPTIONS=use-vc"] if transport == "tcp" else []
                    for name in ("reviews", "reviews.default.svc.cluster.local", "a.example.com"):
                        assert await resolve(namespace, name, *options) == ["192.0.2.1"], name
                    assert server.asked == []
                    # The agent's own question to the server must not come back to the agent.
                    assert await resolve(namespace, "www.example.org") == ["203.0.113.9"]
                    assert b"www.example.org" in server.asked
                    assert await resolve(namespace, "nobody.example.org") == []
