"""Brings what engines tell of their caches to the places of their ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.scheduling.kv_view import Admission
from app.workers.kv_events import Cleared

if TYPE_CHECKING:
    from app.scheduling.feeder import Feeder
    from app.scheduling.kv_view import KvView
    from app.scheduling.places import Places
    from app.workers.kv_events import KvEvent
    from app.workers.worker import Worker

_STATES = ("predicted", "partial", "exact")


class KvIntake:
    """What the watch over the streams of KV events speaks to.

    Args:
        feeder: Where requests wait for what is known.
        places: The ranks.
        kv: What is known of their caches.
    """

    def __init__(self, feeder: Feeder, places: Places, kv: KvView) -> None:
        self._feeder = feeder
        self._places = places
        self._kv = kv

    def admit(self, worker: Worker, rank: int, number: int) -> Admission | None:
        """Tells what to do with a batch of a rank; None: the rank has no place."""
        place = self._place_of(worker, rank)
        if place is None:
            return None
        admission = self._kv.admit(place, number)
        if admission is Admission.RESTART:
            self._feeder.take_kv(place, Cleared())
        return admission

    def take(self, worker: Worker, rank: int, event: KvEvent) -> None:
        """Takes one event of a batch that was admitted."""
        place = self._place_of(worker, rank)
        if place is not None:
            self._feeder.take_kv(place, event)

    def forget(self, worker: Worker, rank: int) -> None:
        """What the rank told is worth nothing any more."""
        place = self._place_of(worker, rank)
        if place is not None:
            self._kv.forget(place)

    def hush(self, worker: Worker) -> None:
        """The worker is not heard at the moment."""
        for place in self._places.known(worker):
            self._kv.hush(place)

    def state(self, worker: Worker) -> str:
        """Return how well the worker's caches are known: as the least known of its ranks is."""
        states = [self._kv.state(place) for place in self._places.known(worker)]
        return min(states, key=_STATES.index, default="predicted")

    def _place_of(self, worker: Worker, rank: int) -> int | None:
        ranks = self._places.ranks
        return next((p for p in self._places.known(worker) if ranks[p][1] == rank), None)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """The sizes of block by which prompts are looked up."""
        return self._kv.block_sizes

    @property
    def n_blocks(self) -> int:
        """Blocks that are known to be held, by all ranks together."""
        return self._kv.n_blocks

    @property
    def n_orphans(self) -> int:
        """Blocks that were told of and could not be used."""
        return self._kv.n_orphans
