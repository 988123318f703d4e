"""The Kubernetes source: which kinds are followed, and what of it becomes steps of a source.

Owns the tasks: one for each kind that the API server serves, and one that looks which these are.
The rule that is easy to break: the first full state is there when every kind has said something
definite: its list, that it may not be read, or that it does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.discovery import Served, discover
from controlplane.kubernetes.errors import (
    ForbiddenError,
    KubernetesError,
    UnauthorizedError,
    UnavailableError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.model.diagnostics import Diagnostic, order
from controlplane.model.kinds import KINDS, Kind, Use
from controlplane.model.mesh import MeshConfig
from controlplane.sources.base import Deliver, Delta
from controlplane.sources.kubernetes.decode import SOURCE, ObjectDecoder
from controlplane.sources.kubernetes.mesh import (
    CONFIG_MAP,
    MeshDocument,
    config_map_name,
    decode_config_map,
)
from controlplane.sources.kubernetes.reflector import Reflector
from controlplane.sources.kubernetes.reporter import Reporter
from controlplane.sources.kubernetes.status import KindStatus, SourceStatus
from controlplane.sources.kubernetes.store import Changes, Store

LOOK_EVERY: Final = 60.0  # seconds between two looks at what is served, when nothing is missing
LOOK_FOR_MISSING: Final = 5.0
SOONEST: Final = 1.0  # seconds until a kind that failed is tried again, at the least
_GATHER: Final = 0.01  # seconds in which events of a kind become one step
_AT_ONCE: Final = 500  # events that are read without a pause, as many as objects in a page
_GONE_AFTER: Final = 2  # looks in a row that do not find a kind, before its objects go
SLICES: Final = KINDS["discovery.k8s.io", "EndpointSlice"]
ENDPOINTS: Final = KINDS["", "Endpoints"]


def watched_kinds() -> tuple[Kind, ...]:
    """Return the kinds that are followed: Istio's, and of others those that are translated."""
    return tuple(
        kind
        for kind in KINDS.values()
        if kind.group.endswith(".istio.io") or kind.use is Use.TRANSLATED
    )


class _Followed:
    """One kind: its store outlives the reflectors that fill it."""

    def __init__(self, kind: Kind, store: Store) -> None:
        self.kind: Final = kind
        self.store: Final = store
        self.reflector: Reflector | None = None
        self.task: asyncio.Task[None] | None = None
        self.absent = 0  # looks in a row that did not find it
        self.connected = False
        self.heard_at = 0.0
        self.error: KubernetesError | None = None
        self.reported: ForbiddenError | None = None
        self.counted = (0, 0)  # relists and healed objects that were reported

    @property
    def settled(self) -> bool:
        """Whether there is something definite: a list, a refusal, or that it does not exist."""
        if self.reflector is None:
            return self.absent > 0
        return self.reflector.synced or self.reflector.refused is not None


