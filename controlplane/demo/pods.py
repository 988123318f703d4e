"""Pods on one machine: a network namespace, capture rules, an application and its agent.

Owns the order in which a pod comes up and goes, and what its agent is told. Must not know which
applications there are, nor who looks at them.
Easy to break: rules come before the agent and the application before readiness, as in a cluster;
and an agent's Envoy is another user, who must be able to search the directory of the bootstrap.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.processes import Child, start_child
from controlplane.demo.forwarder import Forwarder
from controlplane.demo.layout import LOOPBACK
from controlplane.demo.namespaces import Network
from controlplane.demo.visitor import Visitor
from controlplane.demo.warm import WarmInterpreter
from controlplane.errors import OutsideError
from controlplane.model.base import FrozenDict, Labels, Model
from controlplane.model.proxy import ProxyType

ADMIN: Final = SocketAddress(host=LOOPBACK, port=15000)
HEALTH_PORT: Final = 15021
# As the injector writes them for istio-init.
CAPTURE: Final = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", ""),
    *("-b", "*", "-d", "15090,15021,15020", "--redirect-dns"),
)
# Requests are counted at the listeners; Istio's agent leaves these counters out.
COUNTED: Final = {"proxyStatsMatcher": {"inclusionSuffixes": ["downstream_rq_total"]}}
ENVIRONMENT: Final = {
    "ISTIO_META_UNPRIVILEGED_POD": "true",
    "MINIMUM_DRAIN_DURATION": "0s",
    "TERMINATION_DRAIN_DURATION_SECONDS": "0",
    "NO_COLOR": "1",
}
SECONDS_BETWEEN_LOOKS: Final = 0.03


class PodSpec(Model):
    """What one pod is. A gateway (role ROUTER) has no application, and its traffic no capture.

    `capture` are the words of `pylot iptables`, the last of a flag that comes twice wins;
    `agent` are further words of `pylot proxy`, `environment` what its agent finds beside
    ENVIRONMENT. `admin_port` is the port of this machine that leads to Envoy's admin interface, 0
    for any.
    """

    name: str
    address: str
    namespace: str = "default"
    labels: Labels = FrozenDict()
    role: ProxyType = ProxyType.SIDECAR
    capture: tuple[str, ...] = CAPTURE
    agent: tuple[str, ...] = ()
    environment: FrozenDict[str, str] = FrozenDict()
    admin_port: int = 0

    @property
    def proxy(self) -> str:
        """The name of the proxy, as the control plane shows it."""
        return f"{self.name}.{self.namespace}"


class Pod:
    """One pod that was started."""

    def __init__(
        self, spec: PodSpec, *, namespace: str, agent: Child, visitor: Visitor, forwarder: Forwarder
    ) -> None:
        self.spec = spec
        self.namespace = namespace
        self.agent = agent
        self.visitor = visitor
        self.application: Child | None = None
        self.admin = AdminClient(forwarder.address)
        self._forwarder = forwarder

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.spec.name

    async def close(self) -> None:
        """End what runs in the pod, the agent first; the namespace stays."""
        await self.admin.close()
        await self._forwarder.close()
        await self.agent.stop()
        if self.application is not None:
            await self.application.stop()
        self.visitor.close()


class Pods:
    """The pods of one network. `directory` gets logs and what agents write."""

    def __init__(
        self, network: Network, warm: WarmInterpreter, *, directory: Path, xds: SocketAddress
    ) -> None:
        self.network = network
        self.running: dict[str, Pod] = {}
        self._warm = warm
        self._xds = xds
        self._logs = directory / "logs"
        self._scratch = directory / "agents"
        self._scratch.mkdir(parents=True, exist_ok=True)
        for path in (directory, self._scratch):
            path.chmod(path.stat().st_mode | 0o011)

    def log_file(self, name: str) -> Path:
        """Where something of that name writes."""
        return self._logs / f"{name}.log"

    async def prepared(self) -> None:
        """Wait until the next pod starts without delay; raises OutsideError."""
        await self._warm.ready()

    async def add(self, spec: PodSpec, application: Sequence[str] = ()) -> Pod:
        """Start a pod, with the command line of its application when it has one.

        Its agent may not be ready yet. Raises OutsideError.
        """
        namespace = await self.network.add(spec.name, spec.address, namespace=spec.namespace)
        async with contextlib.AsyncExitStack() as undo:
            visitor = undo.enter_context(Visitor(namespace))
            address = SocketAddress(host=LOOPBACK, port=spec.admin_port)
            forwarder = Forwarder(visitor, address=address, target=ADMIN)
            undo.push_async_callback(forwarder.close)
            await forwarder.start()
            if spec.role is ProxyType.SIDECAR and spec.capture:
                await self._warm.run(
                    spec.name,
                    *("iptables", *spec.capture),
                    log=self.log_file(f"{spec.name}-capture"),
                    network_namespace=namespace,
                )
            agent = await self.start_agent(spec, namespace)
            undo.pop_all()
        pod = Pod(spec, namespace=namespace, agent=agent, visitor=visitor, forwarder=forwarder)
        self.running[spec.name] = pod
        if application:
            await self.start_application(pod, application)
        return pod

    async def start_agent(self, spec: PodSpec, namespace: str) -> Child:
        """Start the agent of a pod; raises OutsideError."""
        return await self._warm.start(
            spec.name,
            *("proxy", str(spec.role), "--discoveryAddress", str(self._xds)),
            *("--concurrency", "1", *spec.agent),
            log=self.log_file(f"{spec.name}-agent"),
            environment=self._environment(spec),
            network_namespace=namespace,
        )

    async def start_application(self, pod: Pod, command: Sequence[str]) -> Child:
        """Start the application of a pod, or another one in its place; raises OutsideError."""
        if pod.application is not None:
            await pod.application.stop()
        name = pod.spec.name
        pod.application = await start_child(
            name, command, log=self.log_file(name), network_namespace=pod.namespace
        )
        return pod.application

    async def remove(self, *names: str) -> None:
        """End pods and remove their namespaces."""
        found = [self.running.pop(name) for name in names]
        await asyncio.gather(*(pod.close() for pod in found))
        await self.network.remove(*names)

    async def ready(self, node: Visitor, *, seconds: float, names: Sequence[str] = ()) -> None:
        """Wait until pods are ready, as a kubelet asks; raises OutsideError. No names: all."""
        wanted = names or tuple(self.running)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(
                    *(self._pod_ready(node, self.running[name]) for name in wanted)
                )
        except TimeoutError as error:
            late = [
                f"{name}: {self.running[name].agent.tail()}"
                for name in wanted
                if await health(node, self.running[name]) != 200
            ]
            raise OutsideError(f"not ready after {seconds:g} s: {'; '.join(late)}") from error

    async def _pod_ready(self, node: Visitor, pod: Pod) -> None:
        while await health(node, pod) != 200:
            for child in (pod.agent, pod.application):
                if child is not None and child.returncode is not None:
                    raise OutsideError(
                        f"{child.name} ended with code {child.returncode}: {child.tail()}"
                    )
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def _environment(self, spec: PodSpec) -> dict[str, str]:
        made: dict[str, Any] = {
            "POD_NAME": spec.name,
            "POD_NAMESPACE": spec.namespace,
            "INSTANCE_IP": spec.address,
            "ISTIO_METAJSON_LABELS": json.dumps(dict(spec.labels)),
            "PROXY_CONFIG": json.dumps(COUNTED),
            # A killed agent leaves its bootstrap there.
            "TMPDIR": str(self._scratch),
            **ENVIRONMENT,
        }
        if spec.role is ProxyType.SIDECAR:
            transparent = "TPROXY" in spec.capture
            made["ISTIO_META_INTERCEPTION_MODE"] = "TPROXY" if transparent else "REDIRECT"
            made["ISTIO_META_DNS_CAPTURE"] = str("--redirect-dns" in spec.capture).lower()
        return {**made, **spec.environment}


async def health(node: Visitor, pod: Pod) -> int:
    """The status that a pod's health port answers to its node, 0 when there is no answer."""
    try:
        async with asyncio.timeout(2):
            status, _ = await get(
                node, SocketAddress(host=pod.spec.address, port=HEALTH_PORT), "/healthz/ready"
            )
    except (OSError, TimeoutError):
        return 0
    return status


async def get(
    visitor: Visitor,
    address: SocketAddress,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    uid: int = 0,
) -> tuple[int, str]:
    """Ask once over HTTP/1.1 from inside a namespace, as a user; return status and body.

    Raises OSError when the connection fails or ends early.
    """
    reader, writer = await visitor.connect(address, uid=uid, gid=uid)
    try:
        lines = {"host": str(address), "connection": "close", **(headers or {})}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionResetError("the connection ended without an answer")
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunked(body)
    return int(words[1]), body.decode("utf-8", "replace")


def unchunked(body: bytes) -> bytes:
    """The content of a body that came in chunks; raises ConnectionResetError when some miss."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        if length == 0:
            return found
        found += rest[:length]
        body = rest[length + 2 :]
    raise ConnectionResetError("the answer is not complete")
