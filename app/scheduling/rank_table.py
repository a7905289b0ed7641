"""The accounts of all ranks as one table: a look at every rank is a few array operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.rank_ledger import RankLedger

_N_ROWS, _RATE, _LEAD = 9, 4, 6
"""Of a rank: when it will have started what waits there and when it will have finished all, if it
works on; credit and window, as seconds of its work; rate; until when its word counts; lead; how
long it may have work for; until when it gets nothing more."""


class RankTable:
    """What :class:`RankLedger` says, by place.

    Args:
        n_places: Columns.
    """

    def __init__(self, n_places: int) -> None:
        self._rows = np.zeros((_N_ROWS, n_places))
        # A rate to divide by, where there is no rank.
        self._rows[_RATE] = 1.0
        self._is_open = np.zeros(n_places, bool)
        self.knows_rate = np.zeros(n_places, bool)
        """Whose rate was learned."""

    @property
    def lead_s(self) -> NDArray[np.float64]:
        """From dispatch until a rank can start a request."""
        lead_s: NDArray[np.float64] = self._rows[_LEAD]
        return lead_s

    def note(self, place: int, ledger: RankLedger) -> None:
        """Takes over what has changed in an account."""
        snapshot = ledger.snapshot
        waiting, told_s = (
            (0.0, 0.0) if snapshot is None else (snapshot.n_waiting_tokens, snapshot.asked_s)
        )
        backlog, backlog_s = ledger.backlog
        rate = ledger.rate_tokens_per_s
        self._rows[:, place] = (
            told_s + waiting / rate,
            backlog_s + backlog / rate,
            ledger.credit_tokens / rate,
            ledger.window_tokens / rate,
            rate,
            ledger.fresh_until_s,
            ledger.lead_s,
            ledger.ahead_tokens / rate,
            ledger.paced_until_s,
        )
        self._is_open[place] = True
        self.knows_rate[place] = ledger.knows_rate

    def close(self, place: int) -> None:
        """A rank is no more."""
        self._is_open[place] = False
        self.knows_rate[place] = False

    def state(
        self, now_s: float, usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """By place: seconds of wait (infinite if unusable), tokens a second, can it be fed."""
        started_s, finished_s, credit_s, window_s, rate, fresh_until_s, _, ahead_s, paced_s = (
            self._rows
        )
        is_usable = self._is_open & usable
        unstarted_s = np.maximum(started_s - now_s, 0.0) + credit_s
        unfinished_s = np.maximum(unstarted_s, finished_s - now_s)
        wait_s = np.where(is_usable, unfinished_s, np.inf)
        has_space = (unstarted_s < window_s) & (unfinished_s < ahead_s) & (paced_s <= now_s)
        # Without a word of the engine nothing can be held back for it: bound early.
        is_hungry = is_usable & ((fresh_until_s < now_s) | has_space)
        return wait_s, rate, is_hungry
