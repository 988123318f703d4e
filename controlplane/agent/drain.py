"""How a proxy leaves without breaking requests.

Owns the order: Envoy asks its clients to go elsewhere, the agent waits until they went, then
Envoy ends. Must not know signals.
Easy to break: others learn only a moment later that this pod is going; until then Envoy still
accepts, and nobody being connected does not mean that nobody comes.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Final

import structlog

from controlplane.agent.admin import AdminClient
from controlplane.agent.settings import DrainSettings
from controlplane.errors import OutsideError

SECONDS_BETWEEN_LOOKS: Final = 0.1
ACTIVE: Final = r"^listener\..*\.downstream_cx_active$"
_ADDRESS: Final = re.compile(r"listener\.(?P<address>.+)\.downstream_cx_active")

log = structlog.get_logger()


async def drain(
    admin: AdminClient, settings: DrainSettings, *, inbound_only: bool, own_ports: Iterable[int]
) -> None:
    """Return when the connections are gone, or when the longest time is over.

    `own_ports` are listeners for metrics and health, whose connections do not count. A sidecar
    drains only what comes in (`inbound_only`): the application still calls others meanwhile.
    """
    started = time.monotonic()
    query = {"graceful": "", "skip_exit": ""} | ({"inboundonly": ""} if inbound_only else {})
    try:
        await admin.post("/drain_listeners", query)
    except OutsideError as error:
        log.warning("drain_impossible", reason=str(error))
        return
    log.info("drain_started", at_least_seconds=settings.minimum, at_most_seconds=settings.limit)
    await asyncio.sleep(settings.minimum)
    active = 0
    while time.monotonic() - started < settings.limit:
        try:
            active = await active_connections(admin, own_ports)
        except OutsideError as error:
            log.warning("drain_broken_off", reason=str(error))
            return
        if not active:
            break
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    log.info("drain_ended", connections=active, seconds=round(time.monotonic() - started, 1))


async def active_connections(admin: AdminClient, own_ports: Iterable[int]) -> int:
    """Return how many connections clients hold; raises OutsideError."""
    own = frozenset(own_ports)
    return sum(count for name, count in (await admin.stats(ACTIVE)).items() if counts(name, own))


def counts(name: str, own_ports: frozenset[int]) -> bool:
    """Whether a statistic is about a listener of clients: not the admin's, nor our own ports."""
    match = _ADDRESS.fullmatch(name)
    if match is None:
        return False
    address = match["address"]
    if address == "admin" or ".worker_" in address or address.startswith("admin."):
        return False
    port = address.rpartition("_")[2]
    return not (port.isdigit() and int(port) in own_ports)
