"""How long an HTTP connection may hold on to a file descriptor without asking anything.

Whoever opens connections and never finishes a request would otherwise use up the descriptors that
the xDS streams need. Must not know what is served. The rule that is easy to break: a request that
is being answered is never cut off, however long the answer takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

FIRST_REQUEST: Final = 10.0  # seconds for the first request to be there, complete
NEXT_REQUEST: Final = 60.0  # seconds between the requests of a connection
MOST_CONNECTIONS: Final = 256
_LOOK: Final = 0.5

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Patience:
    """Watches the connections of one listener."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._deadlines: dict[RequestHandler, float] = {}
        self._busy: dict[RequestHandler, int] = {}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note which connections are being answered."""
        connection = request.protocol
        self._busy[connection] = self._busy.get(connection, 0) + 1
        try:
            return await handler(request)
        finally:
            left = self._busy.pop(connection) - 1
            if left:
                self._busy[connection] = left
            self._deadlines[connection] = self._clock() + NEXT_REQUEST

    async def watch(self, runner: web.AppRunner) -> None:
        """Close what asks nothing, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            if runner.server is not None:
                self.look(runner.server)

    def look(self, server: web.Server) -> None:
        """Close the connections whose time is over, and the oldest idle ones over the limit."""
        now = self._clock()
        connections = server.connections
        self._deadlines = {
            item: self._deadlines.get(item, now + FIRST_REQUEST) for item in connections
        }
        idle = sorted(
            (item for item in connections if item not in self._busy),
            key=self._deadlines.__getitem__,
        )
        surplus = len(connections) - MOST_CONNECTIONS
        for rank, connection in enumerate(idle):
            if self._deadlines[connection] <= now or rank < surplus:
                connection.force_close()
