"""Requests for prefill workers that the queue has no place for: more than it can feed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.scheduling.places import Found
    from app.scheduling.scheduler import Ask


class Unplaced:
    """Lets as many requests past the queue as there are workers that it cannot feed.

    Without that they would get nothing at all, and the others everything.
    """

    def __init__(self) -> None:
        self._owed = 0.0

    def ask(self, ask: Ask, found: Found) -> Ask | None:
        """What is asked of the prefill policy instead; ``None``: the request goes into the queue.

        Args:
            ask: The request.
            found: The workers that could take it.
        """
        self._owed += found.unplaced_share
        if self._owed < 1:
            return None
        self._owed -= 1
        return replace(ask, excluded=ask.excluded | found.placed_ids)
