"""least_load: the worker with the fewest requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class LeastLoad:
    """Takes the worker with the fewest requests of this gateway; equal ones take turns."""

    name = "least_load"
    why = ""

    def __init__(self) -> None:
        self._start = 0

    def choose(
        self,
        candidates: Sequence[Worker],
        facts: RequestFacts,  # noqa: ARG002 - others read it
    ) -> Worker:
        """Return a candidate with the lowest load."""
        return self.least_loaded(candidates)

    def least_loaded(self, candidates: Sequence[Worker]) -> Worker:
        """Return a candidate with the lowest load.

        The search starts one further each time: without that an idle fleet would send every
        request to its first worker.
        """
        n_candidates = len(candidates)
        if n_candidates == 1:
            return candidates[0]
        start = self._start % n_candidates
        self._start = start + 1
        if not candidates[start].n_leases:
            return candidates[start]
        loads = [worker.n_leases for worker in candidates]
        least = min(loads)
        try:
            return candidates[loads.index(least, start)]
        except ValueError:
            return candidates[loads.index(least)]

    def forget(self, worker_id: str) -> None:
        """Nothing is kept of a worker."""

    def state(self) -> dict[str, object]:
        """Nothing is kept."""
        return {}
