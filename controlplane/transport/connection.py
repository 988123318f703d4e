"""The server's side of one HTTP/2 connection, without input and output (RFC 9113).

Bytes come in by `receive` and go out by `outgoing`; time passes by `tick`. Owns frames, windows
and limits; what a frame means to a call is told to the call's handler. Whatever a peer sends,
the worst that happens is that the connection ends with a GOAWAY that says why.

What a peer can make the server hold is bounded: unfinished messages, header blocks, and control
frames that it does not read. Frames that bring nothing (pings, settings, resets, empty ones) may
come in bursts but not for ever. The rule that is easy to break: a padded byte counts for the
windows, and so does a byte for a stream that is gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import hpack

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
from controlplane.transport.messages import Buffer, MessageError, Outgoing, Plans
from controlplane.transport.stream import Serve, Stream

STREAMS: Final = 10_000  # at once on one connection
STREAM_WINDOW: Final = 1024 * 1024
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
HELD: Final = 64 * 1024 * 1024  # bytes of unfinished messages on one connection
HEADER_BLOCK: Final = 16 * 1024  # bytes, as many as gRPC takes by default
HEADER_FRAMES: Final = 64
UNREAD: Final = 64 * 1024  # bytes of control frames that the peer does not read
FRUITLESS: Final = 2_000  # frames that bring nothing, in one burst
FRUITLESS_PER_SECOND: Final = 100.0
OUR_FRAME_SIZE: Final = 256 * 1024  # larger frames are not sent, whatever the peer allows
TURN: Final = 64 * 1024  # bytes of one stream before the next one's turn comes
BATCH: Final = 1024 * 1024  # bytes that are handed out at once, about

OPENED_WITHIN: Final = 10.0  # seconds for the preface
QUIET: Final = 30.0  # seconds after which a ping asks whether the peer is still there
ANSWERED_WITHIN: Final = 10.0  # seconds for the answer
STALLED: Final = 60.0  # seconds in which a client has to take a response

_PING: Final = b"keepaliv"


class ServerConnection:
    """One connection. `flush` is called when there may be something in `outgoing`.

    `blocked` is set by the owner of the socket while that takes nothing, and `failed` is why the
    connection has to be closed once everything is written.
    """

    __slots__ = (
        "_allowance",
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_stream",
        "_clock",
        "_control",
        "_decoder",
        "_draining",
        "_flush",
        "_frame_size",
        "_fruitless",
        "_fruitless_at",
        "_heard",
        "_held",
        "_initial_window",
        "_last",
        "_needed",
        "_opened_at",
        "_partial",
        "_pinged_at",
        "_plans",
        "_quiet_since",
        "_ready",
        "_services",
        "_settled",
        "_started",
        "_streams",
        "_waiting",
        "_window",
        "blocked",
        "failed",
        "peer",
    )  # fmt: skip

    def __init__(
        self,
        services: Mapping[str, Serve],
        *,
        peer: str,
        flush: Callable[[], None],
        clock: Callable[[], float],
        plans: Plans,
    ) -> None:
        """`services` serve calls by path, `clock` is monotonic, in seconds."""
        self._services: Final = services
        self.peer: Final = peer
        self._flush: Final = flush
        self._clock: Final = clock
        self._plans: Final = plans
        self._decoder: Final = hpack.Decoder(HEADER_BLOCK)
        self._streams: Final[dict[int, Stream]] = {}
        self._ready: Final[dict[Stream, None]] = {}  # with something to send and a window for it
        self._waiting: Final[dict[Stream, None]] = {}  # to be told when they can send again
        self._control = bytearray()
        self._partial = bytearray()  # of a frame that is not complete
        self._needed = 0  # bytes of it before it is worth to be looked at
        self._started = self._settled = False  # whether the preface, the first settings came
        self._block: bytearray | None = None  # a header block that is not complete
        self._block_stream = self._block_flags = self._block_frames = 0
        self._last = 0  # the newest stream of the peer
        self._frame_size = frames.FRAME_SIZE
        self._initial_window = frames.DEFAULT_WINDOW
        self._window = frames.DEFAULT_WINDOW  # what we may send
        self._allowance = CONNECTION_WINDOW  # what the peer may send
        self._held = 0
        now = clock()
        self._fruitless, self._fruitless_at = float(FRUITLESS), now
        self._opened_at = self._quiet_since = now
        self._pinged_at: float | None = None
        self._heard = self._draining = False
        self.blocked = False
        self.failed: str | None = None
        self._control += frames.settings(
            {
                frames.MAX_CONCURRENT_STREAMS: STREAMS,
                frames.MAX_HEADER_LIST_SIZE: HEADER_BLOCK,
            }
        )
        self._control += frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)

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
            self._control += frames.frame(
                frames.HEADERS, frames.END_HEADERS, stream.number, RESPONSE
            )
        stream.outgoing = Outgoing(payload, self._clock())
        if stream.window > 0:
            self._ready[stream] = None
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
        self._control += frames.frame(frames.HEADERS, flags, stream.number, block)
        # The client need not send the rest of what it had to say.
        self._control += frames.rst_stream(stream.number, ErrorCode.NO_ERROR)
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
            self._control += frames.window_update(stream.number, room)

    # --- what the owner of the socket does ------------------------------------------------

    def outgoing(self) -> list[Buffer]:
        """Return what to write next, all of which has to be written in this order."""
        buffers: list[Buffer] = []
        if not self._control and not self._ready:
            return buffers
        if self._control:
            buffers.append(bytes(self._control))
            self._control.clear()
        ready, size = self._ready, 0
        while ready and size < BATCH and self._window > 0:
            stream = next(iter(ready))
            message = stream.outgoing
            if message is None:
                raise AssertionError("a stream without a message is not ready")
            limit = min(self._window, stream.window)
            if len(ready) > 1:
                limit = min(limit, TURN)
            cut = message.cut(
                buffers,
                stream=stream.number,
                limit=limit,
                frame_size=self._frame_size,
                plans=self._plans,
            )
            size += cut
            self._window -= cut
            stream.window -= cut
            del ready[stream]
            if not message.left:
                stream.outgoing = None
            elif stream.window > 0:
                ready[stream] = None  # at the end of the queue
        return buffers

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
            self._control += frames.goaway(self._last, ErrorCode.NO_ERROR)
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
        if not self._settled and now - self._opened_at >= OPENED_WITHIN:
            self._fail(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 settings came in time")
            self._flush()
            return
        if self._heard:
            self._heard, self._quiet_since, self._pinged_at = False, now, None
        elif self._pinged_at is not None:
            if now - self._pinged_at >= ANSWERED_WITHIN:
                self._fail(ErrorCode.NO_ERROR, "the client does not answer")
                self._flush()
                return
        elif now - self._quiet_since >= QUIET:
            self._pinged_at = now
            self._control += frames.frame(frames.PING, 0, 0, _PING)
        for stream in tuple(self._streams.values()):
            message = stream.outgoing
            if message is not None and now - message.since >= STALLED:
                self.end(
                    stream,
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"no response taken for {STALLED:.0f} s",
                )
        self._flush()

    def receive(self, data: memoryview) -> None:
        """Take bytes from the peer."""
        if self.failed is not None:
            return
        self._heard = True
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data, self._partial = memoryview(self._partial), bytearray()
        try:
            self._receive(data)
        except ProtocolError as error:
            self._fail(error.code, error.message)
        if self._control or self._ready or self._waiting or self._draining:
            self._flush()

    # --- frames ---------------------------------------------------------------------------

    def _receive(self, data: memoryview) -> None:
        position, end = 0, len(data)
        if not self._started:
            size = len(frames.PREFACE)
            if bytes(data[:size]) != frames.PREFACE[:end]:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 client")
            if end < size:
                self._partial += data
                self._needed = 0  # what is wrong is to be seen at once
                return
            self._started = True
            position = size
        while end - position >= frames.HEADER_SIZE:
            high, low, kind, flags, number = frames.HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size > frames.FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + frames.HEADER_SIZE
            if start + size > end:
                break
            position = start + size
            number &= frames.MASK
            if self._block is not None or not self._settled:
                self._must_be_due(kind, flags)
            if kind != frames.DATA:
                self._frame(kind, flags, number, data[start:position])
            elif flags:
                data_of = frames.without_padding(flags, data[start:position])
                self._on_data(number, (data_of,), size, last=bool(flags & frames.END_STREAM))
            else:
                pieces = [data[start:position]]
                if position < end and size:
                    position = frames.following_data(pieces, data, position, number)
                    size = sum(map(len, pieces))
                self._on_data(number, pieces, size, last=False)
            if self.failed is not None:
                return
        if position < end:
            self._partial += data[position:]
            self._needed = frames.HEADER_SIZE
            if end - position >= frames.HEADER_SIZE:
                self._needed += frames.size_of(data, position)

    def _must_be_due(self, kind: int, flags: int) -> None:
        """Whether a frame may come now."""
        if not self._settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and kind != frames.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")

    def _frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        match kind:
            case frames.WINDOW_UPDATE:
                self._on_window_update(number, payload)
            case frames.HEADERS:
                self._on_headers(flags, number, payload)
            case frames.CONTINUATION:
                self._on_continuation(flags, number, payload)
            case frames.SETTINGS:
                self._on_settings(flags, number, payload)
            case frames.PING:
                self._on_ping(flags, number, payload)
            case frames.RST_STREAM:
                self._on_rst_stream(number, payload)
            case frames.GOAWAY:
                if number or len(payload) < 8:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a wrong GOAWAY frame")
                self.drain()
            case frames.PUSH_PROMISE:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client promises nothing")
            case frames.PRIORITY:
                if not number or len(payload) != 5:
                    raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong PRIORITY frame")
                self._spend()
            case _:
                self._spend()  # extensions are to be ignored

    def _on_data(self, number: int, pieces: Sequence[memoryview], size: int, *, last: bool) -> None:
        """Take the payloads of frames; their `size` counts for the windows, with any padding."""
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
            self._control += frames.window_update(0, room)
        if stream is None:
            for _ in pieces:
                self._spend()  # it was ended when this was under way
            return
        stream.allowance -= size
        if stream.allowance < 0:
            self._reset(stream, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
            return
        message = stream.assembler.whole(pieces)
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

    def _on_headers(self, flags: int, number: int, payload: memoryview) -> None:
        if not number % 2:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream of a client has an odd number")
        block = frames.without_padding(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(block) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong HEADERS frame")
            block = block[5:]
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, bytes(block))
        else:
            self._block, self._block_frames = bytearray(block), 1
            self._block_stream, self._block_flags = number, flags

    def _on_continuation(self, flags: int, number: int, payload: memoryview) -> None:
        block = self._block
        if block is None or number != self._block_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        block += payload
        self._block_frames += 1
        if len(block) > HEADER_BLOCK or self._block_frames > HEADER_FRAMES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many headers")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(number, self._block_flags, bytes(block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many headers") from None
        except hpack.HPACKError:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "headers that are no HPACK") from None
        if number <= self._last:
            self._on_trailers(number, flags)
            return
        self._last = number
        if self._draining:
            return  # the GOAWAY has said so
        if len(self._streams) >= STREAMS:
            self._control += frames.rst_stream(number, ErrorCode.REFUSED_STREAM)
            self._spend()
            return
        try:
            request = read_request([(bytes(name), bytes(value)) for name, value in fields])
        except MalformedError:
            self._control += frames.rst_stream(number, ErrorCode.PROTOCOL_ERROR)
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
        self._open(number, serve, half_closed=bool(flags & frames.END_STREAM))

    def _open(self, number: int, serve: Serve, *, half_closed: bool) -> None:
        stream = Stream(self, number, window=self._initial_window, allowance=frames.DEFAULT_WINDOW)
        self._streams[number] = stream
        stream.handler = serve(stream)
        self._replenish(stream)
        if half_closed:
            self._half_closed(stream)

    def _refuse(self, number: int, block: bytes) -> None:
        flags = frames.END_HEADERS | frames.END_STREAM
        self._control += frames.frame(frames.HEADERS, flags, number, block)
        self._control += frames.rst_stream(number, ErrorCode.NO_ERROR)
        self._spend()

    def _on_trailers(self, number: int, flags: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self._spend()
        elif flags & frames.END_STREAM:
            self._half_closed(stream)
        else:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR, "headers in the middle of a stream")

    def _on_rst_stream(self, number: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong RST_STREAM frame")
        self._must_exist(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._remove(stream, "cancelled by the client")
        self._spend()

    def _on_settings(self, flags: int, number: int, payload: memoryview) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledged with data")
            return
        if len(payload) % frames.SETTING.size:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong SETTINGS frame")
        for key, value in frames.SETTING.iter_unpack(payload):
            match key:
                case frames.ENABLE_PUSH if value > 1:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a wrong ENABLE_PUSH")
                case frames.INITIAL_WINDOW_SIZE:
                    self._set_initial_window(value)
                case frames.MAX_FRAME_SIZE:
                    if not frames.FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a wrong MAX_FRAME_SIZE")
                    self._frame_size = min(value, OUR_FRAME_SIZE)
        if self._settled:
            self._spend()
        self._settled = True
        self._control += frames.frame(frames.SETTINGS, frames.ACK, 0)

    def _set_initial_window(self, value: int) -> None:
        if value > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")
        change, self._initial_window = value - self._initial_window, value
        for stream in self._streams.values():
            self._widen(stream, change)

    def _widen(self, stream: Stream, change: int) -> None:
        """Change a stream's window, maybe to less than nothing (RFC 9113, section 6.9.2)."""
        stream.window += change
        if stream.window > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")
        if stream.window <= 0:
            self._ready.pop(stream, None)
        elif stream.outgoing is not None:
            self._ready.setdefault(stream, None)

    def _on_ping(self, flags: int, number: int, payload: memoryview) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a PING of a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong PING frame")
        self._spend()
        if not flags & frames.ACK:
            self._control += frames.frame(frames.PING, frames.ACK, 0, bytes(payload))

    def _on_window_update(self, number: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong WINDOW_UPDATE frame")
        size = int.from_bytes(payload, "big") & frames.MASK
        if not number:
            if not size:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a window that does not change")
            self._window += size
            if self._window > frames.LARGEST_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window of over 2 GiB")
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
            self._widen(stream, size)

    # --- ends and limits ------------------------------------------------------------------

    def _must_exist(self, number: int) -> None:
        """Whether a stream was ever opened."""
        if not number % 2 or number > self._last:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that is idle")

    def _reset(self, stream: Stream, code: ErrorCode, message: str) -> None:
        self._control += frames.rst_stream(stream.number, code)
        self._remove(stream, message)
        self._spend()

    def _remove(self, stream: Stream, reason: str) -> None:
        if self._streams.pop(stream.number, None) is None:
            return
        stream.ended = True
        stream.outgoing = None
        self._ready.pop(stream, None)
        self._waiting.pop(stream, None)
        self._held -= stream.assembler.held
        handler, stream.handler = stream.handler, None
        if handler is not None:
            handler.on_end(reason)

    def _spend(self) -> None:
        """Count something that brings nothing; end the connection when there is no end of it."""
        now = self._clock()
        refilled = self._fruitless + (now - self._fruitless_at) * FRUITLESS_PER_SECOND
        self._fruitless, self._fruitless_at = min(float(FRUITLESS), refilled) - 1, now
        if self._fruitless < 0 or (self.blocked and len(self._control) > UNREAD):
            self._fail(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _fail(self, code: ErrorCode, message: str) -> None:
        if self.failed is not None:
            return
        self._control += frames.goaway(self._last, code, message)
        self.lost(message)
