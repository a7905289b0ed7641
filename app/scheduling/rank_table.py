"""The accounts of all ranks as one table: a look at every rank is a few array operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.rank_ledger import RankLedger

_N_ROWS, _RATE, _LEAD = 5, 2, 4
"""Of a rank: when it will have finished all it has, if it works on; what it was sent too recently
to have started it, as seconds of its work; rate; from when it is fed; lead."""


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
        # Of the places that were asked for last, what makes the wait at all others infinite.
        self._asked: NDArray[np.bool_] | None = None
        self._is_usable = self._is_open
        self._barred_s = np.zeros(n_places)
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
        credit_s = ledger.credit_tokens / rate
        # If it works on, and nothing else is sent to it.
        started_s = told_s + waiting / rate + credit_s
        finished_s = backlog_s + backlog / rate
        ahead_s = ledger.ahead_tokens / rate
        window_s = min(ledger.window_tokens / rate, ahead_s)
        fed_from_s = math.inf
        if credit_s < window_s:
            full_until_s = max(started_s - window_s, finished_s - ahead_s)
            fed_from_s = max(ledger.paced_until_s, math.nextafter(full_until_s, math.inf))
        # Without a word of the engine nothing can be held back for it: bound early.
        fed_from_s = min(fed_from_s, math.nextafter(ledger.fresh_until_s, math.inf))
        self._rows[:, place] = (
            max(started_s, finished_s),
            credit_s,
            rate,
            fed_from_s,
            ledger.lead_s,
        )
        if not self._is_open[place]:
            self._is_open[place] = True
            self._asked = None
        self.knows_rate[place] = ledger.knows_rate

    def close(self, place: int) -> None:
        """A rank is no more."""
        self._is_open[place] = False
        self._asked = None
        self.knows_rate[place] = False

    def state(
        self, now_s: float, usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """By place: seconds of wait (infinite if unusable), tokens a second, can it be fed.

        Args:
            now_s: The time.
            usable: The places to look at; what is never written to is looked at once.
        """
        if self._asked is not usable:
            self._is_usable = self._is_open & usable
            self._barred_s = np.where(self._is_usable, 0.0, np.inf)
            self._asked = None if usable.flags.writeable else usable
        finished_s, credit_s, rate, fed_from_s, _ = self._rows
        wait_s = np.maximum(finished_s - now_s, credit_s)
        wait_s += self._barred_s
        return wait_s, rate, self._is_usable & (fed_from_s <= now_s)
