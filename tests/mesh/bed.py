"""A mesh on one machine: a node with the control plane, pods as network namespaces, a world.

Everything is what a cluster would run: `pylot serve`, `pylot iptables`, `pylot proxy` with a real
Envoy, applications. Clients are sockets of a pod's namespace and of a user of one's choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.forwarder import Forwarder
from controlplane.demo.layout import LOOPBACK, Layout
from controlplane.demo.namespaces import (
    NODE_ADDRESS,
    POD_PREFIX,
    Network,
    ip_batch,
    purge,
)
from controlplane.demo.pods import CAPTURE, Pod, Pods, PodSpec, get
from controlplane.demo.visitor import Visitor
from controlplane.demo.warm import WarmInterpreter
from controlplane.model.base import FrozenDict
from tests.envoy.harness import Bed, empty_bed, eventually, free_ports, troubles_of

USER: Final = 1000
WORLD: Final = "203.0.113.9"
PRIVATE: Final = "198.51.100.7"
WORLD_POD: Final = f"{POD_PREFIX}200"
ECHO: Final = str(Path(__file__).with_name("echo.py"))
MESH_CONFIG: Final = "accessLogFile: /dev/stdout\n"
QUICK_LOG: Final = FrozenDict(
    {
        "PROXY_CONFIG": json.dumps(
            {
                "fileFlushInterval": "0.05s",
                "proxyStatsMatcher": {"inclusionSuffixes": ["downstream_rq_total"]},
            }
        )
    }
)


class MeshBed:
    """One running mesh."""

    def __init__(self, plane: Bed, network: Network, node: Visitor, pods: Pods) -> None:
        self.plane = plane
        self.network = network
        self.node = node
        self.pods = pods

    async def start_control_plane(self) -> None:
        """Start the control plane in the node, and wait until it is ready."""
        await self.plane.start_control_plane(network_namespace=self.network.node)
        await self.plane.wait_ready()

    async def add(
        self,
        name: str,
        number: int,
        *ports: int,
        capture: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Pod:
        """Start a pod whose application is an echo on some ports; it may not be ready yet.

        `capture` are words that are added to the usual ones, `fields` those of the PodSpec.
        """
        spec = PodSpec(
            name=name,
            address=f"{POD_PREFIX}{number}",
            labels=FrozenDict(labels or {"app": name}),
            capture=(*CAPTURE, *capture),
            **{"environment": QUICK_LOG, **fields},
        )
        return await self.pods.add(spec, echo(name, *ports) if ports else ())

    async def ready(self, *names: str, seconds: float = 60) -> None:
        """Wait until pods are ready; no names: all."""
        await self.pods.ready(self.node, seconds=seconds, names=names)

    async def settled(self) -> None:
        """Wait until every Envoy runs what it was sent, and rejected nothing."""

        async def troubles() -> list[str]:
            pods = self.pods.running.values()
            return [
                trouble
                for found in await asyncio.gather(*(troubles_of(pod) for pod in pods))
                for trouble in found
            ]

        await eventually(troubles, lambda found: not found, what="settled Envoys")

    async def ask(
        self, pod: Pod, host: str, port: int, path: str = "/", *, name: str = "", uid: int = USER
    ) -> tuple[int, dict[str, Any]]:
        """Ask over HTTP from inside a pod; return the status, and the JSON of the answer."""
        address = SocketAddress(host=host, port=port)
        headers = {"host": name} if name else {}
        async with asyncio.timeout(10):
            status, body = await get(pod.visitor, address, path, headers=headers, uid=uid)
        return status, json.loads(body) if body.startswith("{") else {"text": body}

    async def say(self, visitor: Visitor, host: str, port: int, *, uid: int = USER) -> str:
        """Send a line over TCP, and return the line that comes back; raises OSError."""
        async with asyncio.timeout(10):
            reader, writer = await visitor.connect(
                SocketAddress(host=host, port=port), uid=uid, gid=uid
            )
            try:
                writer.write(b"hello\n")
                answer = await reader.readline()
            finally:
                writer.close()
        if not answer:
            raise ConnectionResetError("the connection ended without an answer")
        return answer.decode().strip()

    def log(self, pod: Pod) -> list[str]:
        """What agent and Envoy of a pod have written."""
        return self.pods.log_file(f"{pod.name}-agent").read_text(errors="replace").splitlines()

    async def logged(self, pod: Pod, *parts: str) -> str:
        """Wait for a line of a pod's log with all of the parts, and return it."""

        async def look() -> list[str]:
            return [line for line in self.log(pod) if all(part in line for part in parts)]

        found = await eventually(look, bool, seconds=30, what=f"{parts} in the log of {pod.name}")
        return found[0]

    async def unlogged(self, pod: Pod, *parts: str, before: int = 0) -> None:
        """Fail when a line of a pod's log beyond `before` lines has all of the parts.

        What happened until now is in the log when this returns: the pod makes a call that is
        captured and waits for its line.
        """
        marker = f"/marker-{len(self.log(pod))}"
        await self.ask(pod, WORLD, 9080, marker, name="marker.example.com")
        await self.logged(pod, marker)
        found = [line for line in self.log(pod)[before:] if all(part in line for part in parts)]
        assert not found, found


