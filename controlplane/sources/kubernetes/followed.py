"""One kind that is followed: its store, and how its objects come in.

Owns the requests that a reflector asks for. Must not know other kinds, nor what becomes of the
objects. The rule that is easy to break: a store outlives the reflectors that fill it, so that a
kind that is served in another version from now on loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import ForbiddenError, KubernetesError
from controlplane.model.kinds import Kind
from controlplane.sources.kubernetes.contact import Contact
from controlplane.sources.kubernetes.reflector import Reflector
from controlplane.sources.kubernetes.reporter import Reporter
from controlplane.sources.kubernetes.status import KindStatus
from controlplane.sources.kubernetes.store import Store

_GATHER: Final = 0.01  # seconds in which events of a kind become one step
_AT_ONCE: Final = 500  # events that are read without a pause, as many as objects in a page


class Followed:
    """A kind, and the task that follows it while it is served."""

    def __init__(
        self,
        kind: Kind,
        store: Store,
        *,
        client: Client,
        contact: Contact,
        clock: Callable[[], float],
    ) -> None:
        self.kind: Final = kind
        self.store: Final = store
        self.reflector: Reflector | None = None
        self.absent = 0  # looks in a row that did not find it
        self._client: Final = client
        self._contact: Final = contact
        self._clock: Final = clock
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._heard_at = clock()
        self._error: KubernetesError | None = None
        self._reported: ForbiddenError | None = None
        self._counted = (0, 0)  # relists and healed objects that were reported

    @property
    def settled(self) -> bool:
        """Whether there is something definite: a list, a refusal, or that it does not exist."""
        if self.reflector is None:
            return self.absent > 0
        return self.reflector.synced or self.reflector.refused is not None

    @property
    def refused(self) -> ForbiddenError | None:
        """Why the API server does not let us read it."""
        return None if self.reflector is None else self.reflector.refused

    @property
    def complete(self) -> bool:
        """Whether every object of it is known, a moment's delay aside."""
        return self.reflector is not None and self.reflector.synced and self.refused is None

    def status(self) -> KindStatus:
        """Return what is known of it."""
        reflector = self.reflector
        served = reflector is not None
        return KindStatus(
            kind=self.kind.qualified,
            version="" if reflector is None else reflector.resource.version,
            served=served,
            synced=reflector is not None and reflector.synced,
            connected=self._connected,
            age=self._clock() - self._heard_at if served and not self._connected else 0.0,
            resource_version="" if reflector is None else reflector.version,
            objects=len(self.store),
            relists=0 if reflector is None else reflector.relists,
            healed=0 if reflector is None else reflector.healed,
            error="" if self._error is None else str(self._error),
        )

    def start(
        self, reflector: Reflector, group: asyncio.TaskGroup, news: Callable[[], None]
    ) -> None:
        """Follow it from now on; `news` is called whenever there may be something new."""
        self.absent = 0
        self.reflector = reflector
        self._counted = (0, 0)
        self._task = group.create_task(self._follow(reflector, news))

    async def end(self) -> None:
        """Follow it no more; what is in the store stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _follow(self, reflector: Reflector, news: Callable[[], None]) -> None:
        """Do what the reflector says, for ever."""
        while True:
            step = reflector.next()
            if step.wait:
                await self._contact.wait(step.wait)
            began = self._clock()
            try:
                if step.watch:
                    await self._watch(reflector, step.query, news)
                    reflector.on_closed(self._clock() - began)
                else:
                    body = await self._client.request("GET", reflector.path, query=step.query)
                    reflector.on_page(body)
                    self._note_heard()
            except KubernetesError as error:
                self._error = error
                now = self._clock()
                reflector.on_error(error, now - began)
                self._contact.note_failure(error, asked=now if self._connected else began)
                if reflector.missing:
                    self._contact.look_again()
            finally:
                self._connected = False
            news()

    async def _watch(
        self, reflector: Reflector, query: dict[str, str], news: Callable[[], None]
    ) -> None:
        async with self._client.watch(reflector.path, query=query) as batches:
            self._connected = True
            reflector.on_opened()
            self._note_heard()
            news()
            async for lines in batches:
                for start in range(0, len(lines), _AT_ONCE):
                    reflector.on_lines(lines[start : start + _AT_ONCE])
                    await asyncio.sleep(0)  # proxies wait for their answers on the same loop
                self._note_heard()
                news()
                # The first change after quiet has gone on at once; what follows comes together.
                await asyncio.sleep(_GATHER)

    def _note_heard(self) -> None:
        self._heard_at = self._clock()
        self._error = None
        self._contact.note_back()

    def report(self, reporter: Reporter) -> None:
        """Tell what has happened since the last time, beside events."""
        reflector = self.reflector
        if reflector is None:
            return
        kind = self.kind.qualified
        if reflector.refused is not None and self._reported is None:
            reporter.forbidden(kind, reflector.refused)
        elif reflector.refused is None and self._reported is not None:
            reporter.allowed(kind)
        self._reported = reflector.refused
        relists, healed = self._counted
        if reflector.relists > relists:
            reporter.relisted(kind)
        if reflector.healed > healed:
            reporter.healed(kind, reflector.healed - healed)
        self._counted = (reflector.relists, reflector.healed)
