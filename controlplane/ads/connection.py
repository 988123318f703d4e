"""One ADS stream: hands requests to the pusher, writes what it hands out.

Owns a stream from its admission to its end; there is no task, everything happens in callbacks.
The rule that is easy to break: whatever way a stream ends, it is disconnected exactly once, in
`on_end`, and everything it held or waited for is given back there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from controlplane.ads.admission import LARGE, Flight, Flights
from controlplane.ads.classes import Stream
from controlplane.ads.name_lists import NameLists, RecentLists
from controlplane.ads.pusher import Pusher
from controlplane.ads.reporter import Reporter
from controlplane.ads.turns import Turns
from controlplane.ads.types import Close, Send, Status
from controlplane.ads.wire import (
    Answers,
    DeltaRequest,
    Request,
    RequestError,
    decode_delta_request,
    decode_request,
)
from controlplane.errors import NodeError
from controlplane.model.proxy import Proxy
from controlplane.transport.headers import StatusCode
from controlplane.transport.stream import Call

_FIRST_REQUEST_LIMIT: Final = 30.0  # seconds
_NEW: Final = 8  # requests of a new stream: to ask for four types and to acknowledge them
_NEW_FOR: Final = 2.0  # seconds
_QUEUED: Final = 16  # requests that wait for a turn; who sends more is not to cost memory


class Common(NamedTuple):
    """What all streams of a server have in common. `clock` is the pusher's."""

    pusher: Pusher
    reporter: Reporter
    flights: Flights
    turns: Turns
    lists: NameLists
    answers: Answers
    clock: Callable[[], float]
    ended: Callable[[Connection, bool], None]
    """Called at the end of each stream with whether it was still waiting for its admission."""


