"""A mesh that is changed all the time, and callers that must not notice.

Four real Envoys (sidecar and router, delta and state of the world) serve one steady load: Envoys
share a port between processes, and the kernel spreads the connections over both of a kind. The
rule that is easy to break: an answer that is not a 200 of a backend is a failure, whatever the
reason, so every change here is one that a careful user may make.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from controlplane.ads.wire import DELTA_METHOD, SERVICE, SOTW_METHOD
from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.layout import gateway_bootstrap, sidecar_bootstrap
from controlplane.translate.resources import ResourceType
from tests.envoy.harness import BOOKINFO, Bed, bed, eventually, free_ports
from tests.envoy.traffic import Backend

SOAKING: Final = bool(os.environ.get("PYLOT_SOAK"))
SECONDS: Final = 60.0 if SOAKING else 6.0
RATE: Final = 200  # requests per second, of all connections together
CONNECTIONS: Final = 16
CALLS: Final = 20  # per connection, so that many are spread over the Envoys, and new ones come
FIRST_BACKEND: Final = 100
BACKENDS: Final = 10
DOMAIN: Final = "default.svc.cluster.local"
ENDPOINT_URL: Final = ResourceType.ENDPOINT.url.encode()
Document = dict[str, Any]

GATEWAY: Final[Document] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "door"},
    "spec": {
        "selector": {"istio": "ingressgateway"},
        "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
    },
}


def to_yaml(*documents: Document) -> str:
    """One file; JSON is YAML."""
    return "\n---\n".join(json.dumps(document) for document in documents)


def service(name: str, port: int, *, port_name: str = "http") -> Document:
    """A Service without a selector."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "clusterIP": f"10.96.{len(name)}.{sum(name.encode()) % 250 + 1}",
            "ports": [{"name": port_name, "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }


def endpoint_slice(
    name: str, addresses: Iterable[str], port: int, *, port_name: str = "http"
) -> Document:
    """The ready endpoints of a Service; each belongs to the pod that is named by its address."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod_name(address), "namespace": "default"},
            }
            for address in addresses
        ],
    }


def pod_name(address: str) -> str:
    """The name of the pod at an address."""
    return "pod-" + address.replace(".", "-")


def pod(address: str, **labels: str) -> Document:
    """A running Pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(address), "labels": labels},
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def virtual_service(
    name: str, host: str, destination: Mapping[str, Any], **fields: Any
) -> Document:
    """All calls of a host, inside and through the gateway, go to one destination."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {
            "hosts": [host, f"{name}.example.com"],
            "gateways": ["mesh", "door"],
            "http": [{"route": [{"destination": dict(destination)}], **fields}],
        },
    }


def destination_rule(name: str, host: str, *versions: str, **policy: Any) -> Document:
    """A subset for each version."""
    spec: Document = {
        "host": host,
        "subsets": [{"name": version, "labels": {"version": version}} for version in versions],
    }
    if policy:
        spec["trafficPolicy"] = policy
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name},
        "spec": spec,
    }


class SteadyLoad:
    """Kept-alive connections in threads of their own that together make a fixed rate of calls.

    Each is replaced by a new one after some calls, but never while a call is under way.
    """

    def __init__(self, port: int, host: str, *, rate: float = RATE) -> None:
        self.failures: list[str] = []
        self.seen: Counter[str] = Counter()
        self._port: Final = port
        self._host: Final = host
        self._pause: Final = CONNECTIONS / rate
        self._started: Final = time.monotonic()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(CONNECTIONS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def calls(self) -> int:
        """How many calls are done."""
        return self.seen.total() + len(self.failures)

    async def stop(self) -> None:
        """End the load; a call under way is finished first."""
        self._stopping.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 20)

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        due = time.monotonic() + number * self._pause / CONNECTIONS
        left = number % CALLS + 1  # not all are replaced at the same time
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            if not left:
                connection.close()
                left = CALLS
            left -= 1
            due = max(due + self._pause, time.monotonic() - 1.0)
            began = time.monotonic()
            outcome = ""
            try:
                connection.request("GET", "/", headers={"Host": self._host})
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
                if answer.status != 200:
                    outcome = f"{answer.status} {text}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                outcome = repr(error)
            with self._lock:
                if outcome:
                    at = began - self._started
                    took = time.monotonic() - began
                    self.failures.append(f"{self._host} at {at:.3f} s, {took:.3f} s: {outcome}")
                else:
                    self.seen[text] += 1
        connection.close()


class ChaosMesh:
    """A bed with four Envoys and backends that answer with their names."""

    def __init__(self, made: Bed, apps: dict[str, Backend], other_port: int) -> None:
        self.bed: Final = made
        self.apps: Final = apps
        self.port: Final = made.layout.service_port
        self.other_port: Final = other_port
        self.files: set[str] = set()
        self.interposer: Interposer | None = None

    @property
    def addresses(self) -> list[str]:
        """The addresses of the backends."""
        return [backend.host for backend in self.apps.values()]

    def write(self, name: str, *documents: Document) -> None:
        """Replace a file of the watched directory in one step."""
        self.files.add(name)
        self.bed.write(name, to_yaml(*documents))

    def route(self, destination: Mapping[str, Any], *beside: Document, **fields: Any) -> None:
        """Send the calls of `front` to a destination, in one step with objects beside."""
        made = virtual_service("front", "front", destination, **fields)
        self.bed.write("route.yaml", to_yaml(*beside, made))

    def clear(self) -> None:
        """Take away every file that was written."""
        for name in self.files:
            with contextlib.suppress(FileNotFoundError):
                self.bed.remove(name)
        self.files.clear()

    @contextlib.asynccontextmanager
    async def load(self, name: str = "front", *, port: int = 0) -> AsyncIterator[list[SteadyLoad]]:
        """Call a service through sidecars and routers; fails when a single call failed.

        A quarter of the calls comes from outside.
        """
        inside = SteadyLoad(port or self.port, f"{name}:{port or self.port}", rate=RATE * 0.75)
        outside = SteadyLoad(self.bed.layout.gateway_port, f"{name}.example.com", rate=RATE / 4)
        before = await self.served()
        started = time.monotonic()
        try:
            yield [inside, outside]
        finally:
            await asyncio.gather(inside.stop(), outside.stop())
        seconds = time.monotonic() - started
        failures = [*inside.failures, *outside.failures]
        calls = inside.calls + outside.calls
        assert not failures, (
            f"{len(failures)} of {calls} calls failed: {json.dumps(failures[:12], indent=1)}"
        )
        assert calls >= RATE * seconds * 0.5, f"only {calls} calls in {seconds:.1f} s"
        after = await self.served()
        idle = [name for name in after if port == 0 and after[name] - before[name] < calls // 50]
        assert not idle, f"these Envoys served hardly anybody: {idle}"

    async def served(self) -> dict[str, int]:
        """How many requests each Envoy has served."""
        found = {}
        for name, envoy in self.bed.envoys.items():
            stats = await envoy.admin.stats(r"^http\.(in|out)bound_.*\.downstream_rq_total$")
            found[name] = sum(stats.values())
        return found

    async def settled(self) -> None:
        """Wait until every Envoy runs all that it was sent."""
        await self.bed.settled()

    async def clusters(self, text: str) -> list[str]:
        """The clusters of all Envoys that have the text in their names, warming ones too."""
        return [
            f"{name} {entry['cluster']['name']}"
            for name, envoy in self.bed.envoys.items()
            for kind in ("dynamic_active_clusters", "dynamic_warming_clusters")
            for entry in await envoy.admin.config_dump(kind)
            if text in entry["cluster"]["name"]
        ]

    async def lacking(self, text: str) -> list[str]:
        """Return the Envoys that do not have the text anywhere in their routes."""
        return [
            name
            for name, envoy in self.bed.envoys.items()
            if text not in json.dumps(await envoy.admin.config_dump("dynamic_route_configs"))
        ]

    async def applied(self, text: str) -> None:
        """Wait until every Envoy has the text somewhere in its routes."""
        await eventually(
            partial(self.lacking, text), lambda names: not names, what=f"routes with {text}"
        )


class Interposer:
    """Stands between Envoys and the control plane, and keeps back what a test wants to be late."""

    def __init__(self, target: SocketAddress) -> None:
        self.kept: list[bytes] = []
        self._target: Final = target
        self._keep: bytes = b""
        self._server: Any = grpc.aio.server()

    async def start(self) -> SocketAddress:
        """Listen, and return where."""
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        method: grpc.stream_stream_rpc_method_handler(partial(self._pass, method))
                        for method in (SOTW_METHOD, DELTA_METHOD)
                    },
                ),
            )
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return SocketAddress(host="127.0.0.1", port=port)

    async def stop(self) -> None:
        """End every stream."""
        await self._server.stop(0)

    def keep_back_endpoints(self, text: str) -> None:
        """Swallow load assignments that hold the text, from now on; an empty text ends that."""
        self._keep = text.encode()

    async def _pass(self, method: str, _: Any, context: Any) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(str(self._target), options=options) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{method}")()

            async def ask() -> None:
                while (data := await context.read()) is not grpc.aio.EOF:
                    await call.write(data)
                await call.done_writing()

            asking = asyncio.ensure_future(ask())
            try:
                while (data := await call.read()) is not grpc.aio.EOF:
                    if self._keep and self._keep in data and ENDPOINT_URL in data:
                        self.kept.append(data)
                        continue
                    await context.write(data)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                call.cancel()


@contextlib.asynccontextmanager
async def chaos_mesh(*, interposed: bool = False) -> AsyncIterator[ChaosMesh]:
    """The mesh, with the service `front` on the first two backends, settled."""
    async with bed(files=False) as made, contextlib.AsyncExitStack() as stack:
        apps: dict[str, Backend] = {}
        for number in range(BACKENDS):
            backend = Backend(
                f"backend-{number}",
                f"{made.layout.prefix}{FIRST_BACKEND + number}",
                made.layout.service_port,
            )
            await backend.start()
            stack.push_async_callback(backend.stop)
            apps[backend.name] = backend
        (other_port,) = free_ports(1)
        mesh = ChaosMesh(made, apps, other_port)
        xds = made.layout.grpc
        if interposed:
            mesh.interposer = Interposer(xds)
            xds = await mesh.interposer.start()
            stack.push_async_callback(mesh.interposer.stop)
        door = (BOOKINFO / "mesh" / "ingressgateway.yaml").read_text()
        made.write("ingressgateway.yaml", door)
        made.write("door.yaml", to_yaml(GATEWAY))
        base(mesh)
        seen = msgspec.structs.replace(made.layout, grpc=xds)
        for protocol, delta in (("delta", True), ("sotw", False)):
            for kind, bootstrap in (("sidecar", sidecar_bootstrap), ("router", gateway_bootstrap)):
                name = f"{kind}-{protocol}"
                await made.launch(name, bootstrap(seen, delta=delta, admin=made.admin(name)))
        await mesh.settled()
        yield mesh


def base(mesh: ChaosMesh, *, endpoints: int = 2) -> None:
    """Write `front` as it is at the start: two endpoints and a plain route."""
    mesh.bed.write(
        "front.yaml",
        to_yaml(
            service("front", mesh.port),
            endpoint_slice("front", mesh.addresses[:endpoints], mesh.port),
            *(
                pod(address, version="v2" if number % 2 else "v1")
                for number, address in enumerate(mesh.addresses)
            ),
        ),
    )
    mesh.route({"host": "front"})
