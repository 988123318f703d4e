"""A token bucket: how often something may be done."""

from __future__ import annotations

from typing import Final


class TokenBucket:
    """Allows `rate` a second in the long run, and `burst` at once after a rest."""

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        self._rate: Final = rate
        self._burst: Final = float(burst)
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate
