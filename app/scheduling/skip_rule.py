"""Which prompts are not worth a transfer: the rule, and when a worker is too busy for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.scheduling.prefix_index import PrefixIndex
from app.scheduling.prompt_blocks import BLOCK_BYTES, BLOCK_TOKENS, block_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker

N_PLACES = 192
_INDEX_BYTES = 16 * 1024 * 1024
_HEAD_BYTES = 2 * BLOCK_BYTES
_SLOTS = 256
"""Running requests of an engine that does not tell its limit (vLLM's usual ``max_num_seqs``)."""
_CACHE_TOKENS = 1_000_000
"""A guess at the KV cache of a worker that does not tell its size."""
_REOPENS_AT = 0.75


@dataclass(frozen=True, slots=True)
class SkipRule:
    """When a request goes without prefill, though a pair could take it.

    Attributes:
        below_tokens: Prompts shorter than this do; 0: none does, and the rest counts for nothing.
        cached_below_tokens: So do prompts of which fewer tokens than this are not cached ...
        uncached_share: ... if they are no larger a share of the prompt than this.
        max_load: Share of a worker's running requests from which on it gets no such prompt.
    """

    below_tokens: int = 0
    cached_below_tokens: int = 2048
    uncached_share: float = 0.7
    max_load: float = 0.8

    def is_short(self, n_tokens: int) -> bool:
        """Whether a prompt is short enough by itself."""
        return n_tokens < self.below_tokens

    def is_cached(self, n_tokens: int, n_uncached: int) -> bool:
        """Whether enough of a prompt is cached where it would be computed."""
        return (
            n_uncached < self.cached_below_tokens and n_uncached <= self.uncached_share * n_tokens
        )


class LoadGate:
    """Leaves busy workers out until they are clearly less busy again, so that nothing flaps.

    Args:
        max_load: Share of the running requests at which a worker is left out; it is back at
            three quarters of that.
    """

    def __init__(self, max_load: float) -> None:
        self._max_load = max_load
        self._closed: set[str] = set()

    def is_open(self, worker: Worker) -> bool:
        """Whether the worker has time for prompts of others' work."""
        n_slots = worker.info.max_running_requests or _SLOTS
        load = worker.n_leases / n_slots
        if worker.id in self._closed:
            if load >= self._max_load * _REOPENS_AT:
                return False
            self._closed.discard(worker.id)
        elif load >= self._max_load:
            self._closed.add(worker.id)
            return False
        return True

    def forget(self, worker_id: str) -> None:
        """Drop a worker that was removed."""
        self._closed.discard(worker_id)


class CachedPrompts:
    """Which prompts the workers have served, as far as they still hold them."""

    def __init__(self) -> None:
        self._index = PrefixIndex(_INDEX_BYTES, N_PLACES)
        self._places: dict[str, int] = {}
        self._free = list(range(self._index.n_places - 1, -1, -1))

    def n_uncached(self, workers: Sequence[Worker], facts: RequestFacts) -> list[int]:
        """Return the prompt tokens that each worker would have to compute."""
        n_tokens, places = facts.n_prompt_tokens, self._places
        if not places:
            return [n_tokens] * len(workers)
        if len(facts.prompt_key) > _HEAD_BYTES:
            # Of a prompt that nobody has seen no more than its beginning need be hashed.
            head = replace(facts, prompt_key=facts.prompt_key[:_HEAD_BYTES])
            if not self._index.known(block_hashes(head)).any():
                return [n_tokens] * len(workers)
        known = self._index.known(block_hashes(facts))
        return [
            n_tokens
            if (place := places.get(worker.id)) is None
            else max(0, n_tokens - int(known[place]) * BLOCK_TOKENS)
            for worker in workers
        ]

    def note(self, worker: Worker, facts: RequestFacts) -> None:
        """Note that a worker has served a prompt, and so has its KV cache."""
        place = self._places.get(worker.id)
        if place is None:
            if not self._free:
                return
            place = self._places[worker.id] = self._free.pop()
            n_cache_tokens = worker.info.max_total_tokens or _CACHE_TOKENS
            self._index.add_rank(place, max(1, n_cache_tokens // BLOCK_TOKENS))
        self._index.add(place, block_hashes(facts))

    def forget(self, worker_id: str) -> None:
        """Drop what a worker held that was removed or started anew."""
        place = self._places.pop(worker_id, None)
        if place is not None:
            self._index.forget(place)
            self._free.append(place)
