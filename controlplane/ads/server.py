"""Both discovery RPCs, admission, readiness and draining.

The only place besides `connection` that knows the transport. The rule that is easy to break:
requests and responses pass as raw bytes, so a response that a class shares is never serialised
again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from controlplane.ads.admission import Flights, TokenBucket
from controlplane.ads.connection import Common, Connection
from controlplane.ads.name_lists import NameLists
from controlplane.ads.pusher import Pusher
from controlplane.ads.reporter import Reporter
from controlplane.ads.status import ServingStatus
from controlplane.ads.turns import Turns
from controlplane.ads.types import Close, Status
from controlplane.ads.wire import DELTA_METHOD, SERVICE, SOTW_METHOD, Answers
from controlplane.transport.server import GrpcServer
from controlplane.transport.stream import Call

ADMITTED_PER_SECOND: Final = 400.0
# Seconds that a new stream waits for its turn. A client that is refused waits longer: its
# reconnecting is stretched each time, up to half a minute.
PATIENCE: Final = 10.0
# Seconds that a new stream waits for sources that are still being read. After a restart that is
# all they need, and nobody's reconnecting is stretched.
READING_PATIENCE: Final = 2.0

_PUMPED: Final = 0.005  # seconds at a time, before streams work: classes have much in common
_SPREAD: Final = 0.8
"""The part of the time to stop in which streams are ended; the rest is for their last words."""
_LONGEST_PAUSE: Final = 0.05  # seconds: a few streams do not need the whole time
_SHUTTING_DOWN: Final = "the control plane is shutting down"
_NOT_READY: Final = Close(Status.UNAVAILABLE, "the control plane has not read its sources yet")


class AdsServer:
    """Serves xDS over gRPC. All methods belong to the event loop that called `start`."""

    def __init__(
        self,
        pusher: Pusher,
        *,
        ready: Callable[[], bool],
        reporter: Reporter | None = None,
        admitted_per_second: float = ADMITTED_PER_SECOND,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is the pusher's monotonic clock; `reporter` hears of refused streams.

        A new stream that would have to wait longer than `patience` seconds is refused.
        """
        self._pusher: Final = pusher
        self._ready: Final = ready
        self._reporter: Final = reporter or Reporter()
        self._bucket: Final = TokenBucket(admitted_per_second, clock)
        self._patience: Final = patience
        self._common: Final = Common(
            pusher=pusher,
            reporter=self._reporter,
            flights=Flights(),
            turns=Turns(self._pump),
            lists=NameLists(),
            answers=Answers(),
            clock=clock,
            ended=self._ended,
        )
        self._connections: Final[dict[Connection, None]] = {}
        self._early: Final[dict[Connection, None]] = {}  # came before the sources were read
        self._server: Final = GrpcServer(
            {
                f"/{SERVICE}/{SOTW_METHOD}": partial(self._open, delta=False),
                f"/{SERVICE}/{DELTA_METHOD}": partial(self._open, delta=True),
            },
            clock=clock,
        )
        self._draining = False

    async def start(self, *addresses: str) -> tuple[int, ...]:
        """Listen on `HOST:PORT` (or `unix:PATH`) addresses and return the bound ports.

        Raises OutsideError when an address cannot be bound.
        """
        ports = await self._server.start(*addresses)
        self._pusher.defer = self._common.turns.continue_waking
        return ports

    async def stop(self, duration: float) -> None:
        """Refuse new streams, end the live ones, and return after at most `duration` seconds.

        They end one after the other, so that their clients do not all come to the other replicas
        at the same moment.
        """
        self._draining = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = tuple(self._connections)
        pause = min(_LONGEST_PAUSE, duration * _SPREAD / max(1, len(waiting)))
        for number, connection in enumerate(waiting):
            await asyncio.sleep(max(0.0, began + number * pause - loop.time()))
            if connection in self._connections:
                connection.end(Status.UNAVAILABLE, _SHUTTING_DOWN)
        await self._server.stop(max(0.0, began + duration - loop.time()))
        self._pusher.defer = None

    def status(self) -> ServingStatus:
        """Return everything about serving at this moment."""
        return self._pusher.status()

    def _pump(self) -> bool:
        """Bring some classes up to date; return whether there are others."""
        if self._early and self._ready():
            early = tuple(self._early)
            self._early.clear()
            for connection in early:
                wait, refusal = self._admission()
                connection.admit(wait, refusal)
        end = time.monotonic() + _PUMPED
        more = True
        while more and time.monotonic() < end:
            try:
                more = self._pusher.pump()
            except Exception as error:  # noqa: BLE001  # one class must not keep others from theirs
                self._reporter.failed("", error)
        return more

    def _open(self, call: Call, *, delta: bool) -> Connection:
        early = not self._draining and not self._ready()
        wait, refusal = (READING_PATIENCE, _NOT_READY) if early else self._admission()
        connection = Connection(call, self._common, delta=delta, wait=wait, refusal=refusal)
        self._connections[connection] = None
        if early:
            self._early[connection] = None
        return connection

    def _admission(self) -> tuple[float, Close | None]:
        """Return in how many seconds a new stream is admitted, or what it is refused with."""
        if self._draining:
            return 0.0, Close(Status.UNAVAILABLE, _SHUTTING_DOWN)
        wait = self._bucket.reserve(self._patience)
        if wait is None:
            return 0.0, Close(Status.RESOURCE_EXHAUSTED, "too many new streams; try again")
        return wait, None

    def _ended(self, connection: Connection, waiting: bool) -> None:
        del self._connections[connection]
        if connection in self._early:
            del self._early[connection]  # it has taken no token yet
        elif waiting:
            self._bucket.give_back()  # others shall not wait for one that left before its turn