class KubernetesSource:
    """Everything that a mesh is made of, out of an API server."""

    def __init__(
        self,
        client: Client,
        *,
        revision: str = "default",
        root_namespace: str = "istio-system",
        mesh_config: bool = True,
        reporter: Reporter | None = None,
        dice: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        look_for_missing: float = LOOK_FOR_MISSING,
    ) -> None:
        self._client: Final = client
        self._root_namespace: Final = root_namespace
        self._mesh_name: Final = config_map_name(revision)
        self._reporter: Final = reporter or Reporter()
        self._dice: Final = dice or random.Random()
        self._clock: Final = clock
        self._look_for_missing: Final = look_for_missing
        self._followed: Final = {
            kind: _Followed(kind, Store(ObjectDecoder(kind, revision=revision)))
            for kind in watched_kinds()
        }
        self._mesh: Final = (
            _Followed(CONFIG_MAP, Store(partial(decode_config_map, root_namespace=root_namespace)))
            if mesh_config
            else None
        )
        self._look_again: Final = asyncio.Event()
        self._away_since: float | None = None
        self._reached: Final = asyncio.Event()
        self._diagnostics: dict[Kind, tuple[Diagnostic, ...]] = {}
        self._synced = False
        self._started = clock()

    @property
    def name(self) -> str:
        """The name of the source."""
        return SOURCE

    @property
    def _all(self) -> tuple[_Followed, ...]:
        mesh = () if self._mesh is None else (self._mesh,)
        return (*self._followed.values(), *mesh)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each kind that may not be read."""
        return tuple(
            str(one.reflector.refused)
            for one in self._all
            if one.reflector is not None and one.reflector.refused is not None
        )

    def status(self) -> SourceStatus:
        """Return what is followed and how old it is."""
        now = self._clock()
        return SourceStatus(
            server=self._client.server,
            synced=self._synced,
            away=0.0 if self._away_since is None else now - self._away_since,
            kinds=tuple(self._kind_status(one, now) for one in self._all),
        )

    def _kind_status(self, one: _Followed, now: float) -> KindStatus:
        reflector = one.reflector
        heard = one.heard_at or self._started
        return KindStatus(
            kind=one.kind.qualified,
            version="" if reflector is None else reflector.resource.version,
            served=reflector is not None,
            synced=reflector is not None and reflector.synced,
            connected=one.connected,
            age=0.0 if one.connected or reflector is None else now - heard,
            resource_version="" if reflector is None else reflector.version,
            objects=len(one.store),
            relists=0 if reflector is None else reflector.relists,
            healed=0 if reflector is None else reflector.healed,
            error="" if one.error is None else str(one.error),
        )

    async def run(self, deliver: Deliver) -> None:
        """Deliver what there is and what changes, until cancelled."""
        streams = await self._connect()
        async with asyncio.TaskGroup() as group:
            if self._mesh is not None:
                self._start(
                    self._mesh,
                    Reflector(
                        Resource("", "v1", CONFIG_MAP.plural),
                        self._mesh.store,
                        namespace=self._root_namespace,
                        selector={"fieldSelector": f"metadata.name={self._mesh_name}"},
                        streams=streams,
                        dice=self._dice,
                    ),
                    deliver,
                    group,
                )
            while True:
                missing = await self._look(deliver, group, streams=streams)
                pause = self._look_for_missing if missing else LOOK_EVERY
                await self._pause(pause * (0.5 + self._dice.random()))

    async def _connect(self) -> bool:
        """Wait for the API server; returns whether it can stream a first state."""
        while True:
            try:
                served = await discover(self._client, ("authorization.k8s.io",))
            except KubernetesError as error:
                self._note_away(error)
                await self._pause(1.0 + self._dice.random())
                continue
            self._note_back()
            return bool(served)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until a kind or the API server was said not to be there."""
        try:
            async with asyncio.timeout(seconds):
                await self._look_again.wait()
        except TimeoutError:
            return
        self._look_again.clear()
        await asyncio.sleep(1.0)  # what asks for a look does so for each failure

    async def _look(self, deliver: Deliver, group: asyncio.TaskGroup, *, streams: bool) -> bool:
        """Find out what is served, start and end tasks; returns whether something is missing."""
        groups = {kind.group for kind in self._followed if kind.group}
        try:
            served = await discover(self._client, groups)
        except KubernetesError as error:
            self._note_away(error)
            return True
        self._note_back()
        missing = False
        for one in self._followed.values():
            resource = _resource(one.kind, served)
            if resource is None:
                missing |= one.kind is not ENDPOINTS
                await self._stop(one, deliver)
                continue
            one.absent = 0
            if one.reflector is not None and one.reflector.resource == resource:
                continue
            await _end(one)
            reflector = Reflector(resource, one.store, streams=streams, dice=self._dice)
            self._reporter.served(one.kind, resource)
            self._start(one, reflector, deliver, group)
        self._settle(deliver)
        return missing

    def _start(
        self, one: _Followed, reflector: Reflector, deliver: Deliver, group: asyncio.TaskGroup
    ) -> None:
        one.reflector = reflector
        one.counted = (0, 0)
        one.task = group.create_task(self._follow(one, reflector, deliver))

    async def _stop(self, one: _Followed, deliver: Deliver) -> None:
        """Take note that a kind is not served; its objects go when that is sure."""
        one.absent += 1
        if one.reflector is None or one.absent < _GONE_AFTER:
            return
        await _end(one)
        one.reflector = None
        one.store.replace({})
        self._reporter.served(one.kind, None)
        self._pass_on(one, deliver)

    async def _follow(self, one: _Followed, reflector: Reflector, deliver: Deliver) -> None:
        """Do what the reflector says, for ever."""
        while True:
            step = reflector.next()
            if step.wait:
                await self._wait(step.wait)
            began = self._clock()
            try:
                if step.watch:
                    await self._watch(one, reflector, step.query, deliver)
                    reflector.on_closed(self._clock() - began)
                else:
                    body = await self._client.request("GET", reflector.path, query=step.query)
                    reflector.on_page(body)
                    self._note_heard(one)
            except KubernetesError as error:
                one.error = error
                reflector.on_error(error, self._clock() - began)
                self._note_failure(one, error)
            finally:
                one.connected = False
            self._pass_on(one, deliver)

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until the API server is back from being away.

        Whoever gets through first is the sign for all, whose pauses have grown meanwhile.
        """
        soon = min(seconds, SOONEST)
        await asyncio.sleep(soon)
        if self._away_since is None:
            await asyncio.sleep(seconds - soon)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - soon):
                await self._reached.wait()

    async def _watch(
        self, one: _Followed, reflector: Reflector, query: dict[str, str], deliver: Deliver
    ) -> None:
        async with self._client.watch(reflector.path, query=query) as batches:
            one.connected = True
            reflector.on_opened()
            self._note_heard(one)
            self._report(one)
            async for lines in batches:
                for start in range(0, len(lines), _AT_ONCE):
                    reflector.on_lines(lines[start : start + _AT_ONCE])
                    await asyncio.sleep(0)  # proxies wait for their answers on the same loop
                self._note_heard(one)
                self._pass_on(one, deliver)
                # The first change after quiet has gone on at once; what follows comes together.
                await asyncio.sleep(_GATHER)

    def _note_heard(self, one: _Followed) -> None:
        one.heard_at = self._clock()
        one.error = None
        self._note_back()

    def _note_failure(self, one: _Followed, error: KubernetesError) -> None:
        match error:
            case UnavailableError(status=0) | UnauthorizedError():
                self._note_away(error)  # without credentials there is as little news
            case UnavailableError():
                pass
            case _:
                self._note_back()
        if one.reflector is not None and one.reflector.missing:
            self._look_again.set()

    def _note_away(self, error: KubernetesError) -> None:
        if self._away_since is None:
            self._away_since = self._clock()
            self._reached.clear()
            self._look_again.set()  # looks come often while it is away, and find it when it is back
            self._reporter.away(error)

    def _note_back(self) -> None:
        if self._away_since is not None:
            self._reporter.back(self._clock() - self._away_since)
            self._away_since = None
            self._reached.set()

    def _pass_on(self, one: _Followed, deliver: Deliver) -> None:
        """Deliver what is new of one kind, as one step."""
        self._report(one)
        changes = one.store.take()
        if changes.events:
            self._reporter.events(one.kind, changes.events)
        delta = self._delta(one, changes)
        if delta:
            deliver(delta)
        self._settle(deliver)

    def _delta(self, one: _Followed, changes: Changes) -> Delta:
        diagnostics = self._note_diagnostics(one) if changes.diagnostics else None
        if one is not self._mesh:
            return Delta(
                upserts=changes.upserts, removals=changes.removals, diagnostics=diagnostics
            )
        mesh = None
        for item, _ in changes.upserts:
            if isinstance(item, MeshDocument):
                mesh = item.mesh
        if changes.removals:
            mesh = MeshConfig(root_namespace=self._root_namespace)
        return Delta(mesh=mesh, diagnostics=diagnostics)

    def _note_diagnostics(self, one: _Followed) -> tuple[Diagnostic, ...]:
        self._diagnostics[one.kind] = one.store.diagnostics
        found = (entry for group in self._diagnostics.values() for entry in group)
        return tuple(sorted(found, key=order))

    def _report(self, one: _Followed) -> None:
        reflector = one.reflector
        if reflector is None:
            return
        kind = one.kind.qualified
        if reflector.refused is not None and one.reported is None:
            self._reporter.forbidden(kind, reflector.refused)
        elif reflector.refused is None and one.reported is not None:
            self._reporter.allowed(kind)
        one.reported = reflector.refused
        relists, healed = one.counted
        if reflector.relists > relists:
            self._reporter.relisted(kind)
        if reflector.healed > healed:
            self._reporter.healed(kind, reflector.healed - healed)
        one.counted = (reflector.relists, reflector.healed)

    def _settle(self, deliver: Deliver) -> None:
        """Say once that the first full state is there."""
        if self._synced or not all(one.settled for one in self._all):
            return
        self._synced = True
        self._reporter.synced(sum(len(one.store) for one in self._all))
        deliver(Delta(synced=True))


async def _end(one: _Followed) -> None:
    if one.task is not None:
        one.task.cancel()
        await asyncio.gather(one.task, return_exceptions=True)
        one.task = None


def _resource(kind: Kind, served: Served) -> Resource | None:
    """Return how a kind is asked for, None when it is not served or not needed."""
    if kind is ENDPOINTS and _resource(SLICES, served) is not None:
        return None
    if not kind.group:
        return Resource("", "v1", kind.plural)
    versions: Mapping[str, frozenset[str]] = served.get(kind.group, {})
    for version in kind.versions:
        if kind.plural in versions.get(version, ()):
            return Resource(kind.group, version, kind.plural)
    return None
