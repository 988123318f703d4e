"""Finding the virtual host that a client rejects of a route configuration that it came with.

A client that comes back serves with a route configuration that nobody here knows, and one that it
accepts takes its place. So the suspects cannot be tried a few at a time, as a bisection does: the
others would be gone from under it meanwhile. All are tried but one. What is rejected changes
nothing, and when it is accepted the one left out is the culprit. The rule that is easy to break:
nobody is left out on a mere suspicion but one at a time, unless the client's message tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from controlplane.ads.bisection import Bisection
from controlplane.ads.virtual_hosts import Item, VirtualHost

_TOKENS: Final = re.compile(r"""'([^']+)'|"([^"]+)"|([^\s'"]+)""")
_SHORTEST: Final = 4  # characters of a text that may tell
_TEXTS: Final = 32  # texts of a message that are looked for


class Omission(Bisection):
    """The suspects of one stream, until all but some were accepted; a bisection from then on."""

    __slots__ = ("_helpless", "_omits", "_omitted", "_untried")

    def __init__(self, suspects: Iterable[Item], message: str, now: float) -> None:
        self._omits = True  # whether it is not yet a bisection
        self._omitted: dict[str, None] = {}
        self._untried: dict[str, None] = {}  # what was not left out yet
        self._helpless = False  # whether it gave up, and none was accepted since
        super().__init__(suspects, now)
        self._start_over()
        self._omit_another(message)

    @property
    def leaves_out(self) -> bool:
        """Whether what is kept back now may be gone from the client."""
        return self._omits and bool(self.trial)

    @property
    def undecided(self) -> tuple[Item, ...]:
        """The suspects from when leaving out each of them did not help, until something does."""
        return tuple(self._suspects.values()) if self._helpless else ()

    @property
    def wakes_at(self) -> float | None:
        """When `advance` has something to do, None when only a change helps."""
        return None if self._gave_up else super().wakes_at

    def advance(self, now: float) -> bool:
        """Choose the next trial when it is time; return whether there is a new one."""
        return not self._gave_up and super().advance(now)

    def passed(self) -> None:
        """The trial was accepted: the culprits are among those left out."""
        self._omits = self._helpless = False
        super().passed()

    def failed(self, rejected: Iterable[Item], now: float, message: str = "") -> Item | None:
        """The trial was rejected; the culprit is never known then."""
        if not self._omits:
            return super().failed(rejected, now, message)
        changed = {item.version: item for item in rejected}
        self.trial = frozenset()
        self._rest_after_failure(now)
        if changed:
            self._untried |= dict.fromkeys(changed.keys() - self._suspects.keys())
            self._suspects |= changed
            self._omit_another(message)
        self._helpless = self._helpless or self._gave_up
        return None

    @property
    def _gave_up(self) -> bool:
        """Whether leaving out each of them did not help."""
        return self._omits and not self.trial and len(self._omitted) >= len(self._suspects) > 0

    def _start_over(self) -> None:
        super()._start_over()
        self._omitted = {}
        self._untried = dict.fromkeys(self._suspects)
        if self._omits and self.trial:
            # One of them is found or gone: who was left out beside it need not be any more.
            self.trial = frozenset(self._suspects)

    def _choose(self) -> frozenset[str]:
        if not self._omits:
            return super()._choose()
        return frozenset(self._suspects) - self._omitted.keys()

    def _omit_another(self, message: str) -> None:
        told = _told(message, [self._suspects[version] for version in self._untried])
        if told is not None:
            self._omitted[told] = None
            del self._untried[told]
        elif self._untried:
            version = next(iter(self._untried))
            self._omitted = {version: None}
            del self._untried[version]
        else:
            self._omitted = dict.fromkeys(self._suspects)


def _told(message: str, suspects: Iterable[Item]) -> str | None:
    """Return the version of the only suspect in which some text of the message is found."""
    bodies = {item.version: item.body for item in suspects if isinstance(item, VirtualHost)}
    found = {text for match in _TOKENS.finditer(message) for text in match.groups() if text}
    telling = sorted(
        filter(lambda text: len(text) >= _SHORTEST, found), key=lambda text: -len(text)
    )
    for text in telling[:_TEXTS]:
        holders = [version for version, body in bodies.items() if text.encode() in body]
        if len(holders) == 1:
            return holders[0]
    return None
