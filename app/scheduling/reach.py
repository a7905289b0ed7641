"""When a request that waits would have its first token, as far as the queue can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.scheduling.turns import PRIORITY_S, order_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.rank_table import RankTable
    from app.scheduling.wait_queue import Waiting, WaitQueue

WORK_WEIGHT = 3.0
"""What a second of GPU work weighs against a second of waiting: it delays all others as well."""


class Reach:
    """Foresees first tokens.

    Args:
        queue: What waits.
        table: The ranks.
    """

    def __init__(self, queue: WaitQueue, table: RankTable) -> None:
        self._queue = queue
        self._table = table

    def predicted_s(self, waiting: Waiting, now_s: float, usable: NDArray[np.bool_]) -> float:
        """Time until a request that waits would have its first token, 0 if nobody can tell.

        What goes before it now is counted, what may come and overtake it is not; nor are the
        shares of other keys. So it is rather too short than too long.
        """
        alone_s = self._alone_s(now_s, usable)[waiting.row]
        if not 0 < alone_s < np.inf:
            return 0.0
        wait_s, rate, _ = self._table.state(now_s, usable)
        cost = self._queue.uncached / rate * WORK_WEIGHT + wait_s
        best = cost.argmin(axis=1)
        work_s = (self._queue.uncached / rate)[np.arange(len(best)), best]
        order = order_of(self._queue, work_s, wait_s[best], now_s)
        order -= PRIORITY_S * self._queue.priority
        is_before = (order < order[waiting.row]) & np.isfinite(work_s)
        n_ranks = np.isfinite(self._queue.uncached[waiting.row] + wait_s).sum()
        return float(alone_s + work_s[is_before].sum() / n_ranks)

    def unreachable(self, now_s: float, usable: NDArray[np.bool_]) -> list[Waiting]:
        """The requests that would miss their deadline even if they went next."""
        if not self._queue.n_timed:
            return []
        is_late = self._queue.deadline_s - now_s < self._alone_s(now_s, usable)
        return [self._queue[row] for row in np.flatnonzero(is_late).tolist()]

    def _alone_s(self, now_s: float, usable: NDArray[np.bool_]) -> NDArray[np.float64]:
        """By row, time to the first token of a request that goes next; 0 if nobody can tell."""
        wait_s, rate, _ = self._table.state(now_s, usable)
        total_s = self._queue.uncached / rate + (wait_s + self._table.lead_s)
        best = total_s.argmin(axis=1)
        alone_s = total_s[np.arange(len(best)), best]
        return np.where(np.isfinite(alone_s) & self._table.knows_rate[best], alone_s, 0.0)
