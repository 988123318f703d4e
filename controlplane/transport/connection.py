"""The server's side of one HTTP/2 connection, without input and output (RFC 9113).

Bytes come in by `receive` and go out by `outgoing`; time passes by `tick`. Owns what frames mean,
the streams, and the windows of the peer; what a frame means to a call is told to the call's
handler. Whatever a peer sends, the worst that happens is that the connection ends with a GOAWAY
that says why.

What a peer can make the server hold is bounded: unfinished messages, header blocks, and control
frames that it does not read. Frames that bring nothing (pings, settings, resets, empty ones) may
come in bursts but not for ever. The rule that is easy to break: a padded byte counts for the
windows, and so does a byte for a stream that is gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from controlplane.transport import frames
from controlplane.transport.frames import ErrorCode, ProtocolError
from controlplane.transport.headers import (
    RESPONSE,
    MalformedError,
    Refusal,
    StatusCode,
    read_request,
    trailers,
    trailers_only,
)
from controlplane.transport.incoming import Fields, Incoming
from controlplane.transport.limits import (
    CONNECTION_WINDOW,
    HEADER_BLOCK,
    HELD,
    STALLED,
    STREAM_WINDOW,
    STREAMS,
    UNREAD,
    Fruitless,
    Silence,
)
from controlplane.transport.messages import Buffer, MessageError, Outgoing, Plans
from controlplane.transport.outbox import OUR_FRAME_SIZE, Outbox
from controlplane.transport.repeats import Carried, Repeats
from controlplane.transport.stream import Serve, Stream

_PING: Final = b"keepaliv"
_SETTINGS: Final = {
    frames.MAX_CONCURRENT_STREAMS: STREAMS,
    frames.MAX_HEADER_LIST_SIZE: HEADER_BLOCK,
}


class ServerConnection:
    """One connection. `flush` is called when there may be something in `outgoing`.

    `blocked` is set by the owner of the socket while that takes nothing, and `failed` is why the
    connection has to be closed once everything is written.
    """

    __slots__ = (
        "_allowance", "_clock", "_draining", "_flush", "_fruitless", "_held", "_incoming", "_last",
        "_outbox", "_services", "_silence", "_streams", "_waiting", "blocked", "failed", "peer",
    )  # fmt: skip

    def __init__(
        self,
        services: Mapping[str, Serve],
        *,
        peer: str,
        flush: Callable[[], None],
        clock: Callable[[], float],
        plans: Plans,
        repeats: Repeats,
    ) -> None:
        """`services` serve calls by path, `clock` is monotonic, in seconds."""
        self._services: Final = services
        self.peer: Final = peer
        self._flush: Final = flush
        self._clock: Final = clock
        self._fruitless: Final = Fruitless(clock)
        self._silence: Final = Silence(clock())
        self._incoming: Final = Incoming(repeats)
        self._outbox: Final = Outbox(plans)
        self._streams: Final[dict[int, Stream]] = {}
        self._waiting: Final[dict[Stream, None]] = {}  # to be told when they can send again
        self._last = 0  # the newest stream of the peer
        self._allowance = CONNECTION_WINDOW  # what the peer may send
        self._held = 0
        self._draining = False
        self.blocked = False
        self.failed: str | None = None
        self._outbox.say(frames.settings(_SETTINGS))
        self._outbox.say(frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    @property
    def finished(self) -> bool:
        """Whether the connection is of no more use and can be closed."""
        return self.failed is not None or (self._draining and not self._streams)

    # --- what calls do --------------------------------------------------------------------

    def send(self, stream: Stream, payload: bytes) -> bool:
        """Send a message on a stream; return whether the next one may be sent at once."""
        if stream.ended:
            return False
        if stream.outgoing is not None:
            raise AssertionError("a message is sent while another one is under way")
        if not stream.begun:
            stream.begun = True
            block = frames.frame(frames.HEADERS, frames.END_HEADERS, stream.number, RESPONSE)
            self._outbox.say(block)
        stream.outgoing = Outgoing(payload, self._clock())
        self._outbox.put(stream)
        self._flush()
        if stream.outgoing is None and not self.blocked:
            return True
        if not stream.ended:
            self._waiting[stream] = None
        return False

    def end(self, stream: Stream, code: StatusCode, message: str) -> None:
        """End a stream with a status."""
        if stream.ended:
            return
        block = trailers(code, message) if stream.begun else trailers_only(code, message)
        flags = frames.END_HEADERS | frames.END_STREAM
        self._outbox.say(frames.frame(frames.HEADERS, flags, stream.number, block))
        # The client need not send the rest of what it had to say.
        self._outbox.say(frames.rst_stream(stream.number, ErrorCode.NO_ERROR))
        fruitless = not stream.begun
        self._remove(stream, message or code.name.lower())
        if fruitless and self.failed is None:
            self._spend()
        self._flush()

    def resume(self, stream: Stream) -> None:
        """Take everything on a stream again."""
        self._replenish(stream)
        self._flush()

    def _replenish(self, stream: Stream) -> None:
        """Give the client back what it sent on a stream, once that is worth a frame."""
        room = STREAM_WINDOW - stream.allowance
        if room >= STREAM_WINDOW // 2 and not stream.holding and not stream.ended:
            stream.allowance += room
            self._outbox.say(frames.window_update(stream.number, room))

    # --- what the owner of the socket does ------------------------------------------------

    def outgoing(self) -> list[Buffer]:
        """Return what to write next, all of which has to be written in this order."""
        return self._outbox.take()

    def tell_writable(self) -> bool:
        """Tell handlers that wait that they can send; return whether there were any."""
        if not self._waiting:
            return False
        free = [stream for stream in self._waiting if stream.outgoing is None]
        for stream in free:
            if self._waiting.pop(stream, self) is None and stream.handler is not None:
                stream.handler.on_writable()
        return bool(free)

    def drain(self) -> None:
        """Take no more streams; the connection is finished when the present ones are."""
        if not self._draining and self.failed is None:
            self._draining = True
            self._outbox.say(frames.goaway(self._last, ErrorCode.NO_ERROR))
            self._flush()

    def lost(self, reason: str) -> None:
        """The socket is gone: end everything."""
        self.failed = self.failed or reason
        for stream in tuple(self._streams.values()):
            self._remove(stream, reason)

    def tick(self) -> None:
        """Let time pass; to be called about once a second."""
        now = self._clock()
        if self.failed is not None:
            return
        reason = self._silence.passes(now, settled=self._incoming.settled)
        if reason is not None:
            code = ErrorCode.NO_ERROR if self._incoming.settled else ErrorCode.PROTOCOL_ERROR
            self._fail(code, reason)
        elif self._silence.asked_at == now:
            self._outbox.say(frames.frame(frames.PING, 0, 0, _PING))
        for stream in tuple(self._streams.values()):
            message = stream.outgoing
            if message is not None and now - message.since >= STALLED:
                self.end(
                    stream,
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"no response taken for {STALLED:.0f} s",
                )
        self._flush_if_needed()

    def receive(self, data: memoryview) -> None:
        """Take bytes from the peer."""
        if self.failed is not None:
            return
        self._silence.heard = True
        try:
            self._incoming.receive(data, self)
        except ProtocolError as error:
            self._fail(error.code, error.message)
        self._flush_if_needed()

    def _flush_if_needed(self) -> None:
        outbox = self._outbox
        if outbox.control or outbox.ready or self._waiting or self._draining:
            self._flush()

    # --- frames ---------------------------------------------------------------------------

    def on_frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        """Take a well-formed frame that is neither DATA nor of a header block."""
        match kind:
            case frames.WINDOW_UPDATE:
                self._on_window_update(number, payload)
            case frames.SETTINGS:
                self._on_settings(flags, payload)
            case frames.PING:
                self._on_ping(flags, payload)
            case frames.RST_STREAM:
                self._on_rst_stream(number)
            case frames.GOAWAY:
                self.drain()
            case _:
                self._spend()  # priorities and extensions are to be ignored

    def on_data(self, number: int, carried: Carried, *, last: bool) -> None:
        """Take what frames carried."""
        pieces, size = carried.pieces, carried.size
        stream = self._streams.get(number)
        if stream is None:
            self._must_exist(number)
        self._allowance -= size
        if self._allowance <= CONNECTION_WINDOW // 2:
            if self._allowance < 0:
                text = "more than the connection's window"
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, text)
            room = CONNECTION_WINDOW - self._allowance
            self._allowance += room
            self._outbox.say(frames.window_update(0, room))
        if stream is None:
            for _ in pieces:
                self._spend()  # it was ended when this was under way
            return
        stream.allowance -= size
        if stream.allowance < 0:
            self._reset(stream, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
            return
        message = stream.assembler.whole(carried)
        if message is not None:
            if stream.handler is not None:
                stream.handler.on_message(message)
        elif len(pieces[0]):
            self._feed(stream, pieces)
        elif not last:
            self._spend()
        if last:
            self._half_closed(stream)
        elif stream.allowance <= STREAM_WINDOW // 2:
            self._replenish(stream)

    def _feed(self, stream: Stream, pieces: Sequence[memoryview]) -> None:
        assembler = stream.assembler
        before = assembler.held
        try:
            for message in itertools.chain.from_iterable(map(assembler.feed, pieces)):
                if stream.handler is not None:
                    stream.handler.on_message(message)
                if stream.ended:
                    break
        except MessageError as error:
            self.end(stream, error.code, error.message)
        self._held += assembler.held - before
        if self._held > HELD and not stream.ended:
            self.end(stream, StatusCode.RESOURCE_EXHAUSTED, "too many unfinished messages")

    def _half_closed(self, stream: Stream) -> None:
        if stream.ended:
            return
        if stream.assembler.held:
            self.end(stream, StatusCode.INTERNAL, "the last message is not complete")
        elif stream.handler is not None:
            stream.handler.on_half_close()

    def on_headers(self, number: int, fields: Fields, *, last: bool) -> None:
        """Take a header block: a new call, or the end of what a client has to say."""
        if number <= self._last:
            self._on_trailers(number, last=last)
            return
        self._last = number
        if self._draining:
            return  # the GOAWAY has said so
        if len(self._streams) >= STREAMS:
            self._outbox.say(frames.rst_stream(number, ErrorCode.REFUSED_STREAM))
            self._spend()
            return
        try:
            request = read_request(fields)
        except MalformedError:
            self._outbox.say(frames.rst_stream(number, ErrorCode.PROTOCOL_ERROR))
            self._spend()
            return
        if isinstance(request, Refusal):
            self._refuse(number, request.block)
            return
        serve = self._services.get(request)
        if serve is None:
            text = f"there is no method {request}"
            self._refuse(number, trailers_only(StatusCode.UNIMPLEMENTED, text))
            return
        self._open(number, serve, half_closed=last)

    def _open(self, number: int, serve: Serve, *, half_closed: bool) -> None:
        stream = Stream(
            self, number, window=self._outbox.initial_window, allowance=frames.DEFAULT_WINDOW
        )
        self._streams[number] = stream
        stream.handler = serve(stream)
        self._replenish(stream)
        if half_closed:
            self._half_closed(stream)

    def _refuse(self, number: int, block: bytes) -> None:
        flags = frames.END_HEADERS | frames.END_STREAM
        self._outbox.say(frames.frame(frames.HEADERS, flags, number, block))
        self._outbox.say(frames.rst_stream(number, ErrorCode.NO_ERROR))
        self._spend()

    def _on_trailers(self, number: int, *, last: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self._spend()
        elif last:
            self._half_closed(stream)
        else:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR, "headers in the middle of a stream")

    def _on_rst_stream(self, number: int) -> None:
        self._must_exist(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._remove(stream, "cancelled by the client")
        self._spend()

    def _on_settings(self, flags: int, payload: memoryview) -> None:
        if flags & frames.ACK:
            return
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                self._outbox.set_initial_window(value, self._streams.values())
            elif key == frames.MAX_FRAME_SIZE:
                self._outbox.frame_size = min(value, OUR_FRAME_SIZE)
        if self._incoming.settled:
            self._spend()
        self._incoming.settled = True
        self._outbox.say(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _on_ping(self, flags: int, payload: memoryview) -> None:
        self._spend()
        if not flags & frames.ACK:
            self._outbox.say(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))

    def _on_window_update(self, number: int, payload: memoryview) -> None:
        size = int.from_bytes(payload, "big") & frames.MASK
        if not number:
            if not size:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a window that does not change")
            self._outbox.widen_all(size)
            return
        self._must_exist(number)
        stream = self._streams.get(number)
        if stream is None:
            return
        if not size:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR, "a window that does not change")
        elif stream.window + size > frames.LARGEST_WINDOW:
            self._reset(stream, ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")
        else:
            self._outbox.widen(stream, size)

    # --- ends and limits ------------------------------------------------------------------

    def _must_exist(self, number: int) -> None:
        """Whether a stream was ever opened."""
        if not number % 2 or number > self._last:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that is idle")

    def _reset(self, stream: Stream, code: ErrorCode, message: str) -> None:
        self._outbox.say(frames.rst_stream(stream.number, code))
        self._remove(stream, message)
        self._spend()

    def _remove(self, stream: Stream, reason: str) -> None:
        if self._streams.pop(stream.number, None) is None:
            return
        stream.ended = True
        self._outbox.drop(stream)
        self._waiting.pop(stream, None)
        self._held -= stream.assembler.held
        handler, stream.handler = stream.handler, None
        if handler is not None:
            handler.on_end(reason)

    def _spend(self) -> None:
        """Count something that brings nothing; end the connection when there is no end of it."""
        unread = self.blocked and len(self._outbox.control) > UNREAD
        if self._fruitless.spend() or unread:
            self._fail(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _fail(self, code: ErrorCode, message: str) -> None:
        if self.failed is not None:
            return
        self._outbox.say(frames.goaway(self._last, code, message))
        self.lost(message)
