"""What one stream knows about one resource type: subscription, what was sent, what was answered.

A record of state without decisions; those are the session's. Times are the clock's seconds. The
rule that is easy to break: `sent` is what the client was told, `accepted` what it took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from controlplane.ads.bisection import Bisection
from controlplane.ads.cache import Collection, Content, same
from controlplane.ads.name_sets import NameSet
from controlplane.ads.types import Names, Nonce, TypeInfo
from controlplane.ads.virtual_hosts import Item
from controlplane.translate.resources import Resource

_HISTORY: Final = 8  # responses whose answer may still come


class Sent:
    """One response that was sent."""

    __slots__ = (
        "_before", "content", "initial", "nonce", "overdue", "push", "state", "time", "version",
    )  # fmt: skip

    def __init__(
        self,
        *,
        nonce: Nonce,
        version: str,
        content: Content,
        state: Collection,
        time: float,
        push: int,
        initial: Mapping[str, str],
        before: Collection | None,
    ) -> None:
        self.nonce: Final = nonce
        self.version: Final = version
        self.content: Final = content
        self.state: Final = state  # what the client holds when it accepts everything so far
        self.time: Final = time
        self.push: Final = push
        self.initial: Final = initial  # what the client had brought along, before it
        self._before: Final = before
        self.overdue = False  # whether it was noticed that the answer is late

    def held_by(self, accepted: Collection | None) -> Collection:
        """Return what a client holds that had accepted so much and accepts this.

        Usually that is `state`; when another response was rejected meanwhile, what was assumed
        of that one is not true.
        """
        if accepted is self._before or len(self.content.resources) == len(self.state):
            return self.state
        instead: dict[str, Resource | None] = dict.fromkeys(self.content.removed)
        instead.update((item.name, item) for item in self.content.resources)
        base = accepted if accepted is not None else Collection(self.content.kind, {})
        return base.overlay(instead)


class Watch:
    """The state of one resource type on one stream."""

    __slots__ = (
        "accepted", "based", "bisection", "brought", "came_with", "complaint", "dirty", "doubted",
        "error", "force", "gave_up", "hold_until", "info", "initial", "last_sequence", "missed",
        "named", "names", "nonce_acked", "nonce_sent", "owed", "push", "refused", "repeated",
        "retried", "sent", "time_acked", "time_sent", "unanswered", "unfound", "version_acked",
        "version_sent", "wildcard", "withholds",
    )  # fmt: skip

    def __init__(self, info: TypeInfo, names: NameSet, *, wildcard: bool) -> None:
        self.info: Final = info
        self.names = names
        self.wildcard = wildcard
        self.named = bool(names.names)  # whether the client has ever subscribed by name
        self.repeated: tuple[str, ...] = ()  # the list that made `names`
        self.dirty = True  # whether `take` has to look
        self.owed = True  # whether an answer is due even when there is nothing new
        self.force: Names = frozenset()  # names to send even when they are known
        self.based: Collection | None = None  # what the view said when `take` last looked
        self.sent: Collection | None = None
        self.accepted: Collection | None = None
        self.brought = False  # whether a state-of-the-world client came with a version
        self.initial: Mapping[str, str] = {}  # what a delta client brought along
        # Names that the client dropped in requests that were ignored; it no longer has them.
        self.missed: Names = frozenset()
        # Names of which the client came with a content that is not known.
        self.came_with: Names = frozenset()
        self.bisection: Bisection | None = None
        self.gave_up = False  # whether no culprit can be looked for until something changes
        # What it gave up to find a culprit in, until something is accepted or a culprit found.
        self.unfound: tuple[Item, ...] = ()
        self.retried = False  # whether everything was sent once more after a rejection
        # Resources of which the client may hold another than was accepted: a rejected response
        # can be half applied, and one that a later one overtook is never answered.
        self.doubted: set[str] = set()
        self.withholds = False  # whether what was rejected or is suspected is kept back
        self.refused = ""  # the version of the content that was rejected last
        self.hold_until: float | None = None
        self.unanswered: list[Sent] = []  # oldest first
        self.last_sequence = -1
        self.push = 0
        self.nonce_sent = ""
        self.nonce_acked = ""
        self.version_sent = ""
        self.version_acked = ""
        self.time_sent = 0.0
        self.time_acked = 0.0
        self.error = ""
        self.complaint = ""  # the last error ever

    @property
    def selected(self) -> NameSet | None:
        """The subscribed names, None for everything."""
        return None if self.wildcard else self.names

    def shows(self, name: str) -> bool:
        """Whether a resource of that name exists, kept back or not."""
        return self.based is not None and name in self.based.by_name

    def has_accepted(self, resource: Resource) -> bool:
        """Whether the client is known to hold exactly this resource."""
        if self.accepted is None:
            return False
        held = self.accepted.get(resource.name)
        return held is not None and held.version == resource.version

    def predecessor(self, name: str) -> Resource | None:
        """Return the resource of that name that the client accepted."""
        return None if self.accepted is None else self.accepted.get(name)

    @property
    def unknown_content(self) -> bool:
        """Whether a state-of-the-world client holds what nobody here knows, and what is left out
        of a response is deleted."""
        return self.brought and self.accepted is None

    def only_brought(self, name: str) -> bool:
        """Whether the client came with a resource of that name, and its content is not known."""
        return name in self.came_with and self.predecessor(name) is None

    @property
    def undecided(self) -> tuple[Item, ...]:
        """What the client rejects one or several of, and nobody can tell which."""
        return self.unfound if self.bisection is None else self.bisection.undecided

    @property
    def is_special(self) -> bool:
        """Whether what is sent next depends on more than what the client was told last."""
        return bool(
            self.owed
            or self.force
            or self.initial
            or self.came_with
            or self.bisection
            or self.refused
            or self.error
        )

    def settled(self) -> bool:
        """Whether everything wanted was sent and accepted."""
        return (
            not self.dirty
            and self.hold_until is None
            and self.bisection is None
            and self.nonce_acked == self.nonce_sent
        )

    def told_all(self) -> bool:
        """Whether the client was told exactly what the view said last, and is owed nothing."""
        return (
            self.sent is self.based
            and self.sent is not None
            and not (self.force or self.owed or self.error or self.withholds or self.came_with)
        )

    def waits_for_answer(self, sent: Sent) -> None:
        """Take note of a response that went out."""
        self.unanswered.append(sent)
        if len(self.unanswered) > _HISTORY:
            del self.unanswered[0]

    def answered(self, nonce: str) -> Sent | None:
        """Return the response with that nonce, and forget those before it."""
        for position, sent in enumerate(self.unanswered):
            if sent.nonce == nonce:
                for overtaken in self.unanswered[:position]:
                    self._doubt(overtaken)
                del self.unanswered[: position + 1]
                return sent
        return None

    def unconfirmed(self) -> Names:
        """Return the names in responses that were never answered."""
        return frozenset(self.doubted).union(*(sent.content.names for sent in self.unanswered))

    def _doubt(self, sent: Sent) -> None:
        self.doubted.update(
            item.name for item in sent.content.resources if not self.has_accepted(item)
        )

    def revert(self, rejected: Sent, suspects: Iterable[Resource], removed: Names) -> None:
        """The client did not take a response: it holds what it accepted before.

        `removed` are the names that the response took away. When newer responses are under way,
        only what is still as in the rejected one is undone.
        """
        if suspects and not self.info.complete:
            # What came along though it was known is still waited for.
            self.force |= {item.name for item in rejected.content.resources}.intersection(
                self.names.names
            ) - {item.name for item in suspects}
        self._doubt(rejected)
        accepted = self.accepted
        if accepted is None:
            accepted = Collection(self.info.kind, {})
            self.initial = self.initial or rejected.initial
        held = rejected.state if self.sent is None else self.sent
        instead = {
            item.name: accepted.get(item.name)
            for item in suspects
            if same(held.get(item.name), item)
        }
        for name in removed:
            kept = accepted.get(name)
            if kept is not None and name not in held.by_name:
                instead[name] = kept
        self.sent = held.overlay(instead)

    def forget(self, names: NameSet) -> None:
        """The client dropped everything but these names."""
        if self.sent is not None:
            self.sent = self.sent.restrict(names)
        if self.accepted is not None:
            self.accepted = self.accepted.restrict(names)
