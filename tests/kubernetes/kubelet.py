"""A node of a test's cluster: plays scheduler and kubelet, with network namespaces as pods.

Registers the node, binds pods that have none to it, and runs what is bound to it. Everything that
runs is what the pod in the API server says, the injected containers included. Must not know which
pods there are. The rule that is easy to break: it learns of pods from the API server only, and
goes on when that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final

from controlplane.demo.namespaces import NODE_ADDRESS, POD_PREFIX, Network
from controlplane.demo.visitor import Visitor
from controlplane.kubernetes.access import find_access
from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import ConflictError, NotFoundError
from tests.kubernetes.api import Api, Object, insist
from tests.kubernetes.pod_worker import Node, PodWorker

NODE: Final = "node-a"
_LABELS: Final = {
    "kubernetes.io/hostname": NODE,
    "kubernetes.io/os": "linux",
    "topology.kubernetes.io/region": "region-a",
    "topology.kubernetes.io/zone": "zone-a",
}
_CAPACITY: Final = {"cpu": str(os.cpu_count() or 1), "memory": "8Gi", "pods": "110"}
_FIRST, _LAST = 10, 250


class Kubelet:
    """The node and its pods; `run_kubelet` makes one."""

    def __init__(self, node: Node) -> None:
        self.workers: dict[str, PodWorker] = {}
        self._node = node
        self.problems: list[BaseException | None] = []
        self._free = [f"{POD_PREFIX}{number}" for number in range(_FIRST, _LAST)]
        self._binding: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def worker(self, name: str) -> PodWorker:
        """The worker of a running pod; raises KeyError."""
        return next(one for one in self.workers.values() if one.pod["metadata"]["name"] == name)

    def logs(self, prefix: str, container: str) -> str:
        """What a container wrote in every pod whose `NAMESPACE.NAME` begins like that."""
        found = sorted((self._node.directory / "logs").glob(f"{prefix}*.{container}.log"))
        return "".join(path.read_text(errors="replace") for path in found)

    def troubles(self) -> list[str]:
        """What is wrong with pods that are not ready, with the last words of their containers."""
        return [f"problem: {problem!r}" for problem in self.problems] + [
            line for worker in self.workers.values() for line in worker.troubles()
        ]

    async def run(self) -> None:
        """Register the node and follow pods, until it is cancelled."""
        await self._register()
        async for pods in self._node.api.follow("/api/v1/pods"):
            self._sort(pods)

    async def close(self) -> None:
        """End every pod at once; their objects stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in self.workers.values()))

    async def _register(self) -> None:
        api = self._node.api
        metadata = {"name": NODE, "labels": _LABELS}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        with contextlib.suppress(ConflictError):
            await insist(lambda: api.create("/api/v1/nodes", node))
        status = {
            "addresses": [
                {"type": "InternalIP", "address": NODE_ADDRESS},
                {"type": "Hostname", "address": NODE},
            ],
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        await insist(lambda: api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status}))
        # Admission marks a new node as not ready.
        await insist(lambda: api.patch(f"/api/v1/nodes/{NODE}", {"spec": {"taints": None}}))

    def _sort(self, pods: list[Object]) -> None:
        seen = set()
        for pod in pods:
            uid = pod["metadata"]["uid"]
            seen.add(uid)
            bound = pod["spec"].get("nodeName")
            if uid in self.workers:
                self.workers[uid].take(pod)
            elif bound == NODE:
                self._admit(uid, pod)
            elif not bound and uid not in self._binding:
                self._binding.add(uid)
                self._spawn(self._bind(pod))
        for uid in self.workers.keys() - seen:  # deleted by force
            self._spawn(self._drop(uid))

    def _admit(self, uid: str, pod: Object) -> None:
        # The address that was free for the longest time comes first.
        worker = PodWorker(self._node, pod, self._free.pop(0))
        self.workers[uid] = worker
        worker.take(pod)
        worker.begin()
        self._spawn(self._release(uid, worker))

    async def _release(self, uid: str, worker: PodWorker) -> None:
        await worker.done.wait()
        self.problems += worker.problems
        self.workers.pop(uid, None)
        self._free.append(worker.address)

    async def _drop(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            await worker.kill()

    async def _bind(self, pod: Object) -> None:
        metadata = pod["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": target,
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
        with contextlib.suppress(NotFoundError, ConflictError):
            await insist(lambda: self._node.api.create(path, body))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextlib.asynccontextmanager
async def run_kubelet(
    kubeconfig: Path, network: Network, visitor: Visitor, directory: Path
) -> AsyncIterator[Kubelet]:
    """Run a node in a network; `visitor` is inside its node, `directory` gets logs and volumes."""
    access = await find_access(kubeconfig)
    async with Client(access) as client:
        kubelet = Kubelet(
            Node(
                api=Api(client),
                network=network,
                visitor=visitor,
                directory=directory,
                address=NODE_ADDRESS,
                capacity=_CAPACITY,
            )
        )
        running = asyncio.create_task(kubelet.run())
        try:
            yield kubelet
        finally:
            running.cancel()
            ended = await asyncio.gather(running, return_exceptions=True)
            await kubelet.close()
        problems = [one for one in ended if not isinstance(one, asyncio.CancelledError)]
        assert not problems + kubelet.problems, problems + kubelet.problems
