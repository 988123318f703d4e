"""One played sidecar: asks for clusters, endpoints, listeners and routes as an Envoy does.

What sidecars learn from responses is shared: a version is a hash of the content, so each distinct
response is parsed once in a process, and sidecars that hold the same point to the same `Held`.
The rule that is easy to break: an Envoy asks for listeners after its first endpoints, for routes
after its listeners, and again whenever the names that it needs change.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Final

from tests.bench.http2 import Connection, opening
from tests.bench.messages import (
    CDS,
    EDS,
    LDS,
    RDS,
    TYPES,
    Delta,
    Found,
    Head,
    Sotw,
    read_head,
    read_whole,
)
from tests.bench.messages import node as make_node

_NEXT: Final[Mapping[str, str]] = {CDS: EDS, LDS: RDS}
_PARSED_ENDPOINTS: Final = 256 * 1024  # larger responses are not looked into for single changes


class Samples:
    """What was acknowledged when: columns, so that hundreds of thousands cost little."""

    def __init__(self) -> None:
        self.time: Final = array("d")  # time.monotonic()
        self.sidecar: Final = array("I")
        self.type: Final = array("B")  # index in TYPES
        self.version: Final = array("I")  # index in Book.versions
        self.size: Final = array("I")  # bytes of the response


class Held:
    """Which names of the next type the resources held lead to; shared by equal sidecars."""

    __slots__ = ("leads_to", "names")

    def __init__(self, leads_to: Mapping[str, frozenset[str]]) -> None:
        self.leads_to: Final = leads_to
        self.names: Final = frozenset(name for names in leads_to.values() for name in names)


class Book:
    """What all sidecars of one process know together."""

    def __init__(self, clock: Callable[[], float], *, delta: bool) -> None:
        self.clock: Final = clock
        self.delta: Final = delta
        self.protocol: Final[Sotw | Delta] = Delta() if delta else Sotw()
        self.samples = Samples()
        self.versions: dict[tuple[str, str], int] = {}
        self.found: dict[tuple[str, str], Found] = {}
        self.nothing: Final = Held({})
        self._steps: dict[tuple[int, str, str], tuple[Held, bytes | None]] = {}
        self._lists: dict[frozenset[str], bytes] = {}
        self._alive: list[Held] = [self.nothing]  # ids in `_steps` stay unique

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
            after = Held(leads_to)
            self._alive.append(after)
            names: bytes | None = None
            if after.names != held.names:
                if isinstance(self.protocol, Delta):
                    names = self.protocol.name_list(
                        after.names - held.names, held.names - after.names
                    )
                else:
                    names = self.list_of(after.names)
            made = self._steps[key] = (after, names)
        return made

    def list_of(self, names: frozenset[str]) -> bytes:
        """Return the encoded subscription that goes with every answer of state of the world."""
        if self.delta:
            return b""
        made = self._lists.get(names)
        if made is None:
            made = self._lists[names] = self.protocol.name_list(names)
        return made

    def number(self, head: Head) -> int:
        """Return the number of a version in `versions`."""
        return self.versions.setdefault((head.type, head.version), len(self.versions))

    def wants(self, data: bytes, size: int) -> bool:
        """Whether a response has to be kept whole: nobody has looked into its like yet."""
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
            opening(authority, book.protocol.method), book.wants, self._receive
        )
        self._heads: dict[str, Head] = {}  # the newest response of each type
        self._held: dict[str, Held] = {}  # of clusters and listeners
        self._asked: set[str] = set()

    def start(self, namespace: str, labels: Mapping[str, str], extensions: bytes) -> None:
        """Send the first request."""
        node = make_node(self.number, namespace=namespace, labels=labels, extensions=extensions)
        self._asked.add(CDS)
        protocol = self._book.protocol
        self.connection.send(protocol.node(node) + protocol.request(CDS, names=b"", head=None))

    def _receive(self, data: bytes, size: int) -> None:
        head = read_head(data)
        if len(data) == size and (
            head is None or (head.type, head.version) not in self._book.found
        ):
            head, found = read_whole(data, delta=self._book.delta)
            self._book.found[head.type, head.version] = found
        if head is None:
            raise AssertionError("a response without version, type or nonce")
        if not head.type:
            return
        delay = self.behaviour.acknowledge_after
        if delay:
            self.later(self, delay, lambda: self._answer(head, size))
        else:
            self._answer(head, size)

    def _answer(self, head: Head, size: int) -> None:
        book, kind = self._book, head.type
        self._heads[kind] = head
        if self.behaviour.rejects:
            error = "this sidecar rejects everything"
            request = book.protocol.request(kind, names=self._names(kind), head=head, error=error)
            self.connection.send(request)
            return
        self.connection.send(book.protocol.request(kind, names=self._names(kind), head=head))
        samples = book.samples
        samples.time.append(book.clock())
        samples.sidecar.append(self.number)
        samples.type.append(TYPES.index(kind))
        samples.version.append(book.number(head))
        samples.size.append(size)
        following = _NEXT.get(kind)
        if following is not None:
            held, names = book.step(self._held.get(kind, book.nothing), head)
            self._held[kind] = held
            if names is not None:
                self._asked.add(following)
                self._request(following, names)
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
        self.connection.send(self._book.protocol.request(kind, names=names, head=head))

    def _names(self, kind: str) -> bytes:
        source = {EDS: CDS, RDS: LDS}.get(kind)
        if source is None:
            return b""
        return self._book.list_of(self._held[source].names)
