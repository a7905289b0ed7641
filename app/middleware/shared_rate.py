"""Token buckets that several processes draw from, without waiting for each other."""

from __future__ import annotations

import asyncio

from app.clock import Clock
from app.middleware.rate_limit import RateLimit


class SharedRateLimit(RateLimit):
    """A process's view of buckets that are kept elsewhere.

    A request is let in or refused by this view alone; what was taken is told afterwards, and the
    answer, what all together have taken, is the new view. In between processes may let in more
    than the bucket holds: it then has a debt, so the rate over time is the one that was asked for.

    Args:
        rate_per_s: As of :class:`RateLimit`, like the following ones.

    Attributes:
        has_taken: Set while there is something to tell.
        unit_us: How long one unit takes to come back.
    """

    __slots__ = ("_burst", "_is_shared", "_rate_per_s", "_taken", "has_taken", "unit_us")

    def __init__(self, rate_per_s: float, burst: float, *, max_buckets: int, now_s: Clock) -> None:
        super().__init__(rate_per_s, burst, max_buckets=max_buckets, now_s=now_s)
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._is_shared = False
        self._taken: dict[str, int] = {}
        self.has_taken = asyncio.Event()
        self.unit_us = 1_000_000 / rate_per_s

    def take(self, key: str, n: int = 1) -> None:
        """Takes, whether there is enough or not."""
        super().take(key, n)
        if self._is_shared:
            self._taken[key] = self._taken.get(key, 0) + n
            self.has_taken.set()

    def share(self) -> None:
        """From now on what is taken is told."""
        self._is_shared = True
        self._unit_s = 1 / self._rate_per_s
        self._slack_s = (self._burst - 1) / self._rate_per_s

    def divide(self, n: int) -> None:
        """From now on nobody can be told: each of so many processes has its part."""
        self._is_shared = False
        self._taken.clear()
        self.has_taken.clear()
        self._unit_s = n / self._rate_per_s
        self._slack_s = (max(1.0, self._burst / n) - 1) * self._unit_s

    def told(self) -> dict[str, int]:
        """Returns how much was taken by key since this was called last."""
        taken, self._taken = self._taken, {}
        self.has_taken.clear()
        return taken

    def follow(self, key: str, left_us: int) -> None:
        """Takes over when a bucket is full again, all that was told included."""
        left_s = left_us / 1_000_000 + self._taken.get(key, 0) * self._unit_s
        self._full_at_s.pop(key, None)
        if left_s > 0:
            self._full_at_s[key] = self._now_s() + left_s
