"""Which waiting request goes to which prefill rank, and when: pure, with the clock handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.scheduling.fed import Fed
from app.scheduling.hit_checks import HitChecks
from app.scheduling.prefixes import Prefixes
from app.scheduling.rank_ledger import RankLedger
from app.scheduling.rank_table import RankTable
from app.scheduling.reach import WORK_WEIGHT, Reach
from app.scheduling.turns import Turns, order_of
from app.scheduling.wait_queue import Waiting, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from app.scheduling.kv_view import KvView
    from app.scheduling.prefix_index import PrefixIndex
    from app.workers.kv_events import KvEvent
    from app.workers.rank_load import RankLoad

_REFRESH_S = 0.25
"""Rows of the queue are worked out anew after this long: others may have brought the prefix."""
_MAX_REFRESHES = 32
_MAX_PASSED_OVER = 16


class Feeder:
    """Holds what waits and feeds each rank just enough.

    The cost of a request on a rank is the wait there and, weighted, the work it would be. It is
    taken over all ranks, so a request may wait for a busy one that holds its prefix. Of those
    whose best rank can be fed the shortest goes first; waiting makes it shorter.

    Args:
        index: Who holds which prefixes; its places are the feeder's.
        block_tokens: Tokens of a block of the index.
        kv: What ranks tell of their caches themselves.

    Attributes:
        queue: What waits.
        n_fed_tokens: Prompt tokens of all that was fed.
        n_fed_cached_tokens: Those of them that the index said were cached.
    """

    def __init__(self, index: PrefixIndex, block_tokens: int, kv: KvView | None = None) -> None:
        self._index = index
        self._prefixes = Prefixes(index, block_tokens, kv)
        self._ledgers: list[RankLedger | None] = [None] * index.n_places
        self._table = RankTable(index.n_places)
        self._turns = Turns()
        self._hits = HitChecks()
        self._version = 0
        self._to_add: list[tuple[int, Waiting]] = []
        # Of the request that was chosen last: until each place would have computed it, less leads.
        self._finish_s = np.zeros(index.n_places)
        self.queue = WaitQueue(index.n_places)
        self.reach = Reach(self.queue, self._table)
        self.n_fed_tokens = self.n_fed_cached_tokens = 0.0

    @property
    def ledgers(self) -> Sequence[RankLedger | None]:
        """The ranks' accounts, by place."""
        return self._ledgers

    @property
    def index_bytes(self) -> int:
        """Size of the prefix index."""
        return self._index.n_slots * self._index.bytes_per_block

    def add_rank(self, place: int, ledger: RankLedger, capacity_blocks: int) -> None:
        """Opens a rank's account at a place."""
        self.settle()
        self._ledgers[place] = ledger
        self._table.note(place, ledger)
        self._hits.restart(place, is_new=True)
        self._prefixes.add_rank(place, capacity_blocks)
        self._version += 1

    def remove_rank(self, place: int) -> None:
        """Closes a rank's account; what it held is forgotten."""
        self._ledgers[place] = None
        self._table.close(place)
        self.forget(place)
        self._prefixes.close(place)

    def forget(self, place: int) -> None:
        """Forgets what a rank's cache held, as after a flush."""
        self.settle()
        self._hits.restart(place)
        self._prefixes.forget(place)
        self._version += 1

    @property
    def has_to_settle(self) -> bool:
        """Whether something was fed since the last :meth:`settle`."""
        return bool(self._to_add)

    def settle(self) -> None:
        """Takes into the index what was fed, when there is time and before the index is read."""
        for place, waiting in self._to_add:
            if self._ledgers[place] is not None:
                self._prefixes.add(place, waiting)
        self._to_add.clear()

    def take_kv(self, place: int, event: KvEvent) -> None:
        """Takes an engine's word on its cache."""
        self.settle()
        self._prefixes.take(place, event)
        self._version += 1

    def ledger(self, place: int) -> RankLedger | None:
        """The account of a rank."""
        return self._ledgers[place]

    def take(self, place: int, snapshot: RankLoad) -> None:
        """Takes an engine's word on a rank."""
        ledger = self._ledgers[place]
        if ledger is not None:
            ledger.take(snapshot)
            self._table.note(place, ledger)

    def add(self, waiting: Waiting, now_s: float) -> None:
        """Puts a request into the queue."""
        self._turns.enter(waiting)
        self.queue.add(waiting)
        self._read(waiting, now_s)

    def set_places(self, waiting: Waiting, places: NDArray[np.bool_], now_s: float) -> None:
        """Tells anew which ranks may take a request that waits."""
        waiting.places = places
        self._read(waiting, now_s)

    def remove(self, waiting: Waiting) -> bool:
        """Takes a request out that gives up; returns whether it still waited."""
        if not self.queue.remove(waiting):
            return False
        self._turns.leave(waiting)
        return True

    def finish(self, fed: Fed, now_s: float, *, is_ok: bool, n_cached: int | None = None) -> None:
        """Notes that prefill no longer has a request; again is harmless.

        Args:
            fed: What was fed.
            now_s: The time.
            is_ok: Prefill ran to its end.
            n_cached: Tokens that prefill found in its cache, where that is known; told once.
        """
        if n_cached is not None:
            n_predicted = fed.waiting.n_tokens - fed.n_uncached
            if self._hits.note(fed.place, n_predicted, n_cached):
                self.forget(fed.place)
        if fed.waiting.prompt is not None:
            self.settle()
            self._prefixes.finish(fed.place, fed.waiting)
            self._version += 1
        ledger = self._ledgers[fed.place]
        if ledger is not None:
            ledger.finish(fed.sent, now_s, is_ok=is_ok)
            self._table.note(fed.place, ledger)

    def pump(
        self,
        now_s: float,
        usable: NDArray[np.bool_],
        has_room: Callable[[Waiting], bool] = lambda _: True,
        kept_for: Callable[[], Waiting | None] = lambda: None,
    ) -> Iterator[Fed]:
        """Feeds what can be fed, one at a time: the caller counts each before the next is chosen.

        Args:
            now_s: The time.
            usable: By place, whether a rank takes requests at all now.
            has_room: Whether decode can hold the request; one that it cannot is passed over.
            kept_for: The request for which room is kept, which then goes first.

        Yields:
            What goes where, in this order.
        """
        self._refresh(now_s)
        passed_over: set[Waiting] = set()
        while len(self.queue) and len(passed_over) < _MAX_PASSED_OVER:
            chosen = self._choose(now_s, usable, passed_over, kept_for())
            if chosen is None:
                break
            if has_room(chosen[0]):
                yield self._feed(*chosen, now_s)
            else:
                passed_over.add(chosen[0])

    def wanted(self, now_s: float, usable: NDArray[np.bool_]) -> set[int]:
        """The places of the ranks that some waiting request would go to."""
        wait_s, rate, _ = self._table.state(now_s, usable)
        cost = self.queue.uncached / rate * WORK_WEIGHT + wait_s
        rows = cost[np.isfinite(cost).any(axis=1)]
        return {int(place) for place in rows.argmin(axis=1)}

    def _choose(
        self,
        now_s: float,
        usable: NDArray[np.bool_],
        passed_over: Collection[Waiting],
        kept_for: Waiting | None,
    ) -> tuple[Waiting, int, float] | None:
        """The request that goes next, its place, and the wait there."""
        wait_s, rate, is_hungry = self._table.state(now_s, usable)
        if len(self.queue) == 1 and not passed_over:
            # As in an idle gateway: there is nothing to put in order.
            alone_s = self.queue.uncached[0] / rate
            own_cost = alone_s * WORK_WEIGHT
            own_cost += wait_s
            place = int(own_cost.argmin())
            if not is_hungry[place] or own_cost[place] == np.inf:
                return None
            self._finish_s = alone_s + wait_s
            return self.queue[0], place, float(wait_s[place])
        if not is_hungry.any():
            return None
        work_s = self.queue.uncached / rate
        cost = work_s * WORK_WEIGHT + wait_s
        best = cost.argmin(axis=1)
        rows = np.arange(len(best))
        # A place that may not take it costs infinitely much.
        goes = is_hungry[best] & np.isfinite(cost[rows, best])
        if passed_over:
            goes[[waiting.row for waiting in passed_over]] = False
        if not goes.any():
            return None
        order = order_of(self.queue, work_s[rows, best], wait_s[best], now_s)
        order[~goes] = np.inf
        if kept_for is not None and kept_for.row >= 0 and goes[kept_for.row]:
            row = kept_for.row
        else:
            row = self._turns.first(self.queue, order)
        place = int(best[row])
        self._finish_s = work_s[row] + wait_s
        return self.queue[row], place, float(wait_s[place])

    def _feed(self, waiting: Waiting, place: int, wait_ahead_s: float, now_s: float) -> Fed:
        ledger = self._ledgers[place]
        if ledger is None:
            raise RuntimeError(f"place {place} has no rank")
        if waiting.read_version != self._version:
            self._read(waiting, now_s)
        n_uncached = float(self.queue.uncached[waiting.row, place])
        self.remove(waiting)
        self._turns.charge(waiting, n_uncached)
        self._to_add.append((place, waiting))
        self._version += 1
        self.n_fed_tokens += waiting.n_tokens
        self.n_fed_cached_tokens += waiting.n_tokens - n_uncached
        expected_s = wait_ahead_s + n_uncached / ledger.rate_tokens_per_s + ledger.lead_s
        waited_s = now_s - waiting.arrived_s
        sent = ledger.send(n_uncached, now_s)
        self._table.note(place, ledger)
        finish_s = self._finish_s + self._table.lead_s
        return Fed(waiting, place, n_uncached, sent, waited_s, wait_ahead_s, expected_s, finish_s)

    def _refresh(self, now_s: float) -> None:
        n_left = _MAX_REFRESHES
        for waiting in self.queue:
            if now_s - waiting.read_s >= _REFRESH_S:
                self._read(waiting, now_s)
                n_left -= 1
                if not n_left:
                    break

    def _read(self, waiting: Waiting, now_s: float) -> None:
        self.settle()
        known = self._prefixes.n_cached(waiting)
        # An engine always computes the last token.
        row = np.maximum(waiting.n_tokens - known, 1)
        self.queue.uncached[waiting.row] = np.where(waiting.places, row, np.inf)
        waiting.read_s = now_s
        waiting.read_version = self._version
