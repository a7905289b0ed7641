"""cache_aware: the worker that has seen most of the prompt, unless the loads are uneven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.policies.least_load import LeastLoad
from app.policies.prefix_table import PrefixTable, chained_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


MAX_KEY_BYTES = 32 * 1024
"""What lies behind changes no choice worth its price."""


class CacheAware:
    """Sends prompts with a common beginning to the worker that computed it.

    As SMG 1.13: when the loads are far apart the least loaded worker is taken; else the one
    that knows most of the prompt, if that is more than ``cache_threshold`` of it; else the
    least loaded. Other than SMG it falls back to the least loaded, not the first, when the
    knowing worker is not among the candidates, and drops what it knew of removed workers.

    Args:
        cache_threshold: Share of the prompt, 0 .. 1, that a worker must know.
        balance_abs_threshold: Loads are far apart above this difference in requests ...
        balance_rel_threshold: ... and above this ratio of the highest to the lowest.
        block_bytes: Length of the blocks that are compared.
        max_blocks_per_worker: Blocks remembered of a worker; 65,536 are 16 MiB of text.
        max_blocks: Blocks remembered altogether, about 150 bytes of memory each.

    Raises:
        ValueError: A parameter is out of its range.
    """

    name = "cache_aware"
    why = ""

    def __init__(
        self,
        *,
        cache_threshold: float = 0.3,
        balance_abs_threshold: int = 64,
        balance_rel_threshold: float = 1.5,
        block_bytes: int = 256,
        max_blocks_per_worker: int = 65_536,
        max_blocks: int = 524_288,
    ) -> None:
        if not 0 <= cache_threshold <= 1:
            raise ValueError(f"cache_threshold must lie in 0..1, not {cache_threshold}.")
        if balance_abs_threshold < 0 or balance_rel_threshold < 1:
            raise ValueError("balance_abs_threshold starts at 0, balance_rel_threshold at 1.")
        if min(block_bytes, max_blocks_per_worker, max_blocks) < 1:
            raise ValueError("Block length and limits start at 1.")
        self._cache_threshold = cache_threshold
        self._balance_abs = balance_abs_threshold
        self._balance_rel = balance_rel_threshold
        self._block_bytes = block_bytes
        self._table = PrefixTable(max_blocks_per_worker, max_blocks)
        self._least_load = LeastLoad()

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return the candidate that knows the prompt best, or the least loaded one."""
        key = facts.prompt_key[:MAX_KEY_BYTES]
        hashes = chained_hashes(facts.model, key, self._block_bytes)
        if len(candidates) == 1:
            worker = candidates[0]
            self.why = "only_one"
        elif not hashes or self._is_uneven(candidates):
            worker = self._least_load.least_loaded(candidates)
            self.why = "uneven_load" if hashes else "no_prompt"
        else:
            worker = self._best_match(candidates, hashes, len(key))
        if hashes:
            self._table.add(worker.id, hashes)
        return worker

    def forget(self, worker_id: str) -> None:
        """Drop the prompts of a worker."""
        self._table.forget(worker_id)

    def state(self) -> dict[str, object]:
        """How many blocks of prompts are remembered."""
        return {"blocks": self._table.n_blocks}

    def _is_uneven(self, candidates: Sequence[Worker]) -> bool:
        lowest = highest = candidates[0].n_leases
        for worker in candidates[1:]:
            n_leases = worker.n_leases
            if n_leases < lowest:
                lowest = n_leases
            elif n_leases > highest:
                highest = n_leases
        return highest - lowest > self._balance_abs and highest > self._balance_rel * lowest

    def _best_match(
        self, candidates: Sequence[Worker], hashes: Sequence[int], n_bytes: int
    ) -> Worker:
        n_best = 0
        best: list[Worker] = []
        for worker in candidates:
            n_known = self._table.n_known(worker.id, hashes)
            if n_known > n_best:
                n_best, best = n_known, [worker]
            elif n_known == n_best:
                best.append(worker)
        n_known_bytes = min(n_best * self._block_bytes, n_bytes)
        if n_known_bytes > self._cache_threshold * n_bytes:
            self.why = "prefix"
            return self._least_load.least_loaded(best)
        self.why = "no_prefix"
        return self._least_load.least_loaded(candidates)
