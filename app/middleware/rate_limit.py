"""Token buckets, one a key, each one number. Pure: no I/O, the clock is handed in."""

from __future__ import annotations

from app.clock import Clock

_ROUNDING_S = 1e-9
"""Sums of fractions are off by less; a burst of 20 must let 20 in."""


class RateLimit:
    """Lets each key do so much a second, and a burst after a pause.

    A bucket is kept as the time at which it will be full again; one that is full is like none,
    so forgetting it changes nothing. What is taken may be more than there is: the key then waits
    until its debt is paid, so that a request whose size is learnt late is counted all the same.

    Args:
        rate_per_s: What comes back each second, above 0.
        burst: What a full bucket holds, 1 or more.
        max_buckets: Most buckets that are kept. Beyond it the one least lately used is forgotten,
            which gives its key a full one.
        now_s: The clock.
    """

    __slots__ = ("_full_at_s", "_max_buckets", "_now_s", "_slack_s", "_unit_s")

    def __init__(self, rate_per_s: float, burst: float, *, max_buckets: int, now_s: Clock) -> None:
        self._unit_s = 1 / rate_per_s
        self._slack_s = (burst - 1) / rate_per_s
        self._max_buckets = max_buckets
        self._now_s = now_s
        self._full_at_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at_s)

    def wait_s(self, key: str) -> float:
        """Returns how long a key has to wait until it may take; 0 when it may now."""
        full_at_s = self._full_at_s.get(key)
        if full_at_s is None:
            return 0.0
        wait_s = full_at_s - self._now_s() - self._slack_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def take(self, key: str, n: int = 1) -> None:
        """Takes, whether there is enough or not."""
        now_s = self._now_s()
        full_at_s = self._full_at_s.pop(key, now_s)
        if len(self._full_at_s) >= self._max_buckets:
            del self._full_at_s[next(iter(self._full_at_s))]
        # At the end again: the first is always the one least lately used.
        self._full_at_s[key] = max(full_at_s, now_s) + n * self._unit_s
