"""Finding the culprit when an Envoy rejects several changes and names none of them.

Pure: knows hashes and times, no streams. The suspects are kept back, and a part of them is
tried at a time; what is acknowledged is innocent, a single one that is rejected is guilty. The
rule that is easy to break: every step makes the suspects fewer or the part smaller, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from controlplane.ads.types import ACKNOWLEDGE_LIMIT, Names
from controlplane.ads.virtual_hosts import Item

REST: Final = 2.0
"""Seconds of rest after a rejection before its parts are tried: never resend at once."""
_PAUSE: Final = 0.05  # seconds more for each failure in a row, up to REST
_HOPELESS: Final = 16
"""After this many failures in a row each rest is twice the one before: such a client rejects
everything, and its trials are not to cost the others."""
_LONGEST_REST: Final = 60.0  # seconds
_SINGLY: Final = 8  # this many suspects are tried one by one


class Bisection:
    """The suspects of one type on one stream."""

    __slots__ = ("_failures", "_group", "_size", "_suspects", "deadline", "not_before", "trial")

    def __init__(self, suspects: Iterable[Item], now: float) -> None:
        self._suspects: dict[str, Item] = {item.version: item for item in suspects}
        self._group = 0  # so many of the first suspects are known to hide a culprit
        self._size = self._share()
        self._failures = 0
        self.trial: Names = frozenset()
        self.not_before = now + REST
        self.deadline = 0.0  # when the trial counts as undecided

    @property
    def done(self) -> bool:
        """Whether nobody is suspected any more."""
        return not self._suspects

    @property
    def kept_back(self) -> tuple[Item, ...]:
        """What is not to be sent now."""
        return tuple(item for key, item in self._suspects.items() if key not in self.trial)

    @property
    def tried(self) -> tuple[Item, ...]:
        """What is being tried."""
        return tuple(self._suspects[version] for version in self.trial)

    @property
    def undecided(self) -> tuple[Item, ...]:
        """The suspects, once it is clear that the culprits among them cannot be found."""
        return ()

    @property
    def held_whole(self) -> tuple[Item, ...]:
        """What is kept back with all that is around it: the client may have an older one."""
        return self.kept_back

    @property
    def wakes_at(self) -> float | None:
        """When `advance` has something to do, None when only an answer helps."""
        if self.done:
            return None
        return self.deadline if self.trial else self.not_before

    def advance(self, now: float) -> bool:
        """Choose the next trial when it is time; return whether there is a new one.

        A trial without an answer (an Envoy says nothing while a cluster warms) counts as
        passed after a while: nothing waits for ever.
        """
        if self.trial and now >= self.deadline:
            self.passed()
        if self.trial or self.done or now < self.not_before:
            return False
        self.trial = self._choose()
        self.deadline = now + ACKNOWLEDGE_LIMIT
        return True

    def keep_only(self, wanted: Callable[[Item], bool]) -> None:
        """Forget suspects that are no longer wanted anyway."""
        kept = {key: item for key, item in self._suspects.items() if wanted(item)}
        if len(kept) == len(self._suspects):
            return
        self._suspects = kept
        self.trial &= kept.keys()
        self._start_over()

    def passed(self) -> None:
        """The trial was accepted."""
        for version in self.trial:
            self._suspects.pop(version, None)
        rest = self._group - len(self.trial)
        self.trial = frozenset()
        self._failures = 0
        if rest > 0:
            # The culprit is in what is left of the part that was rejected.
            self._group, self._size = rest, max(1, rest // 2)
        else:
            self._start_over()

    def failed(self, rejected: Iterable[Item], now: float, message: str = "") -> Item | None:
        """The trial was rejected; return the culprit when it is found.

        `rejected` is everything that changed in the rejected response: new ones among them
        become suspects too. `message` is what the client said.
        """
        del message  # it names nobody
        changed = {item.version: item for item in rejected}
        trial, self.trial = self.trial, frozenset()
        self._rest_after_failure(now)
        if len(changed) == 1:
            (version, culprit), *_ = changed.items()
            self._suspects.pop(version, None)
            self._start_over()
            return culprit
        rest = {key: item for key, item in self._suspects.items() if key not in changed}
        self._suspects = {**changed, **rest}
        self._group = len(changed)
        self._size = max(1, (len(trial) or len(changed)) // 2)
        return None

    def exonerate(self, versions: Iterable[str]) -> None:
        """Others were named: these are found already."""
        for version in versions:
            self._suspects.pop(version, None)
            self.trial -= {version}
        self._start_over()

    def _start_over(self) -> None:
        self._group = 0
        self._size = self._share()

    def _choose(self) -> Names:
        return frozenset(list(self._suspects)[: self._size])

    def _rest_after_failure(self, now: float) -> None:
        self._failures += 1
        self.not_before = now + self._rest()

    def _rest(self) -> float:
        if self._failures <= _HOPELESS:
            return min(REST, _PAUSE * self._failures)
        doubled = min(self._failures - _HOPELESS, 10)  # 2**10 is far above the longest rest
        return min(_LONGEST_REST, float(REST * 2**doubled))

    def _share(self) -> int:
        count = len(self._suspects)
        return 1 if count <= _SINGLY else count // 2
