"""What the serving side tells readers (debug endpoints, proxy-status, metrics): plain values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from controlplane.model.base import FrozenDict
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef
from controlplane.model.proxy import Proxy
from controlplane.translate.scope import ProxyClass


class RejectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One resource that an Envoy rejected, and the objects that made it."""

    type_url: str
    resource: str
    version: str
    message: str
    objects: tuple[ObjectRef, ...] = ()


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one resource type on one stream. Times are seconds since the epoch."""

    type_url: str
    wildcard: bool = False
    names: tuple[str, ...] = ()
    version_sent: str = ""
    version_acked: str = ""
    nonce_sent: str = ""
    nonce_acked: str = ""
    time_sent: float = 0.0
    time_acked: float = 0.0
    last_error: str = ""
    rejections: tuple[RejectionStatus, ...] = ()


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stream: who, since when, in which class, with which watches (by type URL)."""

    connection_id: str
    proxy: Proxy
    proxy_class: ProxyClass | None
    peer: str
    connected_at: float
    delta: bool
    watches: Mapping[str, WatchStatus] = FrozenDict()


class ServingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about serving at one moment, connections in the order of their ids."""

    connections: tuple[ConnectionStatus, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
