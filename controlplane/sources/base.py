"""What a source of configuration is: something that delivers changes until it is cancelled.

Must not know who folds the changes. The rule that is easy to break: a source never calls
`deliver` from another thread than the event loop's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from controlplane.model.diagnostics import Diagnostic
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectRef, Record


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a source, whose name is in the origin of every record.

    `diagnostics` is everything that is wrong in this source now, None when that did not change.
    `mesh` replaces the settings of the mesh, None leaves them. `synced` says that the source
    has now delivered its first full state; later steps may leave it out. `follows_pods` says
    whether the source tells of every pod, so that endpoints of its EndpointSlices wait for those
    that they name; None leaves what it said before, which is no at first.
    """

    upserts: tuple[Record, ...] = ()
    removals: tuple[ObjectRef, ...] = ()
    diagnostics: tuple[Diagnostic, ...] | None = None
    mesh: MeshConfig | None = None
    synced: bool = False
    follows_pods: bool | None = None

    def __bool__(self) -> bool:
        """Whether the step says anything."""
        return bool(
            self.upserts
            or self.removals
            or self.diagnostics is not None
            or self.mesh is not None
            or self.synced
            or self.follows_pods is not None
        )


Deliver = Callable[[Delta], None]


class Source(Protocol):
    """A source; `name` is what Provenance and `/ready` call it."""

    @property
    def name(self) -> str:
        """The name of the source, unique in a registry."""
        ...

    async def run(self, deliver: Deliver) -> None:
        """Deliver changes until cancelled; raises SourceError when that cannot even begin."""
        ...
