"""The example in network namespaces: one pod per application, with its own captured sidecar.

Owns: the node with the control plane, the pods, and the ports of this machine that lead to them.
Must not know how a pod is made.
Easy to break: the control plane runs inside the node, so that it and the pods need nothing of the
host; a debug page asked over a forwarder is asked from the node's loopback interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.processes import Child, start_child
from controlplane.demo.forwarder import Forwarder
from controlplane.demo.layout import APPLICATIONS, LOOPBACK, Application, Layout, serve_command
from controlplane.demo.mesh import (
    SECONDS_BETWEEN_LOOKS,
    SECONDS_TO_START,
    DemoMesh,
    Pod,
    Waitable,
    must_run,
)
from controlplane.demo.namespaces import Network, purge
from controlplane.demo.pods import CAPTURE, Pods, PodSpec
from controlplane.demo.pods import Pod as RunningPod
from controlplane.demo.visitor import Visitor
from controlplane.demo.warm import WarmInterpreter
from controlplane.errors import OutsideError
from controlplane.model.base import FrozenDict
from controlplane.model.proxy import ProxyType

GATEWAY: Final = "istio-ingressgateway"


class NamespaceMesh(DemoMesh):
    """Seven pods around a node.

    `transparent` captures with TPROXY in the place of REDIRECT, without `delta` the proxies speak
    state-of-the-world xDS.
    """

    def __init__(
        self, layout: Layout, directory: Path, *, transparent: bool = False, delta: bool = True
    ) -> None:
        super().__init__(layout, directory)
        self._capture = (*CAPTURE, "-m", "TPROXY") if transparent else CAPTURE
        self._agent = () if delta else ("--sotw",)
        self._stack = contextlib.AsyncExitStack()
        self._network = Network()
        self._pods: Pods | None = None
        self._node: Visitor | None = None
        self._counts: dict[str, tuple[float, int]] = {}

    @property
    def consists_of(self) -> str:
        """What is started, for a sentence."""
        return "the control plane and seven pods, each with an Envoy"

    def places(self) -> list[tuple[str, str]]:
        """Each pod's Envoy, and how to enter a pod."""
        pods = self._sorted()
        places = [(f"Envoy of {pod.spec.name}", f"http://{pod.admin.address}") for pod in pods]
        inside = self._made().running["productpage-v1"].namespace
        return [
            *places,
            ("in a pod", f"ip netns exec {inside} curl http://reviews:9080/reviews/0"),
        ]

    def looks_inside(self) -> list[str]:
        """The words of commands that show what the proxies run."""
        where = f"--control-plane http://{self.layout.http}"
        admin = self._made().running["productpage-v1"].admin.address
        return [
            f"proxy-config listener productpage-v1 {where}",
            f"proxy-config route --admin http://{admin}",
        ]

    def admins(self) -> Mapping[str, AdminClient]:
        """The admin interface of each pod's Envoy, by the pod's name."""
        return {name: pod.admin for name, pod in self._made().running.items()}

    def callers(self) -> Sequence[AdminClient]:
        """Every sidecar."""
        pods = self._made().running.values()
        return [pod.admin for pod in pods if pod.spec.role is ProxyType.SIDECAR]

    async def pods(self) -> Sequence[Pod]:
        """The pods; an Envoy that does not answer has no number of requests."""
        pods = self._sorted()
        totals = await asyncio.gather(*(arrived(pod.admin, pod.spec.role) for pod in pods))
        found = []
        for pod, total in zip(pods, totals, strict=True):
            rate = None if total is None else self._rate(pod.spec.name, total)
            found.append(Pod(pod.spec.proxy, pod.spec.address, rate))
        return found

    async def start_application(self, application: Application, *extra: str) -> None:
        """Start one application again with other flags, and wait until it answers.

        Raises OutsideError.
        """
        pods = self._made()
        pod = pods.running[application.name]
        child = await pods.start_application(pod, self._command(application, *extra))
        self._children[application.name] = child
        await self._listens(application, child)

    async def stop(self) -> None:
        """End everything: the pods first, then what they need."""
        await self.http.close()
        try:
            if self._pods is not None:
                await self._pods.remove(*self._pods.running)
        finally:
            await self._stack.aclose()

    async def _start_everything(self) -> None:
        await purge()
        await self._stack.enter_async_context(self._network)
        warm = await WarmInterpreter.launch(self.logs / "agents.log")
        self._stack.push_async_callback(warm.close)
        self._node = node = Visitor(self._network.node)
        self._stack.callback(node.close)
        await self._start_control_plane()
        for address, target in (
            (self.layout.http, self.layout.http),
            (self.layout.monitoring, self.layout.monitoring),
            (
                SocketAddress(host=LOOPBACK, port=self.layout.published),
                SocketAddress(host=f"{self.layout.prefix}10", port=self.layout.gateway_port),
            ),
        ):
            forwarder = Forwarder(node, address=address, target=target)
            self._stack.push_async_callback(forwarder.close)
            await forwarder.start()
        self._pods = pods = Pods(
            self._network, warm, directory=self.directory, xds=self.layout.grpc
        )
        await asyncio.gather(self._start_gateway(), *map(self._start_pod, APPLICATIONS))
        await self._control_plane_ready()
        await pods.ready(node, seconds=SECONDS_TO_START)

    async def _start_control_plane(self) -> None:
        child = await start_child(
            "controlplane",
            serve_command(self.layout, self.live),
            log=self.logs / "controlplane.log",
            network_namespace=self._network.node,
        )
        self._stack.push_async_callback(child.stop)
        self._children["controlplane"] = child

    async def _start_gateway(self) -> None:
        labels = FrozenDict({"app": GATEWAY, "istio": "ingressgateway"})
        spec = PodSpec(
            name=GATEWAY,
            address=f"{self.layout.prefix}10",
            namespace="istio-system",
            labels=labels,
            role=ProxyType.ROUTER,
            agent=self._agent,
            admin_port=self.layout.gateway_admin.port,
        )
        await self._made().add(spec)

    async def _start_pod(self, application: Application) -> None:
        name = application.name
        spec = PodSpec(
            name=name,
            address=self.layout.address(application).host,
            labels=FrozenDict({"app": application.app, "version": application.version}),
            capture=self._capture,
            agent=self._agent,
            admin_port=self.layout.sidecar_admin.port if name == "productpage-v1" else 0,
        )
        pod = await self._made().add(spec, self._command(application))
        assert pod.application is not None
        self._children[name] = pod.application
        await self._listens(application, pod.application)

    def _command(self, application: Application, *extra: str) -> list[str]:
        words = [sys.executable, str(self.bookinfo / "apps" / f"{application.app}.py")]
        words += ["--port", str(self.layout.service_port)]
        words += ["--instance", application.name, "--version", application.version]
        return [*words, *extra]

    async def _listens(self, application: Application, child: Child) -> None:
        visitor = self._made().running[application.name].visitor
        here = SocketAddress(host=LOOPBACK, port=self.layout.service_port)
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                _, writer = await visitor.connect(here)
            except OSError as error:
                must_run(child)
                if time.monotonic() > deadline:
                    raise OutsideError(f"{child.name} does not listen: {error}") from error
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                writer.close()
                return

    def _processes(self) -> Mapping[str, Waitable]:
        pods = self._made().running.values()
        return {**self._children, **{f"{pod.spec.name}-agent": pod.agent for pod in pods}}

    def _sorted(self) -> list[RunningPod]:
        # All addresses have as many digits.
        return sorted(self._made().running.values(), key=lambda pod: pod.spec.address)

    def _made(self) -> Pods:
        if self._pods is None:
            raise OutsideError("the pods are not there yet")
        return self._pods

    def _rate(self, name: str, total: int) -> float | None:
        now = time.monotonic()
        before = self._counts.get(name)
        self._counts[name] = (now, total)
        if before is None or now <= before[0]:
            return None
        # A new Envoy begins at 0 again.
        return max(0, total - before[1]) / (now - before[0])


async def arrived(admin: AdminClient, role: ProxyType) -> int | None:
    """How many requests have come to a pod; None when its Envoy does not answer.

    A sidecar counts them at its inbound listeners; a gateway has but the ones named outbound.
    """
    direction = "inbound" if role is ProxyType.SIDECAR else "outbound"
    try:
        stats = await admin.stats(rf"^http\.{direction}.*downstream_rq_total$")
    except OutsideError:
        return None
    return sum(stats.values())
