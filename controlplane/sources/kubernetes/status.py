"""What the Kubernetes source follows and how old that is: values for readers."""

from __future__ import annotations

import msgspec


class KindStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One kind. `age` is for how many seconds nothing vouches for its state, 0 while watched."""

    kind: str
    version: str
    served: bool
    synced: bool
    connected: bool
    age: float
    resource_version: str
    objects: int
    relists: int
    healed: int
    error: str


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All kinds of one API server. `away` is for how many seconds it cannot be reached."""

    server: str
    synced: bool
    away: float
    kinds: tuple[KindStatus, ...]

    @property
    def age(self) -> float:
        """For how many seconds nothing vouches for some part of the state."""
        return max((kind.age for kind in self.kinds), default=0.0)
