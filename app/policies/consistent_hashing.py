"""consistent_hashing: the worker to which the client's routing key belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.policies.ring_policy import RingPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class ConsistentHashing(RingPolicy):
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

    def __init__(self, *, load_factor: float = 1.25, balance_abs_threshold: int = 10) -> None:
        super().__init__(load_factor, balance_abs_threshold)

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return the key's worker, the next one on the ring, or the least loaded."""
        return self.take(candidates, facts.routing_key, "key", "no_key")
