"""The table of states, and leases."""

from __future__ import annotations

import pytest

from app.workers.lease import Lease
from app.workers.states import MOVES, State, WrongMove, check_move, may_move
from app.workers.worker import Role, Worker, WorkerSpec


def test_table_has_every_state() -> None:
    """Each state has a row and may stay as it is."""
    assert set(State) == set(MOVES)
    assert all(may_move(state, state) for state in State)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (State.GONE, State.READY),
        (State.GONE, State.JOINING),
        (State.DRAINING, State.READY),
        (State.DRAINING, State.UNHEALTHY),
    ],
)
def test_no_way_back(old: State, new: State) -> None:
    """Gone and draining workers never come back."""
    with pytest.raises(WrongMove):
        check_move(old, new)


def test_lease_counts_once() -> None:
    """One on worker and rank while held, none after any number of releases."""
    worker = Worker(WorkerSpec("http://a", Role.PREFILL))
    worker.rank_leases = [0, 0]
    lease = Lease.take(worker, 1)
    assert (1, [0, 1]) == (worker.load, worker.rank_leases)
    lease.release()
    lease.release()
    assert (0, [0, 0]) == (worker.load, worker.rank_leases)


def test_lease_ends_with_its_block() -> None:
    """Nothing is counted after an exception."""
    worker = Worker(WorkerSpec("http://a", Role.PREFILL))
    loads: dict[int, str] = {}
    with pytest.raises(KeyError, match="1"), Lease.take(worker):
        loads.pop(worker.load)
    assert worker.load == 0


@pytest.mark.parametrize("rank", [-1, 1])
def test_lease_of_an_unknown_rank(rank: int) -> None:
    """An IndexError, and nothing is counted."""
    worker = Worker(WorkerSpec("http://a", Role.PREFILL))
    with pytest.raises(IndexError):
        Lease.take(worker, rank)
    assert worker.load == 0
