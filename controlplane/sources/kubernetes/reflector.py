"""List and watch of one kind as a state machine without input or output.

Whoever drives it asks for the `next` step, does it, and says what came of it. The rules that are
easy to break: nothing of a list counts before its end, because half a list looks like deletions;
and after any gap the whole state is compared, because what was missed cannot be known.

Source: the API conventions of Kubernetes on efficient detection of changes, and KEP-3157.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from controlplane.kubernetes.errors import (
    TOO_LARGE,
    ForbiddenError,
    GoneError,
    InvalidError,
    KubernetesError,
    NotFoundError,
    TooManyRequestsError,
    UnavailableError,
    error_of,
)
from controlplane.kubernetes.paths import Call, Resource
from controlplane.sources.kubernetes.decode import Entry, Key, identify
from controlplane.sources.kubernetes.depth import cut_depth
from controlplane.sources.kubernetes.store import Store

PAGE: Final = 500
SHORTEST_WATCH: Final = 300  # seconds; each watch lasts between once and twice that
FIRST_PAUSE: Final = 0.5  # seconds before the first new try
LONGEST_PAUSE: Final = 20.0
VERIFY_EVERY: Final = 900.0  # seconds; between once and twice that
_HEALTHY: Final = 5.0  # seconds that a watch must last to count as one that works
_TRIES: Final = 3  # failures of the server in a row after which a watch is not tried any more
_DENIALS: Final = 3
"""Refusals in a row that are believed: a server that starts forbids all that it has not read."""
_NO_SELECTOR: Final[Mapping[str, str]] = {}
_INITIAL_END: Final = "k8s.io/initial-events-end"


class Step(NamedTuple):
    """What to do next: wait so many seconds, then list or watch with this query."""

    wait: float
    watch: bool
    query: dict[str, str]


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta


T = TypeVar("T")
_PAGES: Final = msgspec.json.Decoder(_Page)
_EVENTS: Final = msgspec.json.Decoder(_Event)
_BOOKMARKS: Final = msgspec.json.Decoder(_Bookmark)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except RecursionError:
        return decoder.decode(cut_depth(data))


class Reflector:
    """Keeps a store equal to what the API server has of one kind, in one or all namespaces.

    `selector` is added to each query. `streams` says that the server can send the first state
    as events (`sendInitialEvents`); it is tried and given up when it cannot.
    """

    def __init__(
        self,
        resource: Resource,
        store: Store,
        *,
        namespace: str = "",
        selector: Mapping[str, str] = _NO_SELECTOR,
        streams: bool = False,
        dice: random.Random | None = None,
    ) -> None:
        self.resource: Final = resource
        self.path: Final = resource.path(namespace=namespace)
        self.store: Final = store
        self.synced = False  # whether there was a first full state
        self.refused: ForbiddenError | None = None
        self.missing = 0  # answers in a row that said that there is no such kind
        self.relists = 0  # whole states that were compared after a gap
        self.healed = 0  # objects that turned out to be wrong without any gap
        self._selector: Final = dict(selector)
        self._streams = streams
        self._dice: Final = dice or random.Random()
        self._version = ""
        self._collected: dict[Key, Entry] = {}
        self._continue = ""
        self._page = PAGE  # 0 asks for everything at once
        self._pages_next = False  # streaming the first state has failed this time
        self._verifying = False
        self._watching = False
        self._failures = 0
        self._denials = 0
        self._wait = 0.0
        self._age = 0.0  # seconds of watching since the last comparison
        self._verify_at = VERIFY_EVERY * (1 + self._dice.random())

    @property
    def version(self) -> str:
        """The resourceVersion up to which the store follows, empty before it is known."""
        return self._version

    def next(self) -> Step:
        """Return the next step."""
        wait, self._wait = self._wait, 0.0
        query = dict(self._selector)
        initial = not self._version and self._streams and not self._pages_next
        self._watching = initial or bool(self._version and not self._verifying)
        if self._watching:
            query |= {
                "allowWatchBookmarks": "true",
                "resourceVersion": self._version,
                "timeoutSeconds": str(int(SHORTEST_WATCH * (1 + self._dice.random()))),
            }
            if initial:
                self._collected = {}
                query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            return Step(wait, True, query)
        if self._page:
            query["limit"] = str(self._page)
        if self._continue:
            query["continue"] = self._continue
        else:
            self._collected = {}
            if self._verifying:
                # The very state that the store should be: whatever differs was missed.
                query |= {"resourceVersion": self._version, "resourceVersionMatch": "Exact"}
        return Step(wait, False, query)

    def on_page(self, body: bytes) -> None:
        """Take one page of a list. Raises UnavailableError when it cannot be read."""
        try:
            page = _decode(_PAGES, body)
            for data in page.items or ():
                identity = identify(data)
                self._collected[identity.key] = self.store.entry(data, identity)
        except _UNREADABLE as error:
            raise UnavailableError(f"cannot read a list of {self.resource}: {error}") from None
        self._went_well()
        self._continue = page.metadata.continue_
        if not self._continue:
            self._complete(page.metadata.resource_version)

    def on_opened(self) -> None:
        """Take note that the server lets us watch; the first event may be long in coming."""
        self._went_well()

    def on_lines(self, lines: list[bytes]) -> None:
        """Take events, in the order of the server.

        Raises what an ERROR event says, and UnavailableError for a line that is no event; what
        came before it has been taken.
        """
        for line in lines:
            try:
                event = _decode(_EVENTS, line)
                self._take(event)
            except _UNREADABLE as error:
                raise UnavailableError(
                    f"cannot read an event of {self.resource}: {error}", status=500
                ) from None
        self._went_well()

    def _take(self, event: _Event) -> None:
        if event.type == "BOOKMARK":
            meta = _BOOKMARKS.decode(event.object).metadata
            if self._version:
                self._version = meta.resource_version or self._version
            elif (meta.annotations or {}).get(_INITIAL_END) == "true":
                self._complete(meta.resource_version)
            return
        if event.type == "ERROR":
            group, _, plural = self.resource
            raise error_of(Call("watch", plural, group), bytes(event.object))
        identity = identify(event.object)
        if not self._version:
            if event.type == "DELETED":
                self._collected.pop(identity.key, None)
            else:
                self._collected[identity.key] = self.store.entry(event.object, identity)
            return
        if event.type == "DELETED":
            self.store.remove(identity.key)
        else:
            self.store.put(event.object, identity)
        self._version = identity.resource_version or self._version

    def _complete(self, version: str) -> None:
        """Make what was collected the whole state."""
        differences = self.store.replace(self._collected)
        if self._verifying:
            self.healed += differences
            self._verifying = False
        else:
            self.relists += self.synced
            self._version = version
            self.synced = True
        self._collected = {}
        self._page = PAGE
        self._pages_next = False
        self._age = 0.0
        self._verify_at = VERIFY_EVERY * (1 + self._dice.random())

    def _went_well(self) -> None:
        self.refused = None
        self._denials = 0
        self.missing = 0

    def on_closed(self, lasted: float) -> None:
        """Take note that the server ended a watch in an orderly way, after so many seconds."""
        if not self._version:
            self._give_up_streaming()
        self._age += lasted
        if lasted >= _HEALTHY:
            self._failures = 0
            # Many replicas lose their watches in the same moment when a server goes.
            self._wait = self._dice.random()
        else:
            self._back_off(lasted)
        self._verifying = bool(self._version) and self._age >= self._verify_at

    def on_error(self, error: KubernetesError, lasted: float) -> None:
        """Take note of a failure, and decide what to try and when."""
        self._age += lasted if self._watching else 0.0
        self._back_off(lasted if self._watching else 0.0)
        if self._watching and not self._version:
            self._give_up_streaming()
        match error:
            case GoneError():
                self._gone()
            case InvalidError() if self._watching and not self._version:
                self._streams = False  # the server has no such thing
                self._wait = 0.0
            case InvalidError():
                self._start_over()
            case NotFoundError():
                self.missing += 1
                self._start_over()
            case ForbiddenError():
                self._denials += 1
                if self._denials >= _DENIALS:
                    self.refused = error
            case TooManyRequestsError():
                self._wait = max(self._wait, error.retry_after)
            case _:
                self._wait = max(self._wait, error.retry_after)
                if error.reason == TOO_LARGE or (error.status and self._failures >= _TRIES):
                    self._start_over()

    def _gone(self) -> None:
        """What we stand on is too old for the server."""
        if self._watching or self._verifying:
            self._start_over()
        else:
            # A list that takes longer than the server remembers is asked for in one piece.
            self._continue = ""
            self._page = 0

    def _start_over(self) -> None:
        """Get the whole state again; the store keeps what it has until that is complete."""
        self._version = ""
        self._continue = ""
        self._verifying = False

    def _give_up_streaming(self) -> None:
        self._collected = {}
        self._pages_next = True

    def _back_off(self, lasted: float) -> None:
        self._failures = 1 if lasted >= _HEALTHY else self._failures + 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        self._wait = longest * (0.5 + self._dice.random() / 2)
