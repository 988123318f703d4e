"""Writes the status of Istio's objects: the leader's work, one object after the other.

Owns the queue, the rate and what is known to stand in the API server. Must not decide what a
status says. Objects are coalesced: one that changes again before its turn is written once. The
rule that is easy to break: nothing is written blindly. Each write reads the object first, holds
only for the version that was read, and is left out when that says the same already, so that a
new leader writes nothing twice.
"""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
import structlog

from controlplane.kubernetes.client import MERGE_PATCH, Client
from controlplane.kubernetes.discovery import discover
from controlplane.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    KubernetesError,
    NotFoundError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.leader.answers import read_answer
from controlplane.leader.assess import WITH_STATUS, Assessor, Readers, Target
from controlplane.leader.bucket import TokenBucket
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.status import patch_of
from controlplane.model.meta import ObjectRef

RATE: Final = 20.0
"""Objects a second in the long run; each costs the API server a read and a write."""
BURST: Final = 40
LOOK: Final = 1.0
"""Seconds between two looks at everything, while something changes."""
RECHECK: Final = 60.0
"""Seconds after which refused objects, kinds and permissions are looked at again."""
_PAGE: Final = 500
_INTERNAL_ERROR: Final = 500
_LONGEST_BACKOFF: Final = 30.0
_FIELD_MANAGER: Final = "pylot"

_log: Final = structlog.get_logger("controlplane.leader.status")


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""


