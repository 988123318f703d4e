"""Clients that come back: what they hold, as far as they say, and what is not taken from them.

After a restart, of itself or of the control plane, an Envoy goes on serving with what it has and
says so type by type. Owns what one client is known to have brought along. The rule that is easy
to break: what it holds and nobody knows is in use until its listeners and routes have moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from controlplane.ads.bisection import Bisection
from controlplane.ads.cache import Collection
from controlplane.ads.omission import Omission
from controlplane.ads.stand_in import is_stand_in, stand_in
from controlplane.ads.types import ACKNOWLEDGE_LIMIT, CDS, EDS, LDS, Names
from controlplane.ads.views import ClassView
from controlplane.ads.virtual_hosts import Item, VirtualHost
from controlplane.ads.watch import Watch
from controlplane.translate.resources import Resource, ResourceType

Watches = Mapping[ResourceType, Watch]

MORE_LIMIT: Final = 2.0
"""Seconds in which a client that comes back has to say what else it holds, before it is told
which clusters there are."""


class Returning:
    """What one client brought along."""

    __slots__ = ("_more_until", "instead", "left_over", "serving", "unknown")

    def __init__(self) -> None:
        self.unknown: Names = frozenset()  # clusters that the client came with and nobody knows
        self.instead: Names = (
            frozenset()
        )  # clusters for which a stand-in is shown in the view's place
        self.left_over: tuple[Resource, ...] = ()  # stand-ins for them, until somebody looks
        self.serving = False  # whether the client came with listeners or routes
        self._more_until = 0.0  # when it shall have said what it holds

    def keep_unknown(self, names: Iterable[str]) -> dict[str, str]:
        """Keep clusters that only the client knows; return the versions of their stand-ins."""
        self.left_over = tuple(stand_in(name) for name in sorted(names))
        self.unknown = frozenset(item.name for item in self.left_over)
        return {item.name: item.version for item in self.left_over}

    def stand_for_left_out(
        self, wanted: Collection, base: Collection, watches: Watches
    ) -> Collection:
        """Return what is wanted with stand-ins for the clusters that are not, for they are
        rejected: leaving them out would delete what the client may have of them."""
        endpoints = watches.get(EDS.kind)
        asked = {"", *endpoints.names.names} if endpoints is not None else {""}
        return wanted.overlay(
            {
                name: stand_in(name)
                for name, item in base.by_name.items()
                if name not in wanted.by_name and item.eds_name in asked
            }
        )

    def shows_instead(self, wanted: Collection, base: Collection) -> None:
        """Take note of the clusters for which a stand-in is shown though they exist."""
        if wanted is base and not self.instead:
            return
        self.instead = frozenset(
            name for name in wanted.difference(base).changed if is_stand_in(wanted.by_name[name])
        )
        self.unknown |= self.instead

    def expect_more(self, now: float) -> None:
        """Wait a moment for what else the client holds."""
        self._more_until = now + MORE_LIMIT

    def expects_more(self, watches: Watches, now: float) -> bool:
        """Whether that is still waited for."""
        return now < self._more_until and not _has_said_more(watches)

    def deadlines(self, watches: Watches) -> list[float]:
        """Return when it is waited for no longer."""
        if self._more_until and not _has_said_more(watches):
            return [self._more_until]
        return []


def _has_said_more(watches: Watches) -> bool:
    return EDS.kind in watches or LDS.kind in watches


def unasked(
    watch: Watch, wanted: Collection, view: ClassView, watches: Watches, returning: Returning
) -> dict[str, Resource | None]:
    """Return what no cluster or listener asks for any more, though the client still does.

    An empty answer would take it from under what is still in use and on its way out: what the
    client was told last stays, or what it came with. So do the endpoints of a stand-in's cluster.
    """
    found: dict[str, Resource | None] = {}
    if watch.came_with:
        came_with = watch.came_with
        gone = came_with - view.route_names
        if watch.info is EDS:
            gone = view.not_asked(came_with) | (came_with & returning.instead)
        found = {
            name: watch.sent.get(name) if watch.sent is not None else None
            for name in gone
            if name in wanted.by_name
        }
    if watch.info is EDS and watch.sent is not None and CDS.kind in watches:
        changed = wanted.difference(watch.sent).changed
        for name in view.not_asked(changed) | (changed & returning.instead):
            told = watch.sent.get(name)
            if told is not None:
                found[name] = told
    return found


def leave_out_what_it_lacks(
    watch: Watch, suspects: Iterable[Item], watches: Watches, now: float
) -> None:
    """Suspect only what a client that rejected its first answer cannot have.

    Leaving out anything else could delete an older one that it uses. It would ask for the
    endpoints of a cluster that it has; of what has no endpoints nothing is known. When it accepts
    what is left, it is known what it holds, and the suspects are tried. When not, the culprit is
    something that it has an older one of, and it keeps that until the configuration changes.
    """
    endpoints = watches.get(EDS.kind)
    # One that asks for no endpoints has no cluster that needs them.
    asked = {"", *(endpoints.names.names if endpoints is not None else ())}
    suspects = tuple(suspects)
    lacked = [
        item for item in suspects if isinstance(item, Resource) and item.eds_name not in asked
    ]
    if watch.bisection is None and lacked and not watch.gave_up:
        watch.bisection = Bisection(lacked, now + ACKNOWLEDGE_LIMIT)
    else:
        watch.bisection = None
        watch.gave_up = True
        watch.unfound = suspects


def look_for_culprit(watch: Watch, suspects: Iterable[Item], message: str, now: float) -> Bisection:
    """Begin to look for what a client rejected; what it came with is not taken from it."""
    found = tuple(suspects)
    if any(isinstance(item, VirtualHost) and watch.only_brought(item.route) for item in found):
        return Omission(found, message, now)
    return Bisection(found, now)


def goes_on_with_what_it_brought(watch: Watch) -> bool:
    """Whether something newer is rejected, and what stays in its place is known to nobody."""
    if not watch.withholds:
        return False
    return watch.accepted is None or not watch.came_with <= watch.accepted.by_name.keys()


def hold_what_it_brought(watch: Watch, wanted: Collection) -> None:
    """The client said that it holds exactly this: nothing is sent, nothing is unanswered."""
    if not watch.initial or watch.unanswered or wanted is not watch.based:
        return
    watch.initial = {}
    watch.owed = False
    watch.accepted = wanted
    watch.version_sent = watch.version_acked = wanted.version


def give_another_chance(watch: Watch) -> None:
    """After a first answer was rejected as a whole, a change is a reason to try it again.

    Once only: from then on the suspects are kept back whatever changes.
    """
    watch.gave_up = False
    bisection = watch.bisection
    if bisection is None or bisection.trial or watch.accepted is not None or watch.retried:
        return
    if isinstance(bisection, Omission):
        return  # it looks among what changed in any case
    watch.bisection = None
    watch.retried = True