class Connection:
    """One stream from its admission to its end."""

    __slots__ = (
        "_call", "_common", "_delta", "_ended", "_flight", "_left_new", "_making", "_more",
        "_old_at", "_recent", "_refusal", "_requests", "_room", "_stream", "_timer", "_unadmitted",
        "_waiting", "awake",
    )  # fmt: skip

    def __init__(
        self, call: Call, common: Common, *, delta: bool, wait: float, refusal: Close | None
    ) -> None:
        """`wait` is in how many seconds the stream is admitted.

        `refusal` is what its first request is answered with then: a client that is refused before
        it has said anything may take that for an error of its own.
        """
        self._call: Final = call
        self._common: Final = common
        self._delta: Final = delta
        self._refusal = refusal
        self._recent: Final = RecentLists(common.lists)
        self._stream: Stream | None = None
        self._unadmitted = bool(wait)
        self._left_new = _NEW  # requests until the stream is an old one
        self._old_at = 0.0  # and the time
        self._requests: list[bytes] = []  # of a stream that defers, to be taken in its turn
        self._waiting: Send | None = None  # a response that waits to be written
        self._making = 0.0  # seconds that making it took
        self._more = False  # whether there may be another one after it
        self._flight: Flight | None = None
        self._room = True
        self._ended = False
        self.awake = False
        self._timer: asyncio.TimerHandle | None = None
        if wait:
            call.hold()
            self._wait(wait, self._admitted)
        else:
            self._wait(_FIRST_REQUEST_LIMIT, self._is_silent)

    @property
    def defers(self) -> bool:
        """Whether others are served first: it is new, or rejects what it is sent.

        A client that comes and goes is always new, and takes as much as all others together.
        """
        stream = self._stream
        if self._left_new or stream is None:
            return True
        if self._old_at:
            if self._common.clock() < self._old_at:
                return True
            self._old_at = 0.0
        return stream.session.rejects

    def end(self, status: Status, message: str) -> None:
        """End the stream with a status."""
        if self._stream is None:
            self._common.reporter.refused(self._call.peer, reason=message)
        self._call.end(StatusCode[status.value], message)

    # --- called by the transport ----------------------------------------------------------

    def on_message(self, payload: bytes) -> None:
        """Take a request."""
        try:
            if self._refusal is not None and not self._unadmitted:
                self.end(self._refusal.status, self._refusal.message)
            elif self._left_new or self._requests or self.defers:
                self._requests.append(payload)
                if len(self._requests) > _QUEUED and not self._unadmitted:
                    self._take_queued()
                elif not self._unadmitted:
                    self.wake()
            else:
                self._take(payload)
        except Exception as error:  # noqa: BLE001  # whatever it is, only this stream ends
            self._fail(error)

    def on_half_close(self) -> None:
        """A client that asks no more is a client that leaves."""
        self._call.end(StatusCode.OK)

    def on_writable(self) -> None:
        """The last response is gone."""
        self._room = True
        self._leave_flight()
        self.wake()

    def on_end(self, reason: str) -> None:
        """Give everything back."""
        common, self._ended, self._room = self._common, True, False
        self._cancel_timer()
        self._leave_flight()
        common.flights.forget(self._on_flight)
        common.ended(self, self._unadmitted)
        stream, self._stream = self._stream, None  # else they would hold each other
        if stream is not None:
            common.pusher.disconnect(stream, reason=reason)

    # --- requests -------------------------------------------------------------------------

    def admit(self, wait: float, refusal: Close | None) -> None:
        """Decide otherwise about a stream that still waits for its admission."""
        self._refusal = refusal
        self._cancel_timer()
        self._wait(wait, self._admitted)

    def _admitted(self) -> None:
        self._unadmitted = False
        if self._refusal is not None and self._requests:
            self.end(self._refusal.status, self._refusal.message)
            return
        self._wait(_FIRST_REQUEST_LIMIT, self._is_silent)
        self._call.resume()
        self.wake()

    def _is_silent(self) -> None:
        self.end(Status.INVALID_ARGUMENT, "no request was sent")

    def _take(self, payload: bytes) -> None:
        try:
            request, proxy = self._decode(payload)
        except (RequestError, NodeError) as error:
            self.end(Status.INVALID_ARGUMENT, str(error))
            return
        pusher = self._common.pusher
        if self._stream is None:
            if proxy is None:
                raise AssertionError("a first request has a node")
            self._cancel_timer()
            self._old_at = self._common.clock() + _NEW_FOR
            self._stream = pusher.connect(
                proxy, delta=self._delta, peer=self._call.peer, wake=self.wake
            )
        effect = pusher.on_request(self._stream, request)
        if isinstance(effect, Close):
            self.end(effect.status, effect.message)
        elif not pusher.idle(self._stream):
            # An answer may let others go on, or the last use of something end.
            self.wake()

    def _take_queued(self) -> None:
        requests, self._requests = self._requests, []
        for payload in requests:
            if self._ended:
                return
            self._left_new = max(0, self._left_new - 1)
            self._take(payload)

    def _decode(self, payload: bytes) -> tuple[Request | DeltaRequest, Proxy | None]:
        first, answers = self._stream is None, self._common.answers
        if self._delta:
            return decode_delta_request(payload, first=first, answers=answers)
        return decode_request(payload, first=first, recent=self._recent, answers=answers)

    # --- responses ------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something to do."""
        self._common.turns.wake(self)

    def work(self) -> int:
        """Take the requests of a new stream and the next response; return its size in bytes."""
        try:
            self._take_queued()
            return self._prepare()
        except Exception as error:  # noqa: BLE001  # whatever it is, only this stream ends
            self._fail(error)
            return 0

    def write(self) -> None:
        """Write the response that was taken."""
        try:
            self._write()
        except Exception as error:  # noqa: BLE001  # whatever it is, only this stream ends
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        stream = self._stream
        name = self._call.peer if stream is None else stream.connection
        self._common.reporter.failed(name, error)
        self._call.end(StatusCode.INTERNAL, "an error of the control plane")

    def _prepare(self) -> int:
        stream = self._stream
        if stream is None or not self._room:
            return 0
        send = self._waiting
        if send is not None:
            self._more = True  # whatever woke it while it waited
            return len(send.payload)
        common = self._common
        began = common.clock()
        send = common.pusher.take(stream)
        if send is None:
            self._look_again_at(common.pusher.deadline(stream))
            return 0
        self._making = common.clock() - began
        self._waiting, self._more = send, not common.pusher.idle(stream)
        return len(send.payload)

    def _write(self) -> None:
        common, send = self._common, self._waiting
        if send is None or not self._room:
            return  # the stream has ended meanwhile
        large = len(send.payload) >= LARGE
        if large and self._flight is None and not common.flights.has_room(self._on_flight):
            return
        self._waiting = None
        began = common.clock()
        room = self._call.send(send.payload)
        common.reporter.written(send, making=self._making, writing=common.clock() - began)
        if not room:
            self._room = False
            if large and not self._ended:
                self._flight = self._flight or common.flights.enter()
                self._flight.linger()
            return
        self._leave_flight()
        if self._more:
            self.wake()

    def _on_flight(self, flight: Flight) -> None:
        self._flight = flight
        flight.linger()  # the turn of a stream that defers to others may be far away
        self.wake()

    def _leave_flight(self) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.leave()

    def _look_again_at(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._cancel_timer()
        if deadline is not None:
            self._wait(max(0.0, deadline - self._common.clock()), self.wake)

    # --- time -----------------------------------------------------------------------------

    def _wait(self, seconds: float, action: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, action)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
