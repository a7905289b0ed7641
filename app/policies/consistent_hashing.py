"""consistent_hashing: the worker to which the client's routing key belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.policies.hash_ring import HashRing, ring_hash
from app.policies.least_load import LeastLoad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class ConsistentHashing:
    """Gives every routing key its worker on a hash ring, as long as that has not too much load.

    The key is what the client sends in ``x-tandem-routing-key`` or ``x-smg-routing-key``. Without
    one the least loaded worker is taken; SMG 1.13 hashes credentials, an address or cookies then,
    and all users behind one key or one proxy share one worker.

    Args:
        load_factor: A worker may have so many times the mean load ...
        balance_abs_threshold: ... or so many requests more than the mean, whichever is more.

    Raises:
        ValueError: A parameter is out of its range.
    """

    name = "consistent_hashing"
    why = ""

    def __init__(self, *, load_factor: float = 1.25, balance_abs_threshold: int = 10) -> None:
        self._ring = HashRing(load_factor, balance_abs_threshold)
        self._least_load = LeastLoad()
        self._n_spilled = 0

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return the key's worker, the next one on the ring, or the least loaded."""
        key = facts.routing_key
        if key is None:
            self.why = "no_key"
            return self._least_load.least_loaded(candidates)
        worker = self._ring.take(candidates, ring_hash(key))
        self.why = "spilled" if self._ring.is_spilled else "key"
        self._n_spilled += self._ring.is_spilled
        return worker

    def forget(self, worker_id: str) -> None:
        """Take a worker off the ring."""
        self._ring.forget(worker_id)

    def state(self) -> dict[str, object]:
        """The workers on the ring, and how often a key's own worker had too much load."""
        return {"workers": self._ring.n_workers, "spilled": self._n_spilled}
