"""Fair shares of the ranks between keys, by tokens of work: start-time fair queueing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.wait_queue import WaitQueue

_MAX_IDLE = 1024
"""Keys remembered that have nothing waiting: anybody may make up new ones where a header tells."""


@dataclass(slots=True)
class _Share:
    n_waiting: int = 0
    n_tokens: float = 0.0


class KeyShares:
    """Counts the tokens that each key was given while several keys wait.

    The key that was given least goes first. One that comes anew, or comes back, starts level
    with the one that waits and was given least: nobody saves up by staying away.
    """

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self._n_waiting_keys = 0

    def __len__(self) -> int:
        return len(self._shares)

    def enter(self, key: str) -> None:
        """A request of the key begins to wait."""
        share = self._shares.get(key)
        if share is None:
            share = _Share()
        if not share.n_waiting:
            share.n_tokens = max(share.n_tokens, self._level())
            self._shares[key] = share
            self._n_waiting_keys += 1
        share.n_waiting += 1

    def leave(self, key: str) -> None:
        """A request of the key waits no longer; the last one of all takes every count along."""
        share = self._shares[key]
        share.n_waiting -= 1
        if share.n_waiting:
            return
        self._n_waiting_keys -= 1
        if not self._n_waiting_keys:
            self._shares.clear()
        elif len(self._shares) > self._n_waiting_keys + _MAX_IDLE:
            self._forget_idle()

    def charge(self, key: str, n_tokens: float) -> None:
        """A request of the key was fed."""
        # One that has nothing waiting any more keeps its count until the others have caught up.
        if (share := self._shares.get(key)) is not None:
            share.n_tokens += n_tokens

    def first(self, queue: WaitQueue, order: NDArray[np.float64]) -> int:
        """The row that goes first: of the key with the smallest count, the lowest order.

        Args:
            queue: Who waits.
            order: By row, infinite for those that cannot go; one at least is finite.
        """
        if len(self._shares) > 1:
            rows = np.flatnonzero(np.isfinite(order))
            counts = np.array([self._shares[queue[row].key].n_tokens for row in rows.tolist()])
            rows = rows[counts == counts.min()]
            return int(rows[order[rows].argmin()])
        return int(order.argmin())

    def _level(self) -> float:
        waiting = (share.n_tokens for share in self._shares.values() if share.n_waiting)
        return min(waiting, default=0.0)

    def _forget_idle(self) -> None:
        """Drops those that are level by now; if most are not, all of them."""
        level = self._level()
        kept = {k: s for k, s in self._shares.items() if s.n_waiting or s.n_tokens > level}
        if len(kept) > self._n_waiting_keys + _MAX_IDLE // 2:
            kept = {key: share for key, share in kept.items() if share.n_waiting}
        self._shares = kept
