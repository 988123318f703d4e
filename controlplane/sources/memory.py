"""A source that says what it is told: for tests and for tools that hold objects already.

The rule that is easy to break: it is synced only when told so (or by its first `apply`), so
that a test can see a registry that still waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectRef, Provenance, Record
from controlplane.sources.base import Deliver, Delta


class MemorySource:
    """Holds steps until somebody runs it, then passes each on at once."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._deliver: Deliver | None = None
        self._waiting: list[Delta] = []

    @property
    def name(self) -> str:
        """The name of the source."""
        return self._name

    def apply(
        self,
        *objects: Object,
        mesh: MeshConfig | None = None,
        diagnostics: Iterable[Diagnostic] | None = None,
    ) -> None:
        """Add or replace objects; the source counts as synced from then on."""
        origin = Provenance(self._name)
        self._send(
            Delta(
                upserts=tuple(Record.of(item, origin) for item in objects),
                mesh=mesh,
                diagnostics=None if diagnostics is None else tuple(diagnostics),
                synced=True,
            )
        )

    def remove(self, *refs: ObjectRef) -> None:
        """Take objects away."""
        self._send(Delta(removals=refs, synced=True))

    async def run(self, deliver: Deliver) -> None:
        """Pass on what was said before and everything said from now on."""
        waiting, self._waiting = self._waiting, []
        self._deliver = deliver
        try:
            for delta in waiting:
                deliver(delta)
            await asyncio.Event().wait()
        finally:
            self._deliver = None

    def _send(self, delta: Delta) -> None:
        if self._deliver is None:
            self._waiting.append(delta)
        else:
            self._deliver(delta)
