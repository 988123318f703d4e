"""One played sidecar: asks for clusters, endpoints, listeners and routes as an Envoy does.

What sidecars learn from responses is shared: a version is a hash of the content, so each distinct
response is parsed once in a process, and sidecars that hold the same point to the same `Held`.
Sidecars that are sent the same response answer it in the same bytes, which are made once.
The rule that is easy to break: an Envoy asks for listeners after its first endpoints, for routes
after its listeners, and again whenever the names that it needs change.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tests.bench.http2 import HEAD, Connection, Message, opening
from tests.bench.messages import (
    CDS,
    EDS,
    LDS,
    RDS,
    Delta,
    Found,
    Head,
    Sotw,
    read_head,
    read_whole,
)
from tests.bench.messages import node as make_node

_NEXT: Final[Mapping[str, str]] = {CDS: EDS, LDS: RDS}
_SOURCE: Final[Mapping[str, str]] = {EDS: CDS, RDS: LDS}
_PARSED_ENDPOINTS: Final = 256 * 1024  # larger responses are not looked into for single changes
_RECENT: Final = 128  # responses of which the answers are kept


class Samples:
    """What was acknowledged when: columns, so that hundreds of thousands cost little."""

    def __init__(self) -> None:
        self.time: Final = array("d")  # time.monotonic()
        self.sidecar: Final = array("I")
        self.response: Final = array("I")  # index in Book.responses


class Response(NamedTuple):
    """What responses are told apart by in the samples."""

    type: str
    version: str
    size: int  # bytes


class Known:
    """A response that has been read, and the answers to it by the names that they repeat."""

    __slots__ = ("answers", "head", "number")

    def __init__(self, head: Head, number: int) -> None:
        self.head: Final = head
        self.number: Final = number  # index in Book.responses
        self.answers: Final[dict[bytes, Message]] = {}


class Held:
    """Which names of the next type the resources held lead to; shared by equal sidecars."""

    __slots__ = ("leads_to", "list", "names")

    def __init__(self, leads_to: Mapping[str, frozenset[str]], protocol: Sotw | Delta) -> None:
        self.leads_to: Final = leads_to
        self.names: Final = frozenset(name for names in leads_to.values() for name in names)
        # The encoded subscription that goes with every answer of state of the world.
        self.list: Final = protocol.name_list(self.names) if isinstance(protocol, Sotw) else b""


class Book:
    """What all sidecars of one process know together."""

    def __init__(
        self, clock: Callable[[], float], *, delta: bool, full_frames: bool = False
    ) -> None:
        self.full_frames: Final = full_frames  # of the server; see `Connection`
        self.clock: Final = clock
        self.delta: Final = delta
        self.protocol: Final[Sotw | Delta] = Delta() if delta else Sotw()
        self.samples = Samples()
        self.responses: list[Response] = []
        self.found: dict[tuple[str, str], Found] = {}
        self.nothing: Final = Held({}, self.protocol)
        self._steps: dict[tuple[int, str, str], tuple[Held, bytes | None]] = {}
        self._known: dict[tuple[bytes, int], Known] = {}
        self._numbers: dict[Response, int] = {}  # index in `responses`
        self._alive: list[Held] = [self.nothing]  # ids in `_steps` stay unique

    def known(self, data: bytes, size: int) -> Known:
        """Return what a response says that was looked into, or need not be."""
        key = (data[:HEAD], size)
        made = self._known.get(key)
        if made is None:
            head = read_head(key[0])
            if len(data) == size and (head is None or (head.type, head.version) not in self.found):
                head, found = read_whole(data, delta=self.delta)
                self.found[head.type, head.version] = found
            if head is None:
                raise AssertionError("a response without version, type or nonce")
            response = Response(head.type, head.version, size)
            number = self._numbers.setdefault(response, len(self.responses))
            if number == len(self.responses):
                self.responses.append(response)
            if len(self._known) >= _RECENT:
                self._known.clear()
            made = self._known[key] = Known(head, number)
        return made

    def step(self, held: Held, head: Head) -> tuple[Held, bytes | None]:
        """Return what is held after a response, and the names to ask for when they changed."""
        key = (id(held), head.type, head.version)
        made = self._steps.get(key)
        if made is None:
            found = self.found[head.type, head.version]
            leads_to = dict(held.leads_to) if self.delta else {}
            for name in found.names | found.removed:
                leads_to.pop(name, None)
            leads_to.update(found.leads_to)
            after = Held(leads_to, self.protocol)
            self._alive.append(after)
            names: bytes | None = None
            if after.names != held.names:
                if isinstance(self.protocol, Delta):
                    names = self.protocol.name_list(
                        after.names - held.names, held.names - after.names
                    )
                else:
                    names = after.list
            made = self._steps[key] = (after, names)
        return made

    def wants(self, data: bytes, size: int) -> bool:
        """Whether a response has to be kept whole: nobody has looked into its like yet."""
        if (data, size) in self._known:
            return False
        head = read_head(data)
        if head is None:
            return True
        if head.type == RDS or (head.type == EDS and size > _PARSED_ENDPOINTS):
            return False
        return (head.type, head.version) not in self.found


class Behaviour:
    """How a group of sidecars behaves; the default is that of a healthy Envoy."""

    __slots__ = ("acknowledge_after", "rejects", "stalls")

    def __init__(
        self, *, acknowledge_after: float = 0.0, rejects: bool = False, stalls: bool = False
    ) -> None:
        self.acknowledge_after: Final = acknowledge_after  # seconds
        self.rejects: Final = rejects  # rejects every response
        self.stalls: Final = stalls  # stops reading after its first request


HEALTHY: Final = Behaviour()


class Sidecar:
    """The state of one played sidecar; `connection` holds the bytes to and from its socket."""

    __slots__ = ("_asked", "_book", "_heads", "_held", "behaviour", "connection", "later", "number")

    def __init__(
        self,
        number: int,
        book: Book,
        *,
        authority: str,
        behaviour: Behaviour,
        later: Callable[[Sidecar, float, Callable[[], None]], None],
    ) -> None:
        self.number: Final = number
        self._book: Final = book
        self.behaviour: Final = behaviour
        self.later: Final = later
        self.connection: Final = Connection(
            opening(authority, book.protocol.method),
            book.wants,
            self._receive,
            full_frames=book.full_frames,
        )
        self._heads: dict[str, Head] = {}  # the newest response of each type
        self._held: dict[str, Held] = {}  # of clusters and listeners
        self._asked: set[str] = set()

    def start(self, namespace: str, labels: Mapping[str, str], extensions: bytes) -> None:
        """Send the first request."""
        node = make_node(self.number, namespace=namespace, labels=labels, extensions=extensions)
        self._asked.add(CDS)
        protocol = self._book.protocol
        request = protocol.node(node) + protocol.request(CDS, names=b"", head=None)
        self.connection.send(Message(request))

    def _receive(self, data: bytes, size: int) -> None:
        known = self._book.known(data, size)
        if not known.head.type:
            return
        delay = self.behaviour.acknowledge_after
        if delay:
            self.later(self, delay, lambda: self._answer(known))
        else:
            self._answer(known)

    def _answer(self, known: Known) -> None:
        book, head = self._book, known.head
        kind = head.type
        self._heads[kind] = head
        names = self._names(kind)
        answer = known.answers.get(names)
        if answer is None:
            error = "this sidecar rejects everything" if self.behaviour.rejects else ""
            request = book.protocol.request(kind, names=names, head=head, error=error)
            answer = Message(request)
            if not error:
                known.answers[names] = answer
        self.connection.send(answer)
        if self.behaviour.rejects:
            return
        samples = book.samples
        samples.time.append(book.clock())
        samples.sidecar.append(self.number)
        samples.response.append(known.number)
        following = _NEXT.get(kind)
        if following is not None:
            held, changed = book.step(self._held.get(kind, book.nothing), head)
            self._held[kind] = held
            if changed is not None:
                self._asked.add(following)
                self._request(following, changed)
        if (
            kind in (CDS, EDS)
            and LDS not in self._asked
            and (kind == EDS or EDS not in self._asked)
        ):
            self._asked.add(LDS)
            self._request(LDS, b"")

    def _request(self, kind: str, names: bytes) -> None:
        """Ask for names; in delta such a request answers nothing."""
        head = None if self._book.delta else self._heads.get(kind)
        self.connection.send(Message(self._book.protocol.request(kind, names=names, head=head)))

    def _names(self, kind: str) -> bytes:
        source = _SOURCE.get(kind)
        return b"" if source is None else self._held[source].list
