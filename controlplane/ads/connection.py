"""One gRPC stream: reads requests into the pusher, writes what it hands out.

Owns the tasks of a stream and nothing else. The rule that is easy to break: whatever way a
stream ends, it is disconnected exactly once and its writer is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from controlplane.ads.admission import LARGE, Flights
from controlplane.ads.classes import Stream
from controlplane.ads.name_lists import NameLists, RecentLists
from controlplane.ads.pusher import Pusher
from controlplane.ads.types import Close, Status
from controlplane.ads.wire import (
    DeltaRequest,
    Request,
    RequestError,
    decode_delta_request,
    decode_request,
)
from controlplane.errors import NodeError
from controlplane.model.proxy import Proxy

_STALL_LIMIT: Final = 60.0  # seconds in which a client has to take a response
_FIRST_REQUEST_LIMIT: Final = 30.0  # seconds
_CODES: Final = {
    Status.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Status.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Status.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class StreamError(Exception):
    """The stream is to be ended with a status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.code: Final = _CODES[status]
        self.message: Final = message


class Connection:
    """One stream from its first request to its end."""

    def __init__(
        self,
        context: Any,
        pusher: Pusher,
        flights: Flights,
        *,
        delta: bool,
        clock: Callable[[], float],
        lists: NameLists,
    ) -> None:
        self._context: Final = context
        self._pusher: Final = pusher
        self._flights: Final = flights
        self._delta: Final = delta
        self._clock: Final = clock
        self._recent: Final = RecentLists(lists)
        self._stream: Stream | None = None
        self._news: Final = asyncio.Event()
        self._ended: StreamError | None = None

    @property
    def known(self) -> bool:
        """Whether the stream got as far as having a proxy."""
        return self._stream is not None

    def end(self, status: Status, message: str) -> None:
        """Ask the writer to end the stream with a status."""
        self._ended = self._ended or StreamError(status, message)
        self._news.set()

    async def serve(self) -> str:
        """Serve the stream until the client leaves; return why it ended.

        Raises StreamError when a status is to be sent.
        """
        reason = "cancelled"
        try:
            reason = await self._serve()
        except StreamError as ended:
            reason = ended.message
            raise
        finally:
            if self._stream is not None:
                self._pusher.disconnect(self._stream, reason=reason)
        return reason

    async def _serve(self) -> str:
        try:
            async with asyncio.timeout(_FIRST_REQUEST_LIMIT):
                payload = await self._context.read()
        except TimeoutError:
            raise StreamError(Status.INVALID_ARGUMENT, "no request was sent") from None
        if payload is grpc.aio.EOF:
            return "closed before the first request"
        request, proxy = self._decode(payload, first=True)
        del payload  # tens of kilobytes, which would live as long as the stream
        if proxy is None:
            raise AssertionError("a first request has a node")
        self._stream = stream = self._pusher.connect(
            proxy, delta=self._delta, peer=self._context.peer(), wake=self._news.set
        )
        self._handle(stream, request)
        del request
        reader = asyncio.ensure_future(self._read(stream))
        writer = asyncio.ensure_future(self._write(stream))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, StreamError):
                raise result
        for result in results:
            if isinstance(result, Exception) and not _is_departure(result):
                raise result
        return "closed by the client"

    async def _read(self, stream: Stream) -> None:
        read = self._context.read
        while (payload := await read()) is not grpc.aio.EOF:
            request, _ = self._decode(payload, first=False)
            del payload
            self._handle(stream, request)
            del request  # the next one may be long in coming

    def _handle(self, stream: Stream, request: Request | DeltaRequest) -> None:
        effect = self._pusher.on_request(stream, request)
        if isinstance(effect, Close):
            raise StreamError(effect.status, effect.message)
        # Always look: an answer may let others go on, or the last use of something end.
        self._news.set()

    async def _write(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        write, take, news = self._context.write, self._pusher.take, self._news
        while True:
            news.clear()
            while self._ended is None and (send := take(stream)) is not None:
                await self._put(write, send.payload)
            if self._ended is not None:
                raise self._ended
            deadline = self._pusher.deadline(stream)
            if deadline is None:
                await news.wait()
                continue
            timer = loop.call_later(max(0.0, deadline - self._clock()), news.set)
            try:
                await news.wait()
            finally:
                timer.cancel()

    async def _put(self, write: Callable[[bytes], Any], payload: bytes) -> None:
        leave = await self._flights.enter() if len(payload) >= LARGE else None
        try:
            async with asyncio.timeout(_STALL_LIMIT):
                await write(payload)
        except TimeoutError:
            raise StreamError(
                Status.RESOURCE_EXHAUSTED, f"no response taken for {_STALL_LIMIT:.0f} s"
            ) from None
        finally:
            if leave is not None:
                leave()

    def _decode(
        self, payload: bytes, *, first: bool
    ) -> tuple[Request | DeltaRequest, Proxy | None]:
        try:
            if self._delta:
                return decode_delta_request(payload, first=first)
            return decode_request(payload, first=first, recent=self._recent)
        except (RequestError, NodeError) as error:
            raise StreamError(Status.INVALID_ARGUMENT, str(error)) from None


def _is_departure(error: Exception) -> bool:
    """Whether gRPC merely says that the client is gone."""
    return isinstance(error, grpc.RpcError | grpc.aio.UsageError | grpc.aio.InternalError)
