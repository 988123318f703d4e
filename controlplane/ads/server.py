"""The gRPC shell: both discovery RPCs, admission, readiness and draining.

The only place besides `connection` that knows gRPC. The rule that is easy to break: requests
and responses pass as raw bytes, so a response that a class shares is never serialised again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from controlplane.ads.admission import Flights, TokenBucket
from controlplane.ads.connection import Connection, StreamError
from controlplane.ads.name_lists import NameLists
from controlplane.ads.pusher import Pusher
from controlplane.ads.reporter import Reporter
from controlplane.ads.status import ServingStatus
from controlplane.ads.types import Status
from controlplane.ads.wire import DELTA_METHOD, SERVICE, SOTW_METHOD
from controlplane.errors import OutsideError

MAX_REQUEST: Final = 4 * 1024 * 1024  # bytes, as istiod
ADMITTED_PER_SECOND: Final = 400.0
# Seconds that a new stream waits for its turn. A client that is refused waits longer: its
# reconnecting is stretched each time, up to half a minute.
PATIENCE: Final = 10.0

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MAX_REQUEST),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 100_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
    ("grpc.so_reuseport", 0),  # a port in use must be an error, not a shared port
)


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
        self._flights: Final = Flights()
        self._lists: Final = NameLists()
        self._clock: Final = clock
        self._connections: dict[Connection, None] = {}
        self._server: Any = None
        self._draining = False
        self._pumping = False

    async def start(self, *addresses: str) -> tuple[int, ...]:
        """Listen on `HOST:PORT` (or `unix:PATH`) addresses and return the bound ports.

        Raises OutsideError when an address cannot be bound.
        """
        server = grpc.aio.server(options=list(_OPTIONS))
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        SOTW_METHOD: grpc.stream_stream_rpc_method_handler(
                            self._state_of_the_world
                        ),
                        DELTA_METHOD: grpc.stream_stream_rpc_method_handler(self._delta),
                    },
                ),
            )
        )
        ports: list[int] = []
        for address in addresses:
            try:
                port = server.add_insecure_port(address)
            except RuntimeError:
                port = 0
            if port == 0:
                raise OutsideError(f"the xDS address {address} cannot be bound")
            ports.append(port)
        await server.start()
        self._server = server
        self._pusher.defer = self._begin_pumping
        return tuple(ports)

    async def stop(self, grace: float) -> None:
        """Refuse new streams, end the live ones, and return after at most `grace` seconds."""
        self._draining = True
        for connection in tuple(self._connections):
            connection.end(Status.UNAVAILABLE, "the control plane is shutting down")
        if self._server is not None:
            await self._server.stop(grace)
        self._pusher.defer = None

    def status(self) -> ServingStatus:
        """Return everything about serving at this moment."""
        return self._pusher.status()

    # A publish returns at once; classes follow one per turn of the loop, with writes between.
    def _begin_pumping(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._pusher.pump():
            self._begin_pumping()

    async def _state_of_the_world(self, _: Any, context: Any) -> None:
        await self._serve(context, delta=False)

    async def _delta(self, _: Any, context: Any) -> None:
        await self._serve(context, delta=True)

    async def _serve(self, context: Any, *, delta: bool) -> None:
        try:
            await self._admit()
        except StreamError as ended:
            self._reporter.refused(context.peer(), reason=ended.message)
            await context.abort(ended.code, ended.message)
        connection = Connection(
            context,
            self._pusher,
            self._flights,
            delta=delta,
            clock=self._clock,
            lists=self._lists,
        )
        self._connections[connection] = None
        try:
            await connection.serve()
        except StreamError as ended:
            if not connection.known:
                self._reporter.refused(context.peer(), reason=ended.message)
            await context.abort(ended.code, ended.message)
        finally:
            self._connections.pop(connection, None)

    async def _admit(self) -> None:
        if self._draining:
            raise StreamError(Status.UNAVAILABLE, "the control plane is shutting down")
        if not self._ready():
            raise StreamError(Status.UNAVAILABLE, "the control plane has not read its sources yet")
        wait = self._bucket.reserve(self._patience)
        if wait is None:
            raise StreamError(Status.RESOURCE_EXHAUSTED, "too many new streams; try again")
        if not wait:
            return
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self._bucket.give_back()
            raise
        if self._draining:
            raise StreamError(Status.UNAVAILABLE, "the control plane is shutting down")
