"""Finding the virtual host that a client rejects of a route configuration that it came with.

A client that comes back serves with a route configuration that nobody here knows, and one that it
accepts takes its place. So the suspects cannot be tried a few at a time, as a bisection does: the
others would be gone from under it meanwhile. All are tried but one. What is rejected changes
nothing, and when it is accepted the one left out is the culprit. Route configurations are tried
one after the other, for none is taken away by not being sent: one that hides several culprits is
set aside. The rule that is easy to break: nobody is left out on a mere suspicion but one at a
time, unless the client's message tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from controlplane.ads.bisection import Bisection
from controlplane.ads.virtual_hosts import Item, VirtualHost, resource_name

_TOKENS: Final = re.compile(r"""'([^']+)'|"([^"]+)"|([^\s'"]+)""")
_SHORTEST: Final = 4  # characters of a text that may tell
_TEXTS: Final = 32  # texts of a message that are looked for


class Omission(Bisection):
    """The suspects of one stream, one route configuration after the other.

    Of each it is all but some that are tried until they are accepted, by bisection from then on.
    """

    __slots__ = ("_aside", "_given_up", "_helpless", "_omits", "_omitted", "_route", "_untried")

    def __init__(self, suspects: Iterable[Item], message: str, now: float) -> None:
        self._aside: dict[str, dict[str, Item]] = {}  # suspects of other route configurations
        self._given_up: set[str] = set()  # those of them that are not tried until they change
        self._helpless: set[str] = set()  # where it once gave up, and nothing was accepted since
        self._route = ""  # which one is tried
        self._omits = True  # whether it is not yet a bisection
        self._omitted: dict[str, None] = {}
        self._untried: dict[str, None] = {}  # what was not left out yet
        super().__init__((), now)
        for item in suspects:
            self._aside.setdefault(resource_name(item), {})[item.version] = item
        alone = len(self._aside) == 1
        self._go_on()
        if alone and len(self._suspects) > 1:  # else it is tried whether it is guilty at all
            self._omit_another(message)

    @property
    def done(self) -> bool:
        """Whether nobody is suspected any more."""
        return not self._suspects and not self._aside

    @property
    def kept_back(self) -> tuple[Item, ...]:
        """What is not to be sent now."""
        return (*super().kept_back, *self._set_aside)

    @property
    def held_whole(self) -> tuple[Item, ...]:
        """What is kept back with all that is around it: the client may have an older one."""
        return self._set_aside if self._omits and self.trial else self.kept_back

    @property
    def undecided(self) -> tuple[Item, ...]:
        """The suspects, once it is clear that the culprits among them cannot be found."""
        suspects = (*self._suspects.values(), *self._set_aside)
        return tuple(item for item in suspects if resource_name(item) in self._helpless)

    @property
    def wakes_at(self) -> float | None:
        """When `advance` has something to do, None when only a change helps."""
        return super().wakes_at if self._suspects else None

    def advance(self, now: float) -> bool:
        """Choose the next trial when it is time; return whether there is a new one."""
        return bool(self._suspects) and super().advance(now)

    def keep_only(self, wanted: Callable[[Item], bool]) -> None:
        """Forget suspects that are no longer wanted anyway."""
        self._keep_aside(wanted)
        super().keep_only(wanted)
        self._go_on()

    def passed(self) -> None:
        """The trial was accepted: the culprits are among those left out."""
        self._omits = False
        self._helpless.discard(self._route)
        super().passed()
        self._go_on()

    def failed(self, rejected: Iterable[Item], now: float, message: str = "") -> Item | None:
        """The trial was rejected; return the culprit when it is found."""
        changed = {item.version: item for item in rejected if resource_name(item) == self._route}
        for item in rejected:
            route = resource_name(item)
            if route != self._route and item.version not in self._aside.setdefault(route, {}):
                self._aside[route][item.version] = item
                self._given_up.discard(route)
        culprit = None
        if not self._omits:
            culprit = super().failed(changed.values(), now, message)
        else:
            self.trial = frozenset()
            self._rest_after_failure(now)
            if changed:
                self._untried |= dict.fromkeys(changed.keys() - self._suspects.keys())
                self._suspects |= changed
                self._omit_another(message)
        self._go_on()
        return culprit

    def exonerate(self, versions: Iterable[str]) -> None:
        """Others were named: these are found already."""
        found = frozenset(versions)
        self._keep_aside(lambda item: item.version not in found)
        super().exonerate(found)
        self._go_on()

    @property
    def _set_aside(self) -> tuple[Item, ...]:
        return tuple(item for items in self._aside.values() for item in items.values())

    def _keep_aside(self, wanted: Callable[[Item], bool]) -> None:
        for route, items in tuple(self._aside.items()):
            kept = {version: item for version, item in items.items() if wanted(item)}
            if len(kept) < len(items):
                self._given_up.discard(route)
                self._aside[route] = kept
            if not kept:
                del self._aside[route]

    def _go_on(self) -> None:
        """Turn to the next route configuration when there is nothing more to try of this one."""
        if self._suspects and len(self._omitted) >= len(self._suspects) and self._omits:
            self._given_up.add(self._route)
            self._helpless.add(self._route)
            self._aside[self._route], self._suspects = self._suspects, {}
        if self._suspects:
            return
        self._route = next((route for route in self._aside if route not in self._given_up), "")
        self._suspects = self._aside.pop(self._route, {})
        self._omits = True
        self.trial = frozenset()
        self._start_over()

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
