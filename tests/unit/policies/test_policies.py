"""The classic policies and their catalogue."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from app.policies.catalog import POLICIES
from app.policies.least_load import LeastLoad
from app.policies.power_of_two import PowerOfTwo
from app.policies.random_choice import RandomChoice
from app.policies.round_robin import RoundRobin
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.workers.worker import Role, Worker, WorkerSpec

FACTS: RequestFacts = peek(Route.GENERATE, b'{"text":"x"}')


def _workers(*loads: int) -> list[Worker]:
    workers = [
        Worker(WorkerSpec(f"http://w{number}", Role.PREFILL)) for number in range(len(loads))
    ]
    for worker, load in zip(workers, loads, strict=True):
        worker.n_leases = load
    return workers


def _order(policy: RoundRobin | LeastLoad, workers: Sequence[Worker], n: int) -> list[str]:
    return [policy.choose(workers, FACTS).host for _ in range(n)]


def test_catalogue_makes_new_policies_by_name() -> None:
    """Each name makes a policy of that name, with or without cache_aware's parameters."""
    names = "random round_robin power_of_two least_load cache_aware prefix_hash"
    assert {*names.split(), "consistent_hashing", "bucket", "manual"} == set(POLICIES)
    workers = _workers(0, 0)
    for name, make in POLICIES.items():
        policy = make(cache_threshold=0.5)
        assert (name, True) == (policy.name, make() is not policy)
        assert policy.choose(workers, FACTS) in workers
        assert policy.choose(workers[:1], FACTS) is workers[0]
        policy.forget(workers[0].id)
        policy.forget("nobody")


def test_random_reaches_all() -> None:
    """Each of three workers gets about a third."""
    workers = _workers(0, 0, 0)
    policy = RandomChoice(random.Random(1))
    counts = Counter(policy.choose(workers, FACTS).host for _ in range(3000))
    assert all(900 < count < 1100 for count in counts.values())


def test_round_robin_takes_turns() -> None:
    """In the order of the list, again and again."""
    assert ["w0", "w1", "w2", "w0", "w1"] == _order(RoundRobin(), _workers(0, 0, 0), 5)


def test_round_robin_with_a_changing_list() -> None:
    """The one left out is served next, nobody twice."""
    workers = _workers(0, 0, 0)
    policy = RoundRobin()
    assert ["w0", "w2"] == _order(policy, [workers[0], workers[2]], 2)
    assert ["w1", "w0", "w2"] == _order(policy, workers, 3)


def test_power_of_two_avoids_the_busiest() -> None:
    """Never the busiest of three: it loses every comparison."""
    workers = _workers(5, 1, 3)
    policy = PowerOfTwo(random.Random(1))
    counts = Counter(policy.choose(workers, FACTS).host for _ in range(600))
    assert (0, 600) == (counts["w0"], counts["w1"] + counts["w2"])
    assert counts["w1"] > counts["w2"] > 0


def test_power_of_two_spreads_equal_loads() -> None:
    """Every one of four idle workers is taken."""
    policy = PowerOfTwo(random.Random(1))
    workers = _workers(0, 0, 0, 0)
    assert {"w0", "w1", "w2", "w3"} == {policy.choose(workers, FACTS).host for _ in range(100)}


@pytest.mark.parametrize("n_before", range(4))
def test_least_load_takes_the_lowest(n_before: int) -> None:
    """The one with the fewest, wherever the search starts."""
    policy = LeastLoad()
    workers = _workers(3, 2, 1, 2)
    _order(policy, workers, n_before)
    assert policy.choose(workers, FACTS) is workers[2]


def test_least_load_takes_turns_when_equal() -> None:
    """All of an idle fleet in turn."""
    assert ["w0", "w1", "w2", "w0"] == _order(LeastLoad(), _workers(0, 0, 0), 4)
