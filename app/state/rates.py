"""Tells the store what this process let in, and follows what all together did."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.state.store import Store

GAP_S = 0.02
"""Least time between two words: what it costs is bounded, however many requests there are."""
MOST_KEYS = 1000
"""Buckets in one word."""


class Shared(Protocol):
    """A limit that is shared: ``SharedRateLimit``."""

    has_taken: asyncio.Event
    unit_us: float

    def share(self) -> None:
        """What is taken is told from now on."""

    def divide(self, n: int) -> None:
        """Nobody can be told: there are so many processes."""

    def told(self) -> dict[str, int]:
        """What was taken since."""

    def follow(self, key: str, left_us: int) -> None:
        """What all together have taken."""


class SharedRate:
    """One limit.

    Args:
        store: Where the buckets are.
        name: Of the limit.
        limit: This process's view.
        n_members: Tells how many processes there are.
    """

    def __init__(
        self, store: Store, name: str, limit: Shared, n_members: Callable[[], int]
    ) -> None:
        self._store = store
        self._name = name
        self._limit = limit
        self._n_members = n_members

    async def run(self) -> None:
        """Shares the limit until cancelled.

        Raises:
            StoreAway: The store is; the limit is divided until this is run again.
        """
        limit = self._limit
        limit.share()
        try:
            while True:
                await limit.has_taken.wait()
                taken = list(limit.told().items())
                for i in range(0, len(taken), MOST_KEYS):
                    await self._tell(taken[i : i + MOST_KEYS])
                await asyncio.sleep(GAP_S)
        finally:
            limit.divide(self._n_members())

    async def _tell(self, taken: list[tuple[str, int]]) -> None:
        limit = self._limit
        costs_us = [(key, round(n * limit.unit_us)) for key, n in taken]
        left_us = await self._store.take(self._name, costs_us)
        for (key, _), us in zip(taken, left_us, strict=True):
            limit.follow(key, us)
