"""A ring of hashes on which every key has its worker, and every worker its next one."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.workers.worker import Worker

N_POINTS = 152
"""Points of a worker, as many as eight from each hash give; SMG 1.13 has 150."""
_POINT_BYTES = 8
_POINTS_PER_HASH = blake2b.MAX_DIGEST_SIZE // _POINT_BYTES
_SPLIT = Struct(f"<{_POINTS_PER_HASH}Q")


def ring_hash(key: bytes) -> int:
    """Return a key's place, 0 .. 2**64 - 1: the same in every process, so replicas agree."""
    return int.from_bytes(blake2b(key, digest_size=_POINT_BYTES).digest(), "little")


class HashRing:
    """Points of all workers that were ever candidates, until they are forgotten.

    A worker's points depend on its URL only, so a worker that comes back takes its old keys, and
    one that goes leaves every key of the others where it is.

    Args:
        load_factor: A worker may have so many times the mean load ...
        balance_abs_threshold: ... or so many requests more than the mean, whichever is more.

    Raises:
        ValueError: A parameter is out of its range.

    Attributes:
        is_spilled: The last worker taken was not the first on the key's way.
    """

    def __init__(self, load_factor: float, balance_abs_threshold: int) -> None:
        if load_factor < 1:
            raise ValueError(f"The load factor starts at 1, not {load_factor}.")
        if balance_abs_threshold < 0:
            raise ValueError(f"The threshold starts at 0, not {balance_abs_threshold}.")
        self._load_factor = load_factor
        self._balance_abs = balance_abs_threshold
        self._points: list[tuple[int, str]] = []
        self._known: set[str] = set()
        self.is_spilled = False

    @property
    def n_workers(self) -> int:
        """Workers that have points."""
        return len(self._known)

    def take(self, candidates: Sequence[Worker], place: int) -> Worker:
        """Return the first candidate clockwise from a place that has not too much load.

        With bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016) a key that is too much for its
        worker spills to the next one on its way, always the same, so that its prefixes are
        computed twice and not everywhere.
        """
        by_id = {worker.id: worker for worker in candidates}
        if not by_id.keys() <= self._known:
            self._add(candidates)
        bound = self._bound(candidates)
        points = self._points
        n_points = len(points)
        start = bisect_left(points, (place, ""))
        self.is_spilled = False
        for offset in range(start - n_points, start):
            # Negative positions count from the end: this walks on from start and wraps round.
            worker = by_id.get(points[offset][1])
            if worker is not None:
                if worker.n_leases < bound:
                    return worker
                self.is_spilled = True
        raise ValueError("There is no candidate.")

    def forget(self, worker_id: str) -> None:
        """Take a worker's points out."""
        if worker_id in self._known:
            self._known.discard(worker_id)
            self._points = [point for point in self._points if point[1] != worker_id]

    def _bound(self, candidates: Sequence[Worker]) -> float:
        """The load below which a worker takes another one; above the lowest load in any case."""
        # As if the request were there already, so that an idle fleet has room.
        n_requests = 1
        for worker in candidates:
            n_requests += worker.n_leases
        mean = n_requests / len(candidates)
        return mean + max((self._load_factor - 1.0) * mean, self._balance_abs)

    def _add(self, candidates: Sequence[Worker]) -> None:
        for worker in candidates:
            if worker.id not in self._known:
                self._known.add(worker.id)
                self._points.extend((place, worker.id) for place in _places(worker.spec.url))
        self._points.sort()


def _places(url: str) -> list[int]:
    places: list[int] = []
    for number in range(N_POINTS // _POINTS_PER_HASH):
        places += _SPLIT.unpack(blake2b(f"{url}#{number}".encode()).digest())
    return places
