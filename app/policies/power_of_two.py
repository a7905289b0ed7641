"""power_of_two: the less loaded of two workers drawn at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class PowerOfTwo:
    """Draws two different workers and takes the one with fewer requests of this gateway.

    Args:
        rng: Source of chance.
    """

    name = "power_of_two"
    why = ""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng if rng is not None else random.Random()

    def choose(
        self,
        candidates: Sequence[Worker],
        facts: RequestFacts,  # noqa: ARG002 - others read it
    ) -> Worker:
        """Return the less loaded of two; equal loads: the first one drawn."""
        n_candidates = len(candidates)
        if n_candidates == 1:
            return candidates[0]
        first = int(self._rng.random() * n_candidates)
        # One draw among the others: a step of 1 .. n-1 round the list never comes back to first.
        step = 1 + int(self._rng.random() * (n_candidates - 1))
        one = candidates[first]
        other = candidates[(first + step) % n_candidates]
        return other if other.n_leases < one.n_leases else one

    def forget(self, worker_id: str) -> None:
        """Nothing is kept of a worker."""

    def state(self) -> dict[str, object]:
        """Nothing is kept."""
        return {}
