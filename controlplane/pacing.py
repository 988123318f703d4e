"""When a change goes out: a state machine that knows no clock, no tasks and no snapshots.

Endpoints: the first change after quiet at once, then at most one publication per interval.
Config: the first change after quiet at once, later ones when no more has come for
`debounce_after`, at the latest `debounce_max` after the first that waits. The rule that is easy
to break: times are given, never taken, so that the machine can be tested at any speed.
"""

from __future__ import annotations

import math
from typing import Final

DEBOUNCE_AFTER: Final = 0.1
DEBOUNCE_MAX: Final = 10.0
ENDPOINT_INTERVAL: Final = 0.1


class Pacing:
    """The waiting changes and the times that decide on them; all times in seconds."""

    def __init__(
        self,
        *,
        debounce_after: float = DEBOUNCE_AFTER,
        debounce_max: float = DEBOUNCE_MAX,
        endpoint_interval: float = ENDPOINT_INTERVAL,
    ) -> None:
        self._after: Final = debounce_after
        self._max: Final = debounce_max
        self._interval: Final = endpoint_interval
        self._last_publication = -math.inf
        self._endpoints_since: float | None = None
        self._config_since: float | None = None
        self._last_config = -math.inf
        self._config_due = math.inf

    def note_endpoints(self, now: float) -> None:
        """An endpoint changed."""
        if self._endpoints_since is None:
            self._endpoints_since = now

    def note_config(self, now: float) -> None:
        """Anything else changed."""
        quiet = now - self._last_config >= self._after
        if self._config_since is None:
            self._config_since = now
            self._config_due = now if quiet else now + self._after
        elif self._config_due > now:
            self._config_due = min(now + self._after, self._config_since + self._max)
        self._last_config = now

    @property
    def endpoints_due(self) -> float | None:
        """When waiting endpoint changes go out, None when there are none."""
        if self._endpoints_since is None:
            return None
        return max(self._endpoints_since, self._last_publication + self._interval)

    @property
    def config_due(self) -> float | None:
        """When waiting config changes go out, None when there are none."""
        return None if self._config_since is None else self._config_due

    @property
    def due(self) -> float | None:
        """When the next publication is due, None when nothing waits."""
        times = [time for time in (self.endpoints_due, self.config_due) if time is not None]
        return min(times, default=None)

    def published(self, now: float, *, config: bool) -> float:
        """Endpoint changes went out, and with `config` everything else did, too.

        Returns how long the one that came first had waited.
        """
        since = [self._endpoints_since, self._config_since if config else None]
        self._last_publication = now
        self._endpoints_since = None
        if config:
            self._config_since = None
            self._config_due = math.inf
        return now - min((time for time in since if time is not None), default=now)
