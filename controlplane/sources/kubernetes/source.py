"""The Kubernetes source: which kinds are followed, and what of it becomes steps of a source.

Owns the set of kinds: one task for each that the API server serves, and a look which these are.
The rule that is easy to break: the first full state is there when every kind has said something
definite: its list, that it may not be read, or that it does not exist.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.discovery import Served, discover
from controlplane.kubernetes.errors import KubernetesError
from controlplane.kubernetes.paths import Resource
from controlplane.model.diagnostics import Diagnostic, order
from controlplane.model.kinds import KINDS, Kind, Use
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import objects_of
from controlplane.sources.base import Deliver, Delta
from controlplane.sources.kubernetes.contact import Contact
from controlplane.sources.kubernetes.decode import SOURCE, Decode, ObjectDecoder
from controlplane.sources.kubernetes.followed import Followed
from controlplane.sources.kubernetes.mesh import (
    CONFIG_MAP,
    MeshDocument,
    config_map_name,
    decode_config_map,
)
from controlplane.sources.kubernetes.reflector import Reflector
from controlplane.sources.kubernetes.reporter import Reporter
from controlplane.sources.kubernetes.status import SourceStatus
from controlplane.sources.kubernetes.store import Changes, Store

LOOK_EVERY: Final = 60.0  # seconds between two looks at what is served, when nothing is missing
LOOK_FOR_MISSING: Final = 5.0
_GONE_AFTER: Final = 2  # looks in a row that do not find a kind, before its objects go
SLICES: Final = KINDS["discovery.k8s.io", "EndpointSlice"]
ENDPOINTS: Final = KINDS["", "Endpoints"]
PODS: Final = KINDS["", "Pod"]


def watched_kinds() -> tuple[Kind, ...]:
    """Return the kinds that are followed: Istio's, and of others those that are translated."""
    return tuple(
        kind
        for kind in KINDS.values()
        if kind.group.endswith(".istio.io") or kind.use is Use.TRANSLATED
    )


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
        self._contact: Final = Contact(self._reporter, clock)

        def followed(kind: Kind, decode: Decode) -> Followed:
            return Followed(kind, Store(decode), client=client, contact=self._contact, clock=clock)

        self._followed: Final = {
            kind: followed(kind, ObjectDecoder(kind, revision=revision)) for kind in watched_kinds()
        }
        self._mesh: Final = (
            followed(CONFIG_MAP, partial(decode_config_map, root_namespace=root_namespace))
            if mesh_config
            else None
        )
        self._diagnostics: dict[Kind, tuple[Diagnostic, ...]] = {}
        self._synced = False
        self._follows_pods = False

    @property
    def name(self) -> str:
        """The name of the source."""
        return SOURCE

    @property
    def _all(self) -> tuple[Followed, ...]:
        mesh = () if self._mesh is None else (self._mesh,)
        return (*self._followed.values(), *mesh)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each kind that may not be read."""
        return tuple(str(one.refused) for one in self._all if one.refused is not None)

    def status(self) -> SourceStatus:
        """Return what is followed and how old it is."""
        return SourceStatus(
            server=self._client.server,
            synced=self._synced,
            away=self._contact.away,
            kinds=tuple(one.status() for one in self._all),
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
                await self._contact.pause(pause * (0.5 + self._dice.random()))

    async def _connect(self) -> bool:
        """Wait for the API server; returns whether it can stream a first state."""
        while True:
            asked = self._clock()
            try:
                served = await discover(self._client, ("authorization.k8s.io",))
            except KubernetesError as error:
                self._contact.note_away(error, asked=asked)
                await self._contact.pause(1.0 + self._dice.random())
                continue
            self._contact.note_back()
            return bool(served)

    async def _look(self, deliver: Deliver, group: asyncio.TaskGroup, *, streams: bool) -> bool:
        """Find out what is served, start and end tasks; returns whether something is missing."""
        groups = {kind.group for kind in self._followed if kind.group}
        asked = self._clock()
        try:
            served = await discover(self._client, groups)
        except KubernetesError as error:
            self._contact.note_away(error, asked=asked)
            return True
        self._contact.note_back()
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
            await one.end()
            reflector = Reflector(resource, one.store, streams=streams, dice=self._dice)
            self._reporter.served(one.kind, resource)
            self._start(one, reflector, deliver, group)
        self._settle(deliver)
        return missing

    def _start(
        self, one: Followed, reflector: Reflector, deliver: Deliver, group: asyncio.TaskGroup
    ) -> None:
        one.start(reflector, group, partial(self._pass_on, one, deliver))

    async def _stop(self, one: Followed, deliver: Deliver) -> None:
        """Take note that a kind is not served; its objects go when that is sure."""
        one.absent += 1
        if one.reflector is None or one.absent < _GONE_AFTER:
            return
        await one.end()
        one.reflector = None
        one.store.replace({})
        self._reporter.served(one.kind, None)
        self._pass_on(one, deliver)

    def _pass_on(self, one: Followed, deliver: Deliver) -> None:
        """Deliver what is new of one kind, as one step."""
        one.report(self._reporter)
        changes = one.store.take()
        if changes.events:
            self._reporter.events(one.kind, changes.events)
        delta = self._delta(one, changes)
        if delta:
            deliver(delta)
        self._settle(deliver)

    def _delta(self, one: Followed, changes: Changes) -> Delta:
        diagnostics = self._note_diagnostics(one) if changes.diagnostics else None
        if one is not self._mesh:
            return Delta(
                upserts=changes.upserts,
                removals=changes.removals,
                diagnostics=diagnostics,
                follows_pods=self._note_pods(one),
            )
        mesh = None
        for item in objects_of(changes.upserts):
            if isinstance(item, MeshDocument):
                mesh = item.mesh
        if changes.removals:
            mesh = MeshConfig(root_namespace=self._root_namespace)
        return Delta(mesh=mesh, diagnostics=diagnostics)

    def _note_pods(self, one: Followed) -> bool | None:
        """Return whether all pods are known, None when that is no news.

        Kinds are watched one by one, and no order holds between them: an EndpointSlice may come
        before the pod that it names.
        """
        if one.kind is not PODS or one.complete is self._follows_pods:
            return None
        self._follows_pods = one.complete
        return one.complete

    def _note_diagnostics(self, one: Followed) -> tuple[Diagnostic, ...]:
        self._diagnostics[one.kind] = one.store.diagnostics
        found = (entry for group in self._diagnostics.values() for entry in group)
        return tuple(sorted(found, key=order))

    def _settle(self, deliver: Deliver) -> None:
        """Say once that the first full state is there."""
        if self._synced or not all(one.settled for one in self._all):
            return
        self._synced = True
        self._reporter.synced(sum(len(one.store) for one in self._all))
        deliver(Delta(synced=True))


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
