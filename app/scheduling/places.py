"""Each prefill rank's place in the feeder's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.scheduling.queue_parts import RankState
from app.scheduling.rank_ledger import RankLedger
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.scheduling.feeder import Feeder
    from app.scheduling.usable import UsableGroup
    from app.workers.rank_load import RankLoad
    from app.workers.troubles import Troubles
    from app.workers.worker import Worker

_STEP_TOKENS = 8192
"""SGLang's and vLLM's usual prefill chunk, where a worker names none."""
_MAX_MASKS = 256
_CACHE_TOKENS = 1_000_000
"""A guess at the KV cache of a worker that does not tell its size."""


class Found(NamedTuple):
    """Where some workers' ranks are.

    Attributes:
        mask: True at their places; not to be written to.
        unplaced_share: Of the workers, those without a place, for whom there was none left.
        placed_ids: The ids of the others, if there are such.
    """

    mask: NDArray[np.bool_]
    unplaced_share: float
    placed_ids: frozenset[str]


class Places:
    """Gives ranks of prefill workers their places, and takes them back.

    Args:
        feeder: Where the ranks' accounts are.
        n_places: Ranks that can be told apart.
        block_tokens: Tokens of a block of the prefix index.
        stale_s: Age at which a worker's word counts no more.
        troubles: Those of the workers' registry.
    """

    def __init__(
        self,
        feeder: Feeder,
        n_places: int,
        block_tokens: int,
        stale_s: float,
        troubles: Troubles,
    ) -> None:
        self._feeder = feeder
        self._troubles = troubles
        self._block_tokens = block_tokens
        self._stale_s = stale_s
        self._n_places = n_places
        self._free = list(range(n_places - 1, -1, -1))
        self._of: dict[str, list[int]] = {}
        self._found: dict[tuple[Worker, ...], Found] = {}
        self._last_found: dict[int, tuple[Sequence[Worker], Found]] = {}
        self._ready: NDArray[np.bool_] | None = None
        self.ranks: dict[int, tuple[Worker, int]] = {}
        self._roster: tuple[str, ...] | None = None

    def of(self, worker: Worker) -> list[int]:
        """The places of a worker's ranks; made when first asked for, empty if none are left."""
        known = self._of.get(worker.id)
        only = worker.spec.dp_rank if worker.info.dp_size > 1 else None
        n_ranks = max(1, worker.info.dp_size) if only is None else 1
        if known is not None and len(known) == n_ranks:
            return known
        self.drop(worker.id)
        if len(self._free) < n_ranks:
            return []
        places = [self._free.pop() for _ in range(n_ranks)]
        self._of[worker.id] = places
        self._roster = None
        info = worker.info
        n_cache_tokens = info.max_total_tokens or _CACHE_TOKENS
        for rank, place in enumerate(places):
            self._ready = None
            self.ranks[place] = (worker, rank if only is None else only)
            self._feeder.add_rank(
                place,
                _ledger(worker, self._stale_s),
                max(1, n_cache_tokens // self._block_tokens),
            )
        return places

    def known(self, worker: Worker) -> Sequence[int]:
        """The places of a worker's ranks; those of one that takes no requests if it has some."""
        return self.of(worker) if worker.state is State.READY else self._of.get(worker.id, ())

    def drop(self, worker_id: str) -> None:
        """Forgets a worker that was removed or started anew."""
        self._roster = None
        for place in self._of.pop(worker_id, ()):
            self._ready = None
            del self.ranks[place]
            self._feeder.remove_rank(place)
            self._free.append(place)

    def flush(self, worker_id: str) -> None:
        """Forgets what a worker's caches held; its ranks stay where they are."""
        for place in self._of.get(worker_id, ()):
            self._feeder.forget(place)

    @property
    def roster(self) -> tuple[str, ...]:
        """The workers' URLs by place, up to the last place that is taken."""
        if self._roster is None:
            ranks = self.ranks
            n_taken = max(ranks, default=-1) + 1
            self._roster = tuple(
                ranks[place][0].spec.url if place in ranks else "" for place in range(n_taken)
            )
        return self._roster

    def find(self, workers: Sequence[Worker]) -> Found:
        """Where these workers' ranks are; places are made for those that have none yet."""
        # The very same object comes with nearly every request; it is kept, so its id is its own.
        if (last := self._last_found.get(id(workers))) is not None:
            return last[1]
        key = tuple(workers)
        if (found := self._found.get(key)) is None:
            if len(self._found) >= _MAX_MASKS:
                self.look_again()
            # Making places may drop others.
            found = self._found[key] = self._find(key)
        if workers is key:
            if len(self._last_found) >= _MAX_MASKS:
                self._last_found.clear()
            self._last_found[id(key)] = (key, found)
        return found

    def find_all(self, groups: Sequence[UsableGroup]) -> Found:
        """Where the ranks of all prefill workers of some groups are."""
        if len(groups) == 1:
            return self.find(groups[0][0])
        return self.find([worker for prefills, _ in groups for worker in prefills])

    def knows(self, worker: Worker) -> bool:
        """Whether a worker's ranks have places."""
        return worker.id in self._of

    def has(self, workers: Sequence[Worker], place: int) -> bool:
        """Whether a rank of one of these workers is at a place."""
        return bool(self.find(workers).mask[place])

    def _find(self, workers: Sequence[Worker]) -> Found:
        mask = np.zeros(self._n_places, bool)
        placed: set[str] = set()
        for worker in workers:
            if places := self.of(worker):
                mask[places] = True
                placed.add(worker.id)
        mask.flags.writeable = False
        share = 1 - len(placed) / len(workers)
        return Found(mask, share, frozenset(placed) if share else frozenset())

    def look_again(self) -> None:
        """The workers have changed: they may have other ranks, or room may be for more."""
        self._found.clear()
        self._last_found.clear()
        self._ready = None

    def usable(self, now_s: float) -> NDArray[np.bool_]:
        """The places that take requests now; those of full workers only if no other does.

        Not to be written to.
        """
        if self._troubles.are_none(now_s):
            if self._ready is None:
                self._ready = self._look(now_s)
            return self._ready
        return self._look(now_s)

    def _look(self, now_s: float) -> NDArray[np.bool_]:
        free: list[int] = []
        full: list[int] = []
        for place, (worker, _) in self.ranks.items():
            breaker = worker.breaker
            if worker.state is State.READY and (breaker.is_closed or breaker.allows(now_s)):
                (full if worker.capacity_until_s > now_s else free).append(place)
        found = np.zeros(self._n_places, bool)
        found[free or full] = True
        found.flags.writeable = False
        return found

    def states(self, now_s: float) -> list[RankState]:
        """What is believed of each rank; may be asked from any thread."""
        return [
            RankState(
                worker.id,
                rank,
                ledger.rate_tokens_per_s,
                ledger.lead_s,
                ledger.unstarted_tokens(now_s),
                ledger.is_fresh(now_s),
            )
            for place, (worker, rank) in self.ranks.copy().items()
            if (ledger := self._feeder.ledger(place)) is not None
        ]

    def take(self, worker: Worker, loads: dict[int, RankLoad]) -> None:
        """Hands a worker's word on its ranks to the feeder."""
        for place in self._of.get(worker.id, ()):
            _, rank = self.ranks[place]
            if (load := loads.get(rank)) is not None:
                self._feeder.take(place, load)


def _ledger(worker: Worker, stale_s: float) -> RankLedger:
    info = worker.info
    step_tokens = info.chunked_prefill_size or _STEP_TOKENS
    return RankLedger(step_tokens, stale_s=stale_s)
