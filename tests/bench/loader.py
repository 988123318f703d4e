"""The process that plays many sidecars: one epoll loop, one socket per sidecar.

Commands come in over a pipe, answers go out over it. Must not know scenarios. The rule that is
easy to break: nothing here may wait, or the time of an acknowledgement would be that of the
waiting.

A process that sleeps has to be woken, at the expense of whoever writes to it: in a virtual machine
10 to 15 microseconds for each response. The clients of a control plane run on other machines, and
wake there. So a loader can be told to stay awake while acknowledgements are expected; the time of
polls that find nothing is left out of its CPU time.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection as Pipe
from typing import Final, NamedTuple

from tests.bench.http2 import Connection
from tests.bench.messages import TYPES
from tests.bench.messages import extensions as make_extensions
from tests.bench.sidecar import HEALTHY, Behaviour, Book, Response, Samples, Sidecar

_BUFFER: Final = 4 * 1024 * 1024
_FIRST: Final = 4096  # bytes that are read first: small responses whole, of others the beginning
_FEW_NAMES: Final = 256  # the names of larger responses are not reported
_READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_RETRY: Final = 0.5  # seconds; Envoy retries after a random part of this, doubled each time
_RETRY_MAX: Final = 30.0


class Played(NamedTuple):
    """One sidecar to play. Those of one namespace with equal labels are of one class."""

    number: int
    namespace: str
    labels: dict[str, str]


class Connect(NamedTuple):
    """Command: open streams, all at once. Answered when every one holds all four types."""

    sidecars: tuple[Played, ...]
    rejects: bool = False
    stalls: bool = False
    acknowledge_after: float = 0.0
    wait: bool = True


class Expect(NamedTuple):
    """Command: from now on wait for an acknowledgement of each of these types by every sidecar.

    Answered twice: at once, and when all have come or the time is over. `awake` takes a core for
    itself until then, if there is another one.
    """

    types: tuple[str, ...]
    seconds: float
    awake: bool


class Disconnect(NamedTuple):
    """Command: close these sidecars' sockets, all when None."""

    numbers: tuple[int, ...] | None = None


class Collect(NamedTuple):
    """Command: hand over all samples and forget them."""


class Stop(NamedTuple):
    """Command: end the process."""


class Armed(NamedTuple):
    """Answer: an expectation holds from now on."""


class Reached(NamedTuple):
    """Answer: how many acknowledgements are missing, and why streams ended meanwhile."""

    missing: int
    ended: tuple[str, ...]


class Collected(NamedTuple):
    """Answer: the samples, the responses they point to, and what each version carried."""

    samples: Samples
    responses: tuple[Response, ...]
    names: dict[tuple[str, str], frozenset[str]]
    cpu: float  # seconds of this process since it began, without polls that found nothing
    connected: int


Command = Connect | Expect | Disconnect | Collect | Stop


class _Waiting:
    """What a command waits for: sidecars by type."""

    def __init__(
        self, sidecars: Iterable[int], types: Iterable[str], deadline: float, *, awake: bool
    ) -> None:
        """With `awake` nobody sleeps meanwhile."""
        everyone = tuple(sidecars)
        self.missing: Final = {name: set(everyone) for name in types}
        self.deadline: Final = deadline
        self.awake: Final = awake


