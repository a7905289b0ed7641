"""Whose turn it is among those that could go: shortest first, with targets, shares, priorities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.scheduling.key_shares import KeyShares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.wait_queue import Waiting, WaitQueue

AGEING = 0.8
"""Seconds of own work that a second of waiting makes up for."""
PRIORITY_S = 8.0
"""The same of a level of priority: as much as ten seconds of waiting, so nobody starves."""
URGENT_S = 2.0
"""A request whose target or deadline is so near is drawn forward, more the nearer it is."""
URGENT_WEIGHT = 3.0
"""Seconds of own work that each second of that makes up for."""


class Turns:
    """Says which request goes next.

    Within a priority the key that was given least goes first, and of its requests the one of the
    lowest order; between priorities the order alone counts, with the levels taken off.
    """

    def __init__(self) -> None:
        self._shares: dict[int, KeyShares] = {}

    def enter(self, waiting: Waiting) -> None:
        """A request begins to wait."""
        priority = waiting.slo.priority
        if (shares := self._shares.get(priority)) is None:
            shares = self._shares[priority] = KeyShares()
        shares.enter(waiting.key)

    def leave(self, waiting: Waiting) -> None:
        """A request waits no longer."""
        shares = self._shares[waiting.slo.priority]
        shares.leave(waiting.key)
        if not len(shares):
            del self._shares[waiting.slo.priority]

    def charge(self, waiting: Waiting, n_tokens: float) -> None:
        """A request was fed; to be told after it has left."""
        if (shares := self._shares.get(waiting.slo.priority)) is not None:
            shares.charge(waiting.key, n_tokens)

    def first(self, queue: WaitQueue, order: NDArray[np.float64]) -> int:
        """The row that goes first.

        Args:
            queue: Who waits.
            order: What :func:`order_of` gives, infinite for those that cannot go; one at least is
                finite.
        """
        if len(self._shares) == 1:
            (shares,) = self._shares.values()
            return shares.first(queue, order)
        best, best_s = -1, np.inf
        for priority, shares in self._shares.items():
            own = np.where(queue.priority == priority, order, np.inf)
            if np.isfinite(own).any():
                row = shares.first(queue, own)
                if (own_s := float(own[row]) - PRIORITY_S * priority) < best_s:
                    best, best_s = row, own_s
        return best


def order_of(
    queue: WaitQueue, work_s: NDArray[np.float64], wait_s: NDArray[np.float64], now_s: float
) -> NDArray[np.float64]:
    """By row, the seconds by which requests of one priority are compared; low ones go first.

    A target that can be met only if the request goes soon draws it forward. One that cannot be
    met any more does not: it would take others' targets along.

    Args:
        queue: Who waits.
        work_s: By row, the work on the rank it would go to.
        wait_s: The same of the wait there.
        now_s: The time.
    """
    order = work_s - AGEING * (now_s - queue.arrived_s)
    if queue.n_timed:
        done_s = now_s + wait_s + work_s
        near_s = np.zeros(len(order))
        for due_s in (queue.target_s, queue.deadline_s):
            rows = np.flatnonzero(np.isfinite(due_s))
            slack_s = due_s[rows] - done_s[rows]
            is_near = (slack_s >= 0) & (slack_s < URGENT_S)
            near_s[rows[is_near]] = np.maximum(near_s[rows[is_near]], URGENT_S - slack_s[is_near])
        order -= URGENT_WEIGHT * near_s
    return order
