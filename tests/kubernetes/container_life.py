"""The life of one container: started, probed, started again, ended.

Owns what is said of it in the pod's status. Must not know the other containers. The rule that is
easy to break: readiness begins when the startup probe has succeeded, and at once then, as a
kubelet asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from controlplane.agent.processes import Child
from tests.kubernetes.api import Object
from tests.kubernetes.pod_runtime import PodRuntime

_MOST_BACKOFF: Final = 5.0  # seconds; a kubelet waits up to five minutes
_SECONDS_TO_DIE: Final = 2.0  # what a sidecar is given when the time is over


def timestamp() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ContainerLife:
    """One container; `changed` is called whenever its status is another one."""

    def __init__(self, runtime: PodRuntime, spec: Object, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.started = asyncio.Event()
        self.ready = False
        self.restarts = -1
        self.child: Child | None = None
        self._runtime = runtime
        self._changed = changed
        self._state: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
        self._last: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def status(self) -> Object:
        """The container's part of the pod's status."""
        return {
            "name": self.spec["name"],
            "image": self.spec["image"],
            "imageID": self.spec["image"],
            "containerID": f"process://{self.child.pid}" if self.child else "",
            "ready": self.ready,
            "started": self.started.is_set(),
            "restartCount": max(0, self.restarts),
            "state": self._state,
            "lastState": self._last,
        }

    def begin(self) -> asyncio.Task[None]:
        """Start it, and start it again whenever it ends; the task fails with what cannot be."""
        self._task = asyncio.create_task(self._keep())
        return self._task

    async def succeed(self) -> None:
        """Run it to its end, again and again until it ends well."""
        while True:
            await self._launch()
            assert self.child is not None
            code = await self.child.wait()
            self._ended(code)
            if code == 0:
                self.ready = True
                return
            await asyncio.sleep(1)

    async def end(self, seconds: float) -> None:
        """End it: its hook, SIGTERM, and SIGKILL when `seconds` are over."""
        self._ending = True
        child = self.child
        if child is None or child.returncode is not None:
            await self._forget()
            return
        deadline = time.monotonic() + seconds
        handler = (self.spec.get("lifecycle") or {}).get("preStop")
        if handler:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(seconds):
                    await self._runtime.hook(self.spec, handler)
        left = max(_SECONDS_TO_DIE, deadline - time.monotonic())
        code = await child.stop(seconds=left)
        await self._forget()
        self._ended(code)

    async def kill(self) -> None:
        """End it at once."""
        self._ending = True
        await self._forget()
        if self.child is not None and self.child.returncode is None:
            await self.child.kill()

    async def _forget(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        backoff = 0.0
        while True:
            await self._launch()
            assert self.child is not None
            async with self._probing():
                code = await self.child.wait()
            self._ended(code)
            if self._ending:
                return
            await asyncio.sleep(backoff)
            backoff = min(_MOST_BACKOFF, 2 * backoff + 0.5)

    async def _launch(self) -> None:
        self.child = await self._runtime.start(self.spec)
        self.restarts += 1
        self._state = {"running": {"startedAt": timestamp()}}
        if not self.spec.get("startupProbe"):
            self._now_started()
        handler = (self.spec.get("lifecycle") or {}).get("postStart")
        if handler:
            await self._runtime.hook(self.spec, handler)
        self._changed()

    def _ended(self, code: int) -> None:
        ended = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "finishedAt": timestamp(),
        }
        self.ready = False
        self.started.clear()
        self._state = {"terminated": ended}
        self._last = {"terminated": ended}
        self._changed()

    def _now_started(self) -> None:
        self.started.set()
        self.ready = not self.spec.get("readinessProbe")
        self._changed()

    @contextlib.asynccontextmanager
    async def _probing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._probe_all())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _probe_all(self) -> None:
        startup = self.spec.get("startupProbe")
        if startup:
            async for good in self._results(startup):
                if good:
                    break
                await self._unhealthy()
            self._now_started()
        async with asyncio.TaskGroup() as group:
            if self.spec.get("readinessProbe"):
                group.create_task(self._follow_readiness(self.spec["readinessProbe"]))
            if self.spec.get("livenessProbe"):
                group.create_task(self._follow_liveness(self.spec["livenessProbe"]))

    async def _follow_readiness(self, probe: Object) -> None:
        async for good in self._results(probe):
            if good != self.ready:
                self.ready = good
                self._changed()

    async def _follow_liveness(self, probe: Object) -> None:
        async for good in self._results(probe):
            if not good:
                await self._unhealthy()

    async def _unhealthy(self) -> None:
        assert self.child is not None
        await self.child.stop(seconds=_SECONDS_TO_DIE)

    async def _results(self, probe: Object) -> AsyncIterator[bool]:
        """Probe for ever; yield what holds when as many probes in a row as wanted say so."""
        await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
        needed = {
            True: probe.get("successThreshold") or 1,
            False: probe.get("failureThreshold") or 3,
        }
        last, times = False, 0
        while True:
            good = await self._runtime.probe(self.spec, probe)
            times = times + 1 if good == last else 1
            last = good
            if times >= needed[good]:
                yield good
            await asyncio.sleep(probe.get("periodSeconds") or 10)
