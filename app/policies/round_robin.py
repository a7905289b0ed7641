"""round_robin: the worker whose last turn is longest ago."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class RoundRobin:
    """Takes the workers in turn.

    The turns are kept by worker, not as a position in the list: a list that changes neither
    skips a worker nor gives one a second turn.
    """

    name = "round_robin"
    why = ""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turns: dict[str, int] = {}

    def choose(
        self,
        candidates: Sequence[Worker],
        facts: RequestFacts,  # noqa: ARG002 - others read it
    ) -> Worker:
        """Return the candidate that waits longest; a new one is served first."""
        last_turns = self._last_turns
        chosen = candidates[0]
        oldest = last_turns.get(chosen.id, 0)
        for worker in candidates[1:]:
            turn = last_turns.get(worker.id, 0)
            if turn < oldest:
                chosen, oldest = worker, turn
        self._turn += 1
        last_turns[chosen.id] = self._turn
        return chosen

    def forget(self, worker_id: str) -> None:
        """Drop the worker's last turn."""
        self._last_turns.pop(worker_id, None)

    def state(self) -> dict[str, object]:
        """How many turns there were."""
        return {"turns": self._turn}
