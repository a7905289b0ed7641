"""The rule by which workers that stay away are removed (``--remove-unhealthy-workers``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.scheduling.pairing import PAIRING_LABEL
from app.workers.states import State

if TYPE_CHECKING:
    from app.clock import Clock
    from app.workers.drain import Drain
    from app.workers.registry import Registry
    from app.workers.worker import Worker


class LostWorkers:
    """Removes a worker that has been unhealthy for too long, or never joined, if it can be spared.

    It can while at least half of the workers that do the same work, itself counted, are ready.
    So the last one of a role always stays, and if many are lost at once, it is the network or
    the gateway that is ill: nobody is removed, and all are there when it is over.

    Args:
        registry: All workers.
        drain: Removes them; what still runs on them may end.
        after_s: So long a worker must have been unhealthy.
        now_s: Clock in seconds.
    """

    def __init__(self, registry: Registry, drain: Drain, after_s: float, now_s: Clock) -> None:
        self._registry = registry
        self._drain = drain
        self._after_s = after_s
        self._now_s = now_s

    def look(self, worker: Worker) -> None:
        """Remove the worker if its time has come; to be called when it failed once more."""
        away_s = self._now_s() - worker.state_since_s
        is_lost = worker.state is State.UNHEALTHY and away_s >= self._after_s
        is_missing = worker.state is State.JOINING and worker.is_overdue
        if (is_lost or is_missing) and self._can_be_spared(worker):
            what = "unhealthy" if is_lost else "has not joined"
            self._drain.start(worker, f"{what} for {away_s:.0f} s: {worker.last_error}")

    def _can_be_spared(self, worker: Worker) -> bool:
        alike = [
            other
            for other in self._registry.workers()
            if other.state is not State.DRAINING and _do_the_same(worker, other)
        ]
        n_ready = sum(other.state is State.READY for other in alike)
        return 2 * n_ready >= len(alike)


def _do_the_same(one: Worker, other: Worker) -> bool:
    """Whether either could take the other's requests, as far as is known of them."""
    if one.spec.role is not other.spec.role or one.spec.engine is not other.spec.engine:
        return False
    if one.spec.labels.get(PAIRING_LABEL) != other.spec.labels.get(PAIRING_LABEL):
        return False
    connectors = {w.info.vllm.kv_connector for w in (one, other) if w.info.vllm is not None}
    if len(connectors) > 1:
        return False
    if not one.model_ids or not other.model_ids:
        return True
    return not set(one.model_ids).isdisjoint(other.model_ids)
