"""The Lease in the API server, and the work that is done while it is held.

Owns the requests for one Lease and the life of the leader's task. Must not know what the task
does. The rule that is easy to break: the task is stopped, and has ended, before the Lease is
given away, and it is cut off at the moment when the belief to lead ends, whatever the network does.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec
import structlog

from controlplane.kubernetes.client import JSON, MERGE_PATCH, Client
from controlplane.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    KubernetesError,
    NotFoundError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.leader.answers import read_answer
from controlplane.leader.election import Election, Get, Held, Pause, Put, Timing
from controlplane.leader.metrics import LeaderMetrics

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
RELEASE_LIMIT: Final = 2.0
"""Seconds that giving a Lease away may take; then its time has to run out instead."""

_log: Final = structlog.get_logger("controlplane.leader")


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


def make_identity(environ: Mapping[str, str] = os.environ) -> str:
    """Return a name that no other running replica has: the pod's, else host and a random word."""
    return environ.get("POD_NAME") or f"{socket.gethostname()}_{secrets.token_hex(4)}"


class LeaseStore:
    """One Lease, read and written with optimistic concurrency."""

    def __init__(self, client: Client, *, namespace: str, name: str) -> None:
        self._client: Final = client
        self._namespace: Final = namespace
        self.name: Final = name
        self._transitions = 0

    async def get(self) -> Held | None:
        """Return the Lease, None when there is none. Raises KubernetesError."""
        path = LEASES.path(namespace=self._namespace, name=self.name)
        try:
            return self._read(await self._client.request("GET", path))
        except NotFoundError:
            return None

    async def put(self, put: Put) -> Held:
        """Write the Lease; raises KubernetesError, ConflictError when it is not as expected."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {
            "holderIdentity": put.holder,
            # Whole seconds, upwards: others may wait longer than needed, never shorter.
            "leaseDurationSeconds": int(-(-put.duration // 1)),
            "renewTime": now,
        }
        if put.acquired:
            spec |= {"acquireTime": now, "leaseTransitions": self._transitions + 1}
        if put.version:
            # A patch leaves labels and annotations of others alone.
            method, name, content_type = "PATCH", self.name, MERGE_PATCH
            body: dict[str, Any] = {"metadata": {"resourceVersion": put.version}, "spec": spec}
        else:
            method, name, content_type = "POST", "", JSON
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"namespace": self._namespace, "name": self.name},
                "spec": spec,
            }
        try:
            return self._read(
                await self._client.request(
                    method,
                    LEASES.path(namespace=self._namespace, name=name),
                    body=msgspec.json.encode(body),
                    content_type=content_type,
                )
            )
        except NotFoundError as error:
            if not put.version:
                raise  # the namespace is missing
            raise ConflictError(str(error), status=error.status, reason=error.reason) from None

    def _read(self, data: bytes) -> Held:
        lease = read_answer(data, _Lease)
        self._transitions = lease.spec.lease_transitions or 0
        return Held(
            holder=lease.spec.holder_identity or "",
            duration=float(lease.spec.lease_duration_seconds or 0),
            version=lease.metadata.resource_version,
        )


Work = Callable[[], Coroutine[Any, Any, None]]
"""What a leader does until it is cancelled."""


class Leadership:
    """Takes part in the election for one Lease, and does the leader's work while it leads."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        identity: str,
        timing: Timing,
        metrics: LeaderMetrics,
    ) -> None:
        self._store: Final = store
        self._identity: Final = identity
        self._timing: Final = timing
        self._metrics: Final = metrics
        self._election: Final = Election(identity, timing, jitter=random.random)
        self._task: asyncio.Future[None] | None = None
        self._reported = ""

    @property
    def name(self) -> str:
        """The name of the Lease."""
        return self._store.name

    @property
    def identity(self) -> str:
        """The name of this candidate."""
        return self._identity

    @property
    def holder(self) -> str:
        """Who holds the Lease as far as is known, empty for nobody."""
        return self._election.holder

    def leads(self) -> bool:
        """Whether this replica is the leader at this moment: asked before every write."""
        return self._election.leads(asyncio.get_running_loop().time())

    async def run(self, work: Work) -> None:
        """Take part until cancelled; then stop the work and give the Lease away.

        What `work` raises ends this.
        """
        clock = asyncio.get_running_loop().time
        self._metrics.leads(self.name, leads=False)
        try:
            while True:
                match self._election.next(clock()):
                    case Pause(until):
                        await self._pause(until - clock())
                    case step:
                        await self._ask(step)
                await self._follow(work)
        finally:
            await self._stop()
            await self._release()

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than the work runs or may run."""
        if self._task is None:
            await asyncio.sleep(seconds)
            return
        left = self._election.until - asyncio.get_running_loop().time()
        await asyncio.wait([self._task], timeout=max(0.0, min(seconds, left)))

    async def _ask(self, step: Get | Put) -> None:
        clock = asyncio.get_running_loop().time
        asked = clock()
        limit = self._timing.renew_deadline / 2
        if self.leads():
            limit = min(limit, self._election.until - asked)
        try:
            async with asyncio.timeout(limit):
                if isinstance(step, Get):
                    self._election.on_read(await self._store.get(), clock())
                else:
                    held = await self._store.put(step)
                    self._election.on_written(held, asked=asked, now=clock())
                    # Reading tells nothing: it may go well while every write is refused.
                    self._reported = ""
        except ConflictError:
            self._election.on_conflict(clock())
        except (KubernetesError, TimeoutError) as error:
            self._election.on_failure(clock())
            self._metrics.failed(self.name)
            text = str(error) or f"no answer within {limit:.1f} s"
            if text != self._reported:
                self._reported = text
                # A missing rule or namespace stays missing until somebody adds it.
                lasting = isinstance(error, ForbiddenError | NotFoundError)
                write = _log.error if lasting else _log.warning
                write("leader.lease_failed", lease=self.name, reason=text)

    async def _follow(self, work: Work) -> None:
        """Start or stop the work as the election says."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()
            raise RuntimeError("the leader's work ended by itself")
        if self.leads():
            if self._task is None:
                _log.info("leader.acquired", lease=self.name, identity=self._identity)
                self._metrics.leads(self.name, leads=True)
                self._task = asyncio.ensure_future(work())
        elif self._task is not None:
            await self._stop()
            _log.warning("leader.lost", lease=self.name, holder=self.holder)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        self._metrics.leads(self.name, leads=False)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _release(self) -> None:
        release = self._election.resign()
        if release is None:
            return
        try:
            async with asyncio.timeout(RELEASE_LIMIT):
                await self._give(release)
            _log.info("leader.released", lease=self.name)
        except (KubernetesError, TimeoutError) as error:
            reason = str(error) or f"no answer within {RELEASE_LIMIT:g} s"
            _log.warning("leader.not_released", lease=self.name, reason=reason)

    async def _give(self, release: Put) -> None:
        try:
            await self._store.put(release)
        except ConflictError:
            # The last renewal may have arrived although its answer did not.
            held = await self._store.get()
            if held is not None and held.holder == self._identity:
                again = msgspec.structs.replace(release, version=held.version)
                await self._store.put(again)
