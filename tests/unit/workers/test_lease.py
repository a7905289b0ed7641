"""Leases."""

from __future__ import annotations

import pytest

from app.workers.lease import Lease
from app.workers.worker import Role, Worker, WorkerSpec


@pytest.fixture
def worker() -> Worker:
    """A worker with two ranks."""
    made = Worker(WorkerSpec("http://a", Role.PREFILL))
    made.rank_leases = [0, 0]
    return made


def test_lease_counts_once(worker: Worker) -> None:
    """One on worker and rank while taken, none after any number of releases."""
    lease = Lease.take(worker, 1)
    assert (1, [0, 1]) == (worker.load, worker.rank_leases)
    lease.release()
    lease.release()
    assert (0, [0, 0]) == (worker.load, worker.rank_leases)


def test_held_lease_is_no_load(worker: Worker) -> None:
    """Held once instead of counted as load, and nothing after its release."""
    lease = Lease.take(worker, 1)
    lease.hold()
    lease.hold()
    assert (0, [0, 0], 1) == (worker.load, worker.rank_leases, worker.n_held)
    lease.release()
    lease.hold()
    assert (0, [0, 0], 0) == (worker.load, worker.rank_leases, worker.n_held)


def test_lease_ends_with_its_block(worker: Worker) -> None:
    """Nothing is counted after an exception."""
    loads: dict[int, str] = {}
    with pytest.raises(KeyError, match="1"), Lease.take(worker):
        loads.pop(worker.load)
    assert worker.load == 0


@pytest.mark.parametrize("rank", [-1, 2])
def test_lease_of_an_unknown_rank(worker: Worker, rank: int) -> None:
    """An IndexError, and nothing is counted."""
    with pytest.raises(IndexError):
        Lease.take(worker, rank)
    assert worker.load == 0