def echo(name: str, *ports: int) -> list[str]:
    """The command line of the echo."""
    return [sys.executable, "-S", "-E", ECHO, name, *map(str, ports)]


def service(name: str, cluster_ip: str, *ports: str) -> str:
    """A Service that selects the pods of its name; a port is `NAME:PORT:TARGET`."""
    entries = [
        {"name": words[0], "port": int(words[1]), "targetPort": int(words[2])}
        for words in (port.split(":") for port in ports)
    ]
    return document(
        "Service",
        name,
        spec={"clusterIP": cluster_ip, "selector": {"app": name}, "ports": entries},
    )


def pod_object(name: str, number: int, *, app: str = "") -> str:
    """A running Pod at its address."""
    address = f"{POD_PREFIX}{number}"
    ready = [{"type": "Ready", "status": "True"}]
    return document(
        "Pod",
        name,
        labels={"app": app or name},
        spec={"containers": [{"name": "echo"}]},
        status={"phase": "Running", "podIP": address, "conditions": ready},
    )


def document(kind: str, name: str, *, labels: Mapping[str, str] | None = None, **rest: Any) -> str:
    """One object as a YAML document (JSON is YAML)."""
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    made = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **rest}
    return f"---\n{json.dumps(made)}\n"


async def add_world(network: Network) -> Visitor:
    """A machine outside the mesh, which has two addresses of the internet."""
    outside = await network.add("world", WORLD_POD)
    await ip_batch(outside, f"address add {WORLD}/32 dev lo", f"address add {PRIVATE}/32 dev lo")
    await ip_batch(
        network.node,
        f"route add {WORLD}/32 via {WORLD_POD}",
        f"route add {PRIVATE}/32 via {WORLD_POD}",
    )
    return Visitor(outside)


@contextlib.asynccontextmanager
async def mesh_bed(
    files: Mapping[str, str], *, mesh_config: str = MESH_CONFIG, control_plane: bool = True
) -> AsyncIterator[MeshBed]:
    """A node with a control plane on the files, without pods; everything is removed afterwards."""
    await purge()
    http, monitoring = (SocketAddress(host=LOOPBACK, port=port) for port in free_ports(2))
    layout = Layout(
        prefix=POD_PREFIX,
        grpc=SocketAddress(host=NODE_ADDRESS, port=15010),
        http=http,
        monitoring=monitoring,
    )
    async with contextlib.AsyncExitStack() as stack:
        plane = empty_bed(layout)
        stack.callback(plane.remove_directory)
        plane.mesh_config = mesh_config
        for name, text in files.items():
            plane.write(name, text)
        network = await stack.enter_async_context(Network())
        warm = await WarmInterpreter.launch(plane.directory / "logs" / "agents.log")
        stack.push_async_callback(warm.close)
        node = stack.enter_context(Visitor(network.node))
        pods = Pods(network, warm, directory=plane.directory, xds=layout.grpc)
        forwarder = Forwarder(node, address=http, target=http)
        stack.push_async_callback(forwarder.close)
        await forwarder.start()
        stack.push_async_callback(plane.close)
        made = MeshBed(plane, network, node, pods)
        if control_plane:
            await made.start_control_plane()
        try:
            yield made
        finally:
            await pods.remove(*pods.running)