class Loader:
    """The loop."""

    def __init__(
        self,
        pipe: Pipe,
        address: tuple[str, int],
        *,
        delta: bool,
        full_frames: bool,
        extensions: int,
    ) -> None:
        self._pipe: Final = pipe
        self._address: Final = address
        self._authority: Final = f"{address[0]}:{address[1]}"
        self._book: Final = Book(time.monotonic, delta=delta, full_frames=full_frames)
        self._extensions: Final = make_extensions(extensions)
        self._poll: Final = select.epoll()
        self._poll.register(pipe.fileno(), select.EPOLLIN)
        self._live: dict[int, tuple[socket.socket, Sidecar]] = {}  # by file descriptor
        self._unsent: set[int] = set()  # descriptors whose sockets take no more
        self._played: dict[int, tuple[Played, Behaviour, int]] = {}  # and the failures in a row
        self._by_number: dict[int, int] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order: Final = itertools.count()
        self._waiting: _Waiting | None = None
        self._idle = 0.0  # seconds of CPU time of polls that found nothing
        self._seen = 0  # samples that the waiting one has looked at
        self._ended: list[str] = []
        self._buffer: Final = bytearray(_BUFFER)
        self._view: Final = memoryview(self._buffer)
        self._random: Final = random.Random(1)

    def run(self) -> None:
        """Serve commands until told to stop."""
        while True:
            for descriptor, event in self._events():
                live = self._live.get(descriptor)
                if live is not None:
                    self._ready(descriptor, event, *live)
                elif descriptor == self._pipe.fileno() and not self._command():
                    return
            self._run_timers()
            self._look()

    def _events(self) -> list[tuple[int, int]]:
        if self._waiting is None or not self._waiting.awake:
            return self._poll.poll(self._patience())
        found = self._poll.poll(0)
        if not found:
            began, end = time.thread_time(), time.monotonic() + self._patience()
            while not found and time.monotonic() < end:
                found = self._poll.poll(0)
            self._idle += time.thread_time() - began
        return found

    # --- sockets --------------------------------------------------------------------------

    def _ready(self, descriptor: int, event: int, stream: socket.socket, sidecar: Sidecar) -> None:
        connection = sidecar.connection
        if event & _READABLE:
            try:
                self._read(stream, connection)
            except OSError as error:
                self._lost(descriptor, str(error))
                return
            if connection.ended is not None:
                self._lost(descriptor, connection.ended)
                return
        if connection.outgoing or event & select.EPOLLOUT:
            self._write(descriptor)

    def _read(self, stream: socket.socket, connection: Connection) -> None:
        """Read what has come, twice when there is more than the beginning of a response."""
        limit = _FIRST if connection.between else _BUFFER
        for _ in range(2):
            try:
                if connection.unread:
                    # TCP throws the bytes away then instead of copying them.
                    limit = min(connection.unread, _BUFFER)
                    size = stream.recv_into(self._buffer, limit, socket.MSG_TRUNC)
                    connection.discarded(size)
                else:
                    size = stream.recv_into(self._buffer, limit)
                    connection.receive(self._view[:size])
            except BlockingIOError:
                return
            if not size:
                connection.ended = connection.ended or "connection closed"
            if size < limit or connection.between:
                return
            limit = _BUFFER

    def _write(self, descriptor: int) -> None:
        stream, sidecar = self._live[descriptor]
        connection = sidecar.connection
        if connection.outgoing:
            with contextlib.suppress(BlockingIOError):
                sent = stream.send(connection.outgoing)
                connection.outgoing = connection.outgoing[sent:]
        if bool(connection.outgoing) != (descriptor in self._unsent):
            reads = 0 if sidecar.behaviour.stalls else select.EPOLLIN
            writes = select.EPOLLOUT if connection.outgoing else 0
            self._poll.modify(descriptor, reads | writes)
            self._unsent ^= {descriptor}

    def _open(self, number: int) -> None:
        played, behaviour, failures = self._played[number]
        stream = socket.socket()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.connect(self._address)  # loopback: the kernel accepts at once
        stream.setblocking(False)
        sidecar = Sidecar(
            number,
            self._book,
            authority=self._authority,
            behaviour=behaviour,
            later=self._later,
        )
        sidecar.start(played.namespace, played.labels, self._extensions)
        descriptor = stream.fileno()
        self._live[descriptor] = (stream, sidecar)
        self._by_number[number] = descriptor
        self._played[number] = (played, behaviour, failures)
        self._poll.register(descriptor, 0 if behaviour.stalls else select.EPOLLIN)
        self._write(descriptor)

    def _lost(self, descriptor: int, why: str) -> None:
        """The server ended a stream: come back as an Envoy does."""
        number = self._close(descriptor)
        self._ended.append(why)
        played, behaviour, failures = self._played[number]
        self._played[number] = (played, behaviour, failures + 1)
        limit = min(_RETRY_MAX, _RETRY * 2**failures)
        self._at(time.monotonic() + self._random.uniform(0, limit), lambda: self._again(number))

    def _again(self, number: int) -> None:
        if number in self._played and number not in self._by_number:
            self._open(number)

    def _close(self, descriptor: int) -> int:
        stream, sidecar = self._live.pop(descriptor)
        self._poll.unregister(descriptor)
        self._unsent.discard(descriptor)
        self._by_number.pop(sidecar.number, None)
        stream.close()
        return sidecar.number

    # --- time -----------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), action))

    def _later(self, sidecar: Sidecar, delay: float, action: Callable[[], None]) -> None:
        def act() -> None:
            descriptor = self._by_number.get(sidecar.number)
            if descriptor is not None and self._live[descriptor][1] is sidecar:
                action()
                self._write(descriptor)

        self._at(time.monotonic() + delay, act)

    def _patience(self) -> float:
        times = [self._timers[0][0]] if self._timers else []
        if self._waiting is not None:
            times.append(self._waiting.deadline)
        return max(0.0, min(times) - time.monotonic()) if times else -1

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _look(self) -> None:
        """Answer the waiting command when what it waits for has come."""
        waiting = self._waiting
        if waiting is None:
            return
        samples = self._book.samples
        responses = self._book.responses
        for index in range(self._seen, len(samples.time)):
            missing = waiting.missing.get(responses[samples.response[index]].type)
            if missing is not None:
                missing.discard(samples.sidecar[index])
        self._seen = len(samples.time)
        if not any(waiting.missing.values()) or time.monotonic() >= waiting.deadline:
            self._waiting = None
            ended, self._ended = tuple(self._ended), []
            self._pipe.send(Reached(sum(map(len, waiting.missing.values())), ended))

    # --- commands -------------------------------------------------------------------------

    def _command(self) -> bool:
        try:
            command: Command = self._pipe.recv()
        except EOFError:
            return False
        match command:
            case Connect():
                self._connect(command)
            case Expect(types, seconds, awake):
                awake = awake and len(os.sched_getaffinity(0)) > 1
                self._expect(self._healthy(), types, seconds, awake=awake)
                self._pipe.send(Armed())
            case Disconnect(numbers):
                for number in tuple(self._by_number) if numbers is None else numbers:
                    self._played.pop(number, None)
                    if number in self._by_number:
                        self._close(self._by_number[number])
            case Collect():
                self._collect()
            case Stop():
                return False
        return True

    def _connect(self, command: Connect) -> None:
        behaviour = (
            Behaviour(
                rejects=command.rejects,
                stalls=command.stalls,
                acknowledge_after=command.acknowledge_after,
            )
            if command.rejects or command.stalls or command.acknowledge_after
            else HEALTHY
        )
        for played in command.sidecars:
            self._played[played.number] = (played, behaviour, 0)
        if command.wait:
            numbers = [played.number for played in command.sidecars]
            self._expect(numbers, TYPES, 120.0)
        for played in command.sidecars:
            self._open(played.number)

    def _expect(
        self,
        sidecars: Iterable[int],
        types: Iterable[str],
        seconds: float,
        *,
        awake: bool = False,
    ) -> None:
        self._seen = len(self._book.samples.time)
        self._waiting = _Waiting(sidecars, types, time.monotonic() + seconds, awake=awake)

    def _healthy(self) -> list[int]:
        return [
            number
            for number, (_, how, _) in self._played.items()
            if not how.rejects and not how.stalls
        ]

    def _collect(self) -> None:
        samples, self._book.samples = self._book.samples, Samples()
        self._seen = 0
        names = {
            key: found.names
            for key, found in self._book.found.items()
            if len(found.names) < _FEW_NAMES
        }
        responses = tuple(self._book.responses)
        cpu = time.process_time() - self._idle
        self._pipe.send(Collected(samples, responses, names, cpu, len(self._live)))


def play(
    pipe: Pipe, address: tuple[str, int], *, delta: bool, full_frames: bool, extensions: int
) -> None:
    """Run a loader in this process until its pipe is closed."""
    gc.disable()  # nothing here makes cycles in numbers, and a pause would be measured as delay
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    Loader(pipe, address, delta=delta, full_frames=full_frames, extensions=extensions).run()