class _Listed(msgspec.Struct):
    """An object as far as its status needs it."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    status: Any = None

    def plain(self) -> dict[str, Any]:
        """Return the object as `patch_of` reads it."""
        return {
            "metadata": {
                "generation": self.metadata.generation,
                "resourceVersion": self.metadata.resource_version,
            },
            "status": self.status,
        }


class _ListMeta(msgspec.Struct, rename="camel"):
    next_page: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[_Listed] = msgspec.field(default_factory=list)


class StatusWriter:
    """Keeps the status of objects true while this replica leads."""

    def __init__(
        self,
        client: Client,
        readers: Readers,
        *,
        leads: Callable[[], bool],
        metrics: LeaderMetrics,
        labelled: bool = False,
        rate: float = RATE,
        burst: int = BURST,
    ) -> None:
        self._client: Final = client
        self._assessor: Final = Assessor(readers, labelled=labelled)
        self._leads: Final = leads
        self._metrics: Final = metrics
        self._rate: Final = rate
        self._burst: Final = burst
        self._known: dict[ObjectRef, Target] = {}
        self._queue: dict[ObjectRef, Target] = {}
        self._kinds: dict[str, Resource] = {}
        self._told: set[str] = set()  # kinds of which a missing rule was reported
        self._refused: set[ObjectRef] = set()
        self._dirty = True
        self._failures = 0

    def changed(self) -> None:
        """Something happened that a status may depend on."""
        self._dirty = True

    async def run(self) -> None:
        """Write until cancelled."""
        clock = asyncio.get_running_loop().time
        bucket = TokenBucket(rate=self._rate, burst=self._burst, now=clock())
        self._known, self._queue, self._dirty = {}, {}, True
        look_at = recheck_at = resume_at = clock()
        first = True
        while True:
            now = clock()
            if now >= recheck_at:
                recheck_at = now + RECHECK
                await self._recheck()
            if now >= look_at:
                look_at = now + LOOK
                if self._look(now) and first:
                    first = False
                    await self._compare_with_all()
            pause = look_at - now
            if self._queue:
                pause = min(pause, max(resume_at - now, 0.0) or bucket.take(now))
                if pause == 0.0:
                    delay = await self._write_one()
                    resume_at = clock() + delay
                    continue
            await asyncio.sleep(pause)

    def _look(self, now: float) -> bool:
        """Bring the queue up to date; return whether everything was looked at."""
        if not self._dirty:
            return False
        looked = self._assessor.look(self._known, kinds=self._kinds, now=now)
        if looked is None:
            return False
        wanted, self._dirty = looked
        # The order of the queue stays: what waits longest goes first.
        kept = {ref: wanted.pop(ref) for ref in self._queue if ref in wanted}
        self._queue = kept | wanted
        self._refused.intersection_update(self._known.keys() | self._queue.keys())
        return True

    async def _recheck(self) -> None:
        """See which kinds have a status now, and doubt what has no generation to compare."""
        try:
            kinds = await find_kinds(self._client)
        except KubernetesError as error:
            _log.warning("status.discovery_failed", reason=str(error))
            return
        self._kinds = kinds
        self._known = {
            ref: target
            for ref, target in self._known.items()
            if target.status.generation and ref not in self._refused
        }
        self._dirty = True

    async def _compare_with_all(self) -> None:
        """Take out of the queue what stands in the API server already, by lists."""
        for kind in sorted({ref.kind for ref in self._queue}):
            try:
                async for item in self._list(self._kinds[kind]):
                    ref = ObjectRef(kind, item.metadata.namespace, item.metadata.name)
                    target = self._queue.get(ref)
                    if target is not None and self._is_said(item, target):
                        self._known[ref] = self._queue.pop(ref)
            except KubernetesError as error:
                # Every write reads its object anyway: this only saves requests.
                _log.warning("status.list_failed", kind=kind, reason=str(error))

    async def _list(self, resource: Resource) -> AsyncIterator[_Listed]:
        query = {"limit": str(_PAGE)}
        while True:
            data = await self._client.request("GET", resource.path(), query=query)
            found = read_answer(data, _List)
            for item in found.items:
                yield item
            if not found.metadata.next_page:
                return
            query = {**query, "continue": found.metadata.next_page}

    async def _write_one(self) -> float:
        """Bring the object whose turn it is up to date; return the seconds to wait after it."""
        ref = next(iter(self._queue))
        target = self._queue.pop(ref)
        try:
            result = await self._write(ref, target)
        except (NotFoundError, GoneError):
            result = "gone"
            self._known[ref] = target
        except ConflictError:
            result = "conflict"
            self._queue.setdefault(ref, target)
        except ForbiddenError as error:
            result = "refused"
            self._leave(ref.kind, str(error))
        except KubernetesError as error:
            if isinstance(error, InvalidError) or error.status == _INTERNAL_ERROR:
                # It is this object, or a webhook that is asked about it: others go on.
                self._refuse(ref, target, error)
                return 0.0
            self._queue.setdefault(ref, target)
            self._metrics.status("failed", len(self._queue))
            self._failures += 1
            if self._failures == 1:
                _log.warning("status.failed", object=str(ref), reason=str(error))
            backoff = min(_LONGEST_BACKOFF, 2.0 ** min(self._failures, 10) / 2)
            return max(error.retry_after, backoff * (0.5 + random.random() / 2))
        self._failures = 0
        self._metrics.status(result, len(self._queue))
        return 0.0

    def _refuse(self, ref: ObjectRef, target: Target, error: KubernetesError) -> None:
        """Leave an object alone until it changes or the next recheck, and say so once."""
        self._known[ref] = target
        if ref not in self._refused:
            self._refused.add(ref)
            _log.error("status.refused", object=str(ref), reason=str(error))
        self._metrics.status("refused", len(self._queue))

    async def _write(self, ref: ObjectRef, target: Target) -> str:
        resource = self._kinds.get(ref.kind)
        if resource is None:
            return "gone"
        path = resource.path(namespace=ref.namespace, name=ref.name)
        item = read_answer(await self._client.request("GET", path), _Listed)
        if not _is_meant(item, target):
            # The object is not the one that was looked at: what is true of it comes with it.
            self._dirty = True
            return "conflict"
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        patch = patch_of(item.plain(), target.status, now=now)
        if patch is None:
            self._known[ref] = target
            return "unchanged"
        if not self._leads():
            return "failed"
        try:
            await self._client.request(
                "PATCH",
                f"{path}/status",
                query={"fieldManager": _FIELD_MANAGER},
                body=msgspec.json.encode(patch),
                content_type=MERGE_PATCH,
            )
        except NotFoundError as error:
            await self._client.request("GET", path)  # or the object has gone meanwhile
            self._leave(ref.kind, f"its definition has no subresource `status`: {error}")
            return "gone"
        self._known[ref] = target
        self._refused.discard(ref)
        return "written"

    def _is_said(self, item: _Listed, target: Target) -> bool:
        return _is_meant(item, target) and patch_of(item.plain(), target.status, now="") is None

    def _leave(self, kind: str, reason: str) -> None:
        """Leave a kind alone until the next recheck, and say so once."""
        self._kinds.pop(kind, None)
        self._queue = {ref: target for ref, target in self._queue.items() if ref.kind != kind}
        if kind not in self._told:
            self._told.add(kind)
            _log.error("status.not_writable", kind=kind, reason=reason)


async def find_kinds(client: Client) -> dict[str, Resource]:
    """Return the kinds whose status can be written, each in the best version that is served.

    Raises KubernetesError when it cannot be found out.
    """
    served = await discover(client, {kind.group for kind in WITH_STATUS.values()})
    found: dict[str, Resource] = {}
    for name, kind in WITH_STATUS.items():
        for version in kind.versions:
            if kind.plural in served.get(kind.group, {}).get(version, ()):
                found[name] = Resource(kind.group, version, kind.plural)
                break
    return found


def _is_meant(item: _Listed, target: Target) -> bool:
    """Whether an object is the very one, in the very generation, that a status is about."""
    meta, generation = item.metadata, target.status.generation
    return target.uid in ("", meta.uid) and generation in (0, meta.generation)
