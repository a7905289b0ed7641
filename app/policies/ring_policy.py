"""What the policies with a hash ring have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.policies.hash_ring import HashRing, ring_hash
from app.policies.least_load import LeastLoad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.workers.worker import Worker


class RingPolicy:
    """Gives every key its worker on a hash ring, as long as that has not too much load.

    Args:
        load_factor: A worker may have so many times the mean load ...
        balance_abs_threshold: ... or so many requests more than the mean, whichever is more.

    Raises:
        ValueError: A parameter is out of its range.
    """

    def __init__(self, load_factor: float, balance_abs_threshold: int) -> None:
        self.why = ""
        self._ring = HashRing(load_factor, balance_abs_threshold)
        self._least_load = LeastLoad()
        self._n_spilled = 0

    def take(
        self, candidates: Sequence[Worker], key: bytes | None, why: str, why_none: str
    ) -> Worker:
        """Return the key's worker, the next one on the ring, or without a key the least loaded.

        Args:
            candidates: The workers to choose among.
            key: What belongs to a worker.
            why: The reason given when the key's own worker is taken.
            why_none: The same when there is no key.
        """
        if key is None:
            self.why = why_none
            return self._least_load.least_loaded(candidates)
        worker = self._ring.take(candidates, ring_hash(key))
        self.why = "spilled" if self._ring.is_spilled else why
        self._n_spilled += self._ring.is_spilled
        return worker

    def forget(self, worker_id: str) -> None:
        """Take a worker off the ring."""
        self._ring.forget(worker_id)

    def state(self) -> dict[str, object]:
        """The workers on the ring, and how often a key's own worker had too much load."""
        return {"workers": self._ring.n_workers, "spilled": self._n_spilled}
