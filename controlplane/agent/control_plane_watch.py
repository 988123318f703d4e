"""Says in the log, once, that the control plane cannot be reached and why, and once that it can.

Owns the look at Envoy's connection and at the way to the control plane.
Must not know the protocol.
Easy to break: Envoy itself reconnects and goes on with what it has; this only looks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Final

import structlog

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import EnvoyAddress, PipeAddress
from controlplane.errors import OutsideError

CONNECTED: Final = "control_plane.connected_state"
SECONDS_BETWEEN_LOOKS: Final = 1.0
SECONDS_OF_PATIENCE: Final = 2.0
SECONDS_TO_CONNECT: Final = 3.0

log = structlog.get_logger()


class ControlPlaneWatch:
    """Looks every second."""

    def __init__(self, admin: AdminClient, address: EnvoyAddress) -> None:
        self._admin = admin
        self._address = address
        self._said: bool | None = None  # whether we said that it is there; None: nothing yet
        self._since = time.monotonic()

    async def run(self) -> None:
        """Look, for ever; returns only by being cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def look(self) -> None:
        """Look once, and say what is new."""
        try:
            stats = await self._admin.stats(rf"^{CONNECTED}$")
        except OutsideError:
            # Without Envoy nothing can be said of its connection.
            self._since = time.monotonic()
            return
        if stats.get(CONNECTED, 0):
            if self._said is not True:
                log.info("control_plane_connected", address=str(self._address))
            self._said = True
            self._since = time.monotonic()
        elif self._said is not False and time.monotonic() - self._since >= SECONDS_OF_PATIENCE:
            reason = await reason_of(self._address)
            log.warning("control_plane_unreachable", address=str(self._address), reason=reason)
            self._said = False


async def reason_of(address: EnvoyAddress) -> str:
    """Return what happens when one connects to the address."""
    if isinstance(address, PipeAddress):
        connection = asyncio.open_unix_connection(address.path)
    else:
        connection = asyncio.open_connection(address.host, address.port)
    try:
        async with asyncio.timeout(SECONDS_TO_CONNECT):
            _, writer = await connection
    except TimeoutError:
        return f"it does not answer within {SECONDS_TO_CONNECT:g} s"
    except OSError as error:
        return what_failed(error)
    writer.close()
    return "it can be reached, but does not answer Envoy: it is starting, or not a control plane"


def what_failed(error: OSError) -> str:
    """The system's words for a failed connection, without Python's around them."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
