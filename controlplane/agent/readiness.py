"""Whether this proxy can take traffic, and why not.

Owns what "ready" means. Must not know who asks.
Easy to break: an Envoy that was started again is not ready because its predecessor was; `forget`
is called with every start.
"""

from __future__ import annotations

from typing import Final

from controlplane.agent.admin import AdminClient
from controlplane.errors import OutsideError

READY: Final = ""
FIRST_UPDATES: Final = (
    r"^(cluster_manager\.cds|listener_manager\.lds)\.update_(success|rejected)$"
    r"|^listener_manager\.workers_started$"
)


class Readiness:
    """Looks at one Envoy."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin
        self._configured = False
        self.draining = False
        self.was_ready = False  # whether anybody may have been told so

    def forget(self) -> None:
        """A new Envoy was started."""
        self._configured = False

    async def reason(self) -> str:
        """Return why the proxy is not ready, READY (an empty text) when it is.

        Ready means: not draining, the first clusters and the first listeners were received and
        accepted, and Envoy itself says that it is live. Source: Istio's status/ready.
        """
        if self.draining:
            return "the proxy is draining"
        if not self._configured:
            try:
                stats = await self._admin.stats(FIRST_UPDATES)
            except OutsideError:
                return "Envoy does not answer yet"
            reason = first_updates(
                clusters=stats.get("cluster_manager.cds.update_success", 0),
                listeners=stats.get("listener_manager.lds.update_success", 0),
                rejected=stats.get("cluster_manager.cds.update_rejected", 0)
                + stats.get("listener_manager.lds.update_rejected", 0),
            )
            if reason:
                return reason
            if not stats.get("listener_manager.workers_started", 0):
                return "Envoy's workers have not started yet"
            self._configured = True
        if await self._admin.is_ready():
            self.was_ready = True
            return READY
        return "Envoy is not live"


def first_updates(*, clusters: int, listeners: int, rejected: int) -> str:
    """Return what is missing of the first configuration, READY when nothing is."""
    missing = [name for name, count in (("CDS", clusters), ("LDS", listeners)) if not count]
    if not missing:
        return READY
    if rejected:
        return f"Envoy rejected the control plane's {' and '.join(missing)}"
    return f"no {' and '.join(missing)} from the control plane yet"
