"""The hash ring: who moves when workers come and go, and how uneven it may get."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.policies.hash_ring import HashRing, ring_hash
from app.workers.worker import Role, Worker, WorkerSpec

NO_BOUND = 1_000_000_000
hosts = st.sets(st.integers(0, 10_000), min_size=2, max_size=12)
keys = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=40)


def fleet(numbers: set[int]) -> list[Worker]:
    return [Worker(WorkerSpec(f"http://w{number}:1", Role.DECODE)) for number in sorted(numbers)]


@given(hosts, keys, st.integers(0, 11), st.booleans())
def test_only_the_keys_of_a_worker_that_goes_move(
    numbers: set[int], asked: list[bytes], which: int, is_forgotten: bool
) -> None:
    """Whether it is forgotten or only no candidate; when it is back, all is as before."""
    workers, ring = fleet(numbers), HashRing(1.25, NO_BOUND)
    before = {key: ring.take(workers, ring_hash(key)) for key in asked}
    gone = workers[which % len(workers)]
    rest = [worker for worker in workers if worker is not gone]
    if is_forgotten:
        ring.forget(gone.id)
    for key, worker in before.items():
        now = ring.take(rest, ring_hash(key))
        assert now is not gone
        if worker is not gone:
            assert now is worker
    assert before == {key: ring.take(workers, ring_hash(key)) for key in asked}


@given(hosts, keys, st.integers(10_001, 20_000))
def test_a_new_worker_takes_keys_and_no_others_move(
    numbers: set[int], asked: list[bytes], new: int
) -> None:
    workers, ring = fleet(numbers), HashRing(1.25, NO_BOUND)
    before = {key: ring.take(workers, ring_hash(key)) for key in asked}
    (newcomer,) = fleet({new})
    for key, worker in before.items():
        assert ring.take([*workers, newcomer], ring_hash(key)) in (worker, newcomer)


@given(
    hosts,
    st.lists(st.integers(0, 3), min_size=1, max_size=120),
    st.floats(1.0, 3.0),
    st.integers(0, 12),
)
def test_no_worker_is_given_more_than_the_bound(
    numbers: set[int], asked: list[int], factor: float, extra: int
) -> None:
    """However few the keys: no more than the factor or the difference allows, rounded up."""
    workers, ring = fleet(numbers), HashRing(factor, extra)
    for key in asked:
        worker = ring.take(workers, ring_hash(b"%d" % key))
        worker.n_leases += 1
        mean = sum(one.n_leases for one in workers) / len(workers)
        assert worker.n_leases <= math.ceil(max(mean * factor, mean + extra) + 1e-9)


def test_many_keys_spread_evenly() -> None:
    """Of 20,000 keys each of ten workers has a tenth, give or take four tenths of it."""
    workers, ring = fleet(set(range(10))), HashRing(1.25, NO_BOUND)
    n_keys = dict.fromkeys(workers, 0)
    for number in range(20_000):
        n_keys[ring.take(workers, ring_hash(b"%d" % number))] += 1
    assert 1200 < min(n_keys.values()) <= max(n_keys.values()) < 2800
