"""Fair shares of the ranks between keys, by tokens of work: start-time fair queueing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.wait_queue import WaitQueue


@dataclass(slots=True)
class _Share:
    n_waiting: int = 0
    n_tokens: float = 0.0


class KeyShares:
    """Counts the tokens that each key was given while several keys wait.

    The key that was given least goes first. One that comes anew, or comes back, starts level
    with the one that was given least: nobody saves up by staying away.
    """

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    def enter(self, key: str) -> None:
        """A request of the key begins to wait."""
        share = self._shares.get(key)
        if share is None:
            level = min((other.n_tokens for other in self._shares.values()), default=0.0)
            share = self._shares[key] = _Share(n_tokens=level)
        share.n_waiting += 1

    def leave(self, key: str) -> None:
        """A request of the key waits no longer; the last one takes the count along."""
        share = self._shares[key]
        share.n_waiting -= 1
        if not share.n_waiting and len(self._shares) == 1:
            del self._shares[key]

    def charge(self, key: str, n_tokens: float) -> None:
        """A request of the key was fed."""
        if (share := self._shares.get(key)) is None:
            return
        share.n_tokens += n_tokens
        if not share.n_waiting:
            # It is level with the others, or behind them, before it may come back afresh.
            others = [other.n_tokens for other in self._shares.values() if other.n_waiting]
            if not others or share.n_tokens <= min(others):
                del self._shares[key]

    def first(self, queue: WaitQueue, order: NDArray[np.float64]) -> int:
        """The row that goes first: of the key with the smallest count, the lowest order.

        Args:
            queue: Who waits.
            order: By row, infinite for those that cannot go; one at least is finite.
        """
        if len(self._shares) > 1:
            counts = np.array([self._shares[waiting.key].n_tokens for waiting in queue])
            counts[np.isinf(order)] = np.inf
            order = np.where(counts == counts.min(), order, np.inf)
        return int(order.argmin())
