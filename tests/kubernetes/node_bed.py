"""A whole cluster in network namespaces: API server, controllers, a node, and our control plane.

Everything runs inside the node's namespace but the pods, which have their own. Must not know which
workloads there are. The rule that is easy to break: this process reaches the API server through a
forwarder of its own event loop, so whatever waits for kubectl waits in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.processes import Child, start_child
from controlplane.crds.definitions import definitions
from controlplane.crds.text import as_yaml
from controlplane.demo.forwarder import Forwarder
from controlplane.demo.layout import LOOPBACK
from controlplane.demo.namespaces import NODE_ADDRESS, Network, purge
from controlplane.demo.pods import ADMIN
from controlplane.demo.visitor import Visitor
from tests.envoy.harness import eventually
from tests.kubernetes.cluster import Cluster, running_cluster
from tests.kubernetes.installation import installation
from tests.kubernetes.kubelet import Kubelet, run_kubelet
from tests.kubernetes.pod_worker import PodWorker

XDS: Final = SocketAddress(host=NODE_ADDRESS, port=15010)
HTTP: Final = SocketAddress(host=LOOPBACK, port=8080)


class NodeBed:
    """The running cluster."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        kubelet: Kubelet,
        network: Network,
        node: Visitor,
        directory: Path,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.cluster = cluster
        self.kubelet = kubelet
        self.node = node
        self.directory = directory
        self._network = network
        self._stack = stack
        self._admins: dict[str, AdminClient] = {}
        self._http: SocketAddress | None = None
        self.control_plane: Child | None = None

    async def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl prints; raises AssertionError with its words when it fails."""
        try:
            done = await asyncio.to_thread(self.cluster.kubectl, *words, stdin=stdin)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self.kubelet.troubles()])) from None
        return done.stdout

    async def objects(self, *words: str) -> list[dict[str, Any]]:
        """The objects that `kubectl get` finds."""
        return list(json.loads(await self.kubectl("get", *words, "-o", "json"))["items"])

    async def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects as the administrator."""
        await self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    async def start_control_plane(self) -> None:
        """Start `pylot serve` in the node."""
        self.control_plane = child = await start_child(
            "controlplane",
            [
                *(sys.executable, "-m", "controlplane", "serve"),
                *("--kubernetes", "--kubeconfig", str(self.cluster.kubeconfig)),
                *("--grpc-addr", str(XDS), "--secure-grpc-addr", ""),
                *("--http-addr", str(HTTP), "--monitoring-addr", f"{LOOPBACK}:15014"),
                *("--https-addr", ":15017"),
            ],
            log=self.directory / "controlplane.log",
            network_namespace=self._network.node,
        )
        self._stack.push_async_callback(child.stop)

    async def control_plane_ready(self) -> None:
        """Wait until the control plane is ready."""
        await eventually(self.is_control_plane_ready, bool, what="a ready control plane")

    async def is_control_plane_ready(self) -> bool:
        """Whether the control plane says so; raises ClientError when it does not answer."""
        assert self.control_plane is not None
        assert self.control_plane.returncode is None, self.control_plane.tail(lines=20)
        if self._http is None:
            self._http = await self.forward(HTTP)
        url = f"http://{self._http}/ready"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status == 200

    async def webhooks_trusted(self) -> None:
        """Wait until the control plane has said by whom the API server trusts its webhooks."""

        async def look() -> list[str]:
            return [
                webhook["name"]
                for item in await self.objects(
                    "mutatingwebhookconfigurations,validatingwebhookconfigurations"
                )
                for webhook in item["webhooks"]
                if "caBundle" not in webhook["clientConfig"]
            ]

        await eventually(look, lambda names: not names, what="webhooks with an authority")

    async def forward(self, target: SocketAddress) -> SocketAddress:
        """A port of this machine that leads to an address which the node reaches."""
        return await self._forward(self.node, target)

    async def admin(self, worker: PodWorker) -> AdminClient:
        """The admin interface of a pod's Envoy."""
        if worker.uid not in self._admins:
            visitor = self._stack.enter_context(Visitor(worker.namespace))
            client = AdminClient(await self._forward(visitor, ADMIN))
            self._stack.push_async_callback(client.close)
            self._admins[worker.uid] = client
        return self._admins[worker.uid]

    async def _forward(self, visitor: Visitor, target: SocketAddress) -> SocketAddress:
        forwarder = Forwarder(visitor, address=SocketAddress(host=LOOPBACK, port=0), target=target)
        self._stack.push_async_callback(forwarder.close)
        await forwarder.start()
        return forwarder.address


@contextlib.asynccontextmanager
async def node_bed(*, control_plane: bool = True) -> AsyncIterator[NodeBed]:
    """Run a cluster; with a control plane also what its installation brings, and wait for it."""
    await purge()
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pylot-node-")))
        os.chmod(directory, 0o755)
        network = await stack.enter_async_context(Network())
        visitor = stack.enter_context(Visitor(network.node))
        cluster = stack.enter_context(running_cluster(network_namespace=network.node))
        cluster.start_controller_manager()
        place = SocketAddress(host=LOOPBACK, port=cluster.port)
        forwarder = Forwarder(visitor, address=place, target=place)
        stack.push_async_callback(forwarder.close)
        await forwarder.start()
        kubelet = await stack.enter_async_context(
            run_kubelet(cluster.kubeconfig, network, visitor, directory)
        )
        bed = NodeBed(
            cluster=cluster,
            kubelet=kubelet,
            network=network,
            node=visitor,
            directory=directory,
            stack=stack,
        )
        if control_plane:
            await bed.kubectl("apply", "--server-side", "-f", "-", stdin=as_yaml(definitions()))
            objects = installation(NODE_ADDRESS, XDS)
            pods = [one for one in objects if one["kind"] == "Deployment"]
            await bed.apply(*(one for one in objects if one not in pods))
            await bed.start_control_plane()
            await bed.control_plane_ready()
            await bed.webhooks_trusted()
            await bed.apply(*pods)  # before that their ReplicaSets would wait ever longer
        yield bed
