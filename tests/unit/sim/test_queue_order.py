"""The simulated prefill engine's own order of what waits on it."""

from __future__ import annotations

import asyncio

import pytest

from app.sim.jobs import Job
from app.sim.queue_order import chunk_limit, next_job
from app.sim.text import Prompt
from app.twin.fleet import FleetShape
from app.twin.replay import replay
from app.twin.trace import Row


def job(rid: str, n_uncached: int, n_computed_before: int = 0) -> Job:
    made = Job(rid=rid, room=1, prompt=Prompt("", ()), n_max=1, bell=asyncio.Event())
    made.n_uncached, made.n_computed_before = n_uncached, n_computed_before
    return made


def test_who_goes_next() -> None:
    long, short, late = job("long", 900), job("short", 100, 800), job("late", 90, 990)
    queue = [long, short, late]
    chosen = {
        policy: next_job(policy, queue, 1000)
        for policy in ("fcfs", "lpm", "shortest-prefill-first", "hrrn")
    }
    assert chosen == {"fcfs": long, "lpm": long, "shortest-prefill-first": late, "hrrn": short}
    long.end({"type": "abort"})
    assert next_job("fcfs", queue, 1000) is short
    assert next_job("hrrn", [], 1000) is None


def test_shorter_ones_share_the_step_of_one_that_is_under_way() -> None:
    queue = [job("a", 100), job("b", 250), job("c", 5000)]
    assert chunk_limit("shortest-prefill-first", 9000, queue, 1000, 10) == 1000 - 350
    assert chunk_limit("shortest-prefill-first", 200, queue, 1000, 10) == 900
    assert chunk_limit("shortest-prefill-first", 50, queue, 1000, 10) == 1000
    assert chunk_limit("fcfs", 9000, queue, 1000, 10) == 1000


@pytest.mark.parametrize("router", ["queue", "least_load"])
def test_an_engine_that_orders_serves_short_ones_first(router: str) -> None:
    """All come while the first is computed; with a policy they wait in the engine."""
    sizes = (60, 40, 30, 2)
    rows = [
        Row(0.1 * number, 512 * n_blocks, 4, tuple(1000 * number + place for place in range(100)))
        for number, n_blocks in enumerate(sizes)
    ]
    last = {}
    for order in ("fcfs", "shortest-prefill-first"):
        shape = FleetShape(n_prefill=1, n_decode=1, engine_order=order)
        last[order] = replay(rows, shape, router).ttft_s
    # In the order of their first tokens.
    short_s = {order: min(times) for order, times in last.items()}
    if router == "least_load":
        assert short_s["shortest-prefill-first"] < 0.7 * short_s["fcfs"]
    else:
        assert short_s["shortest-prefill-first"] <= 1.05 * short_s["fcfs"]
    assert all(len(times) == len(sizes) for times in last.values())
