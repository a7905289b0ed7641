"""The queue as metrics and tests look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.scheduling.queue_figures import QueueFigures, read_figures

if TYPE_CHECKING:
    from app.clock import Clock
    from app.scheduling.feeder import Feeder
    from app.scheduling.places import Places
    from app.scheduling.queue_parts import RankState
    from app.workers.worker import Worker


class QueueView:
    """Reads what waits and what is believed of the ranks.

    Args:
        feeder: What waits, and the ranks' accounts.
        places: The ranks.
        now_s: The clock of the queue.

    Attributes:
        n_early: Requests that were bound at once for want of a rank's place.
    """

    def __init__(self, feeder: Feeder, places: Places, now_s: Clock) -> None:
        self._feeder = feeder
        self._places = places
        self._now_s = now_s
        self.n_early = 0

    def figures(self) -> QueueFigures:
        """What metrics tell of the queue; may be called from any thread."""
        return read_figures(self._feeder, self._now_s(), self.n_early)

    def rank_states(self) -> list[RankState]:
        """What is believed of each prefill rank that has a place."""
        return self._places.states(self._now_s())

    def has_place(self, worker: Worker) -> bool:
        """Whether the queue feeds a worker; one without a place gets its share past it."""
        return self._places.knows(worker)

    def wanted(self) -> list[Worker]:
        """The prefill workers that some request waits for."""
        now_s = self._now_s()
        places = self._feeder.wanted(now_s, self._places.usable(now_s))
        return [self._places.ranks[place][0] for place in places]
