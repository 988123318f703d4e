"""The life of one pod on the node: its network, its volumes, its containers, its status, its end.

Owns the order: init containers one after the other, sidecars among them stay, then the others;
at the end the others first and sidecars last. Must not know other pods. The rule that is easy to
break: the object goes when everything that ran has ended, because its name and address are free
from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from controlplane.demo.namespaces import Network, run_program
from controlplane.demo.visitor import Visitor
from controlplane.errors import OutsideError
from controlplane.kubernetes.errors import ConflictError, NotFoundError
from tests.kubernetes.api import Api, Object, insist
from tests.kubernetes.container_life import ContainerLife, timestamp
from tests.kubernetes.images import UnknownImageError
from tests.kubernetes.pod_fields import UnsupportedError
from tests.kubernetes.pod_runtime import PodRuntime
from tests.kubernetes.volumes import write_volumes

_GRACE: Final = 30


class Node(NamedTuple):
    """What the pods of a node share. `address` is the node's, `capacity` what it has."""

    api: Api
    network: Network
    visitor: Visitor
    directory: Path
    address: str
    capacity: Mapping[str, str]


class PodWorker:
    """Runs one pod from `begin` until it is deleted; `done` is set when nothing of it is left."""

    def __init__(self, node: Node, pod: Object, address: str) -> None:
        self.pod = pod
        self.address = address
        self.namespace = ""
        self.done = asyncio.Event()
        self.problems: list[BaseException | None] = []
        self._node = node
        self._sidecars: list[ContainerLife] = []
        self._init: list[ContainerLife] = []
        self._containers: list[ContainerLife] = []
        self._problem = ""
        self._begun = timestamp()
        self._deleting = asyncio.Event()
        self._changed = asyncio.Event()
        self._conditions: dict[str, Object] = {}
        self._initialized = False
        metadata = pod["metadata"]
        self.uid = str(metadata["uid"])
        self._name = f"{metadata['name']}-{self.uid[:8]}"
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self._task: asyncio.Task[None] | None = None

    @property
    def lives(self) -> list[ContainerLife]:
        """Every container that there is by now."""
        return [*self._init, *self._containers]

    def troubles(self) -> list[str]:
        """What is wrong with the pod, nothing when all of its containers are ready."""
        name = self.pod["metadata"]["name"]
        lines = [f"{name}: {one}" for one in (self._problem, *map(repr, self.problems)) if one]
        for life in self.lives:
            if not life.ready:
                words = life.child.tail() if life.child else "not started"
                lines.append(f"{name} {life.spec['name']}: {life.status()['state']}: {words}")
        return lines

    def begin(self) -> None:
        """Start the pod."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._note)

    def take(self, pod: Object) -> None:
        """Learn what the API server says of the pod now."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting.set()

    async def kill(self) -> None:
        """End everything at once; the object stays as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._clear()

    def _note(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.problems.append(task.exception())

    async def _run(self) -> None:
        reporting = asyncio.create_task(self._report())
        living = asyncio.create_task(self._live())
        for task in (reporting, living):
            task.add_done_callback(self._note)
        try:
            await self._deleting.wait()
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await self._end()
        finally:
            for task in (living, reporting):
                task.cancel()
            await asyncio.gather(living, reporting, return_exceptions=True)
        await self._clear()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        with contextlib.suppress(NotFoundError, ConflictError):
            await insist(lambda: self._node.api.delete(self._path, options))

    async def _live(self) -> None:
        try:
            runtime = await self._prepare()
            for spec in self.pod["spec"].get("initContainers") or ():
                life = ContainerLife(runtime, spec, self._changed.set)
                self._init.append(life)
                if spec.get("restartPolicy") == "Always":
                    await self._sidecar(life)
                else:
                    await life.succeed()
            self._initialized = True
            self._containers = [
                ContainerLife(runtime, spec, self._changed.set)
                for spec in self.pod["spec"]["containers"]
            ]
            # Not `gather`: they outlive this task, which ends when the pod is to end.
            tasks = [life.begin() for life in self._containers]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except (UnsupportedError, UnknownImageError, OutsideError) as error:
            self._problem = f"{type(error).__name__}: {error}"
            self._changed.set()

    async def _prepare(self) -> PodRuntime:
        node, metadata = self._node, self.pod["metadata"]
        self.namespace = await node.network.add(
            self._name, self.address, namespace=metadata["namespace"]
        )
        await self._set_sysctls()
        self._changed.set()
        addresses = {
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": node.address,
            "hostIPs": [{"ip": node.address}],
        }
        pod = {**self.pod, "status": {**self.pod.get("status", {}), **addresses}}
        directory = node.directory / "pods" / self.uid
        volumes = await write_volumes(node.api, pod, directory / "volumes")
        return PodRuntime(
            pod,
            node=node.visitor,
            network=self.namespace,
            volumes=volumes,
            directory=directory,
            logs=node.directory / "logs",
            capacity=node.capacity,
        )

    async def _set_sysctls(self) -> None:
        """Set what the pod wants of its network's kernel."""
        said = self.pod["spec"].get("securityContext") or {}
        for entry in said.get("sysctls") or ():
            file = f"/proc/sys/{entry['name'].replace('.', '/')}"
            script = ("sh", "-c", 'printf %s "$1" > "$2"', "sysctl", entry["value"], file)
            await run_program("ip", "netns", "exec", self.namespace, *script)

    async def _sidecar(self, life: ContainerLife) -> None:
        self._sidecars.append(life)
        keeping = life.begin()
        started = asyncio.create_task(life.started.wait())
        try:
            await asyncio.wait({keeping, started}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if keeping.done():
            keeping.result()  # what cannot be started is raised here

    async def _end(self) -> None:
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds", _GRACE)
        deadline = asyncio.get_running_loop().time() + grace
        await asyncio.gather(*(life.end(grace) for life in self._containers))
        for life in reversed(self._sidecars):
            await life.end(deadline - asyncio.get_running_loop().time())

    async def _clear(self) -> None:
        await asyncio.gather(*(life.kill() for life in self.lives))
        await self._node.network.remove(self._name)
        shutil.rmtree(self._node.directory / "pods" / self.uid, ignore_errors=True)
        self.done.set()

    async def _report(self) -> None:
        """Write the status whenever it is another one, as soon as there is an API server."""
        sent: Object = {}
        while True:
            self._changed.clear()
            status = self.status()
            if status != sent:
                try:
                    await insist(functools.partial(self._write, status))
                except NotFoundError:
                    return
                sent = status
            await self._changed.wait()

    async def _write(self, status: Object) -> None:
        await self._node.api.patch(f"{self._path}/status", {"status": status})

    def status(self) -> Object:
        """The pod's status, without what belongs to others."""
        running = self._initialized and all(life.restarts >= 0 for life in self._containers)
        every = [*self._sidecars, *self._containers]
        ready = running and bool(self._containers) and all(life.ready for life in every)
        conditions = {
            "PodScheduled": True,
            "PodReadyToStartContainers": bool(self.namespace),
            "Initialized": self._initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        made: dict[str, Any] = {
            "phase": "Running" if running else "Pending",
            "startTime": self._begun,
            "hostIP": self._node.address,
            "hostIPs": [{"ip": self._node.address}],
            "conditions": [self._condition(name, true) for name, true in conditions.items()],
            "initContainerStatuses": [life.status() for life in self._init],
            "containerStatuses": [life.status() for life in self._containers],
        }
        if self._problem:
            made |= {"phase": "Failed", "message": self._problem}
        if self.namespace:
            made |= {"podIP": self.address, "podIPs": [{"ip": self.address}]}
        return made

    def _condition(self, name: str, true: bool) -> Object:
        status = "True" if true else "False"
        known = self._conditions.get(name)
        if known is None or known["status"] != status:
            known = {"type": name, "status": status, "lastTransitionTime": timestamp()}
            self._conditions[name] = known
        return known
