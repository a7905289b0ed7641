"""Whether any worker of a registry is in trouble: nearly always none is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.workers.breaker import Breaker


class Troubles:
    """Which breakers of a registry are not closed, and until when one of its workers may be full.

    So a fleet of a thousand workers need not be gone through for a request.
    """

    __slots__ = ("_full_until_s", "_not_closed")

    def __init__(self) -> None:
        self._not_closed: set[Breaker] = set()
        self._full_until_s = 0.0

    def are_none(self, now_s: float) -> bool:
        """Tell whether all breakers are closed and no worker is full."""
        return not self._not_closed and self._full_until_s <= now_s

    def note_breaker(self, breaker: Breaker) -> None:
        """Take over what a breaker has become."""
        if breaker.is_closed:
            self._not_closed.discard(breaker)
        else:
            self._not_closed.add(breaker)

    def forget_breaker(self, breaker: Breaker) -> None:
        """Drop the breaker of a worker that was removed."""
        self._not_closed.discard(breaker)

    def note_full(self, until_s: float) -> None:
        """Note that a worker is full until then."""
        self._full_until_s = max(self._full_until_s, until_s)
