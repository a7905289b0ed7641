"""A lease: one request counted on one worker, for as long as the worker has anything of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from app.workers.worker import Worker


class Lease:
    """Counts one request on a worker and on one of its data-parallel ranks until released."""

    __slots__ = ("is_held", "is_released", "rank", "worker")

    def __init__(self, worker: Worker, rank: int) -> None:
        self.worker = worker
        self.rank = rank
        self.is_released = False
        self.is_held = False
        worker.n_leases += 1
        # A worker that came back with fewer ranks keeps the longer list, so the index holds.
        worker.rank_leases[rank] += 1

    @classmethod
    def take(cls, worker: Worker, rank: int = 0) -> Self:
        """Count a request on the worker.

        Raises:
            IndexError: The worker never had such a rank.
        """
        if not 0 <= rank < len(worker.rank_leases):
            raise IndexError(f"Worker {worker.spec.url} has no rank {rank}.")
        return cls(worker, rank)

    def hold(self) -> None:
        """Count it as no load from here on, but as a reason for the worker to stay.

        For a prefill that is computed and whose KV cache decode has yet to fetch.
        """
        if self.is_released or self.is_held:
            return
        self.is_held = True
        self.worker.n_held += 1
        self._give_load_back()

    def release(self) -> None:
        """Give it back; again is harmless."""
        if self.is_released:
            return
        self.is_released = True
        if self.is_held:
            self.worker.n_held -= 1
        else:
            self._give_load_back()

    def _give_load_back(self) -> None:
        self.worker.n_leases -= 1
        self.worker.rank_leases[self.rank] -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
