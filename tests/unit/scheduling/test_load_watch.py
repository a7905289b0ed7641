"""Who is asked for its load, and how often."""

from __future__ import annotations

import asyncio
from collections import Counter

from app.scheduling.load_watch import LoadWatch
from app.twin.virtual_time import VirtualTimeLoop
from app.workers.lease import Lease
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerSpec


async def asked_in_ten_s(n_leases: int) -> tuple[Counter[Role], list[int], list[str]]:
    now_s = asyncio.get_running_loop().time
    registry = Registry(now_s=now_s)
    for role in (Role.PREFILL, Role.DECODE):
        worker = registry.add(WorkerSpec(f"http://{role}", role))
        registry.set_state(worker, State.READY)
        for _ in range(n_leases):
            Lease.take(worker)
    asked: Counter[Role] = Counter()
    used: list[int] = []
    troubles: list[str] = []

    async def read(worker: Worker) -> object:
        asked[worker.spec.role] += 1
        return [{"num_used_tokens": 7}]

    watch = LoadWatch(
        registry,
        read=read,
        take=lambda _worker, _loads: None,
        take_used=lambda _worker, n_used: used.append(n_used),
        n_waiting=lambda: 0,
        now_s=now_s,
        interval_s=0.1,
        on_trouble=lambda worker, _why: troubles.append(worker.spec.url),
        errors=(),
    )
    running = asyncio.get_running_loop().create_task(watch.run())
    await asyncio.sleep(10.05)
    running.cancel()
    return asked, used, troubles


def test_decode_is_asked_each_tenth_time() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        asked, used, troubles = runner.run(asked_in_ten_s(2))
    assert 95 <= asked[Role.PREFILL] <= 101
    assert 9 <= asked[Role.DECODE] <= 11
    assert used == [7] * asked[Role.DECODE]
    # Its rows do not tell what waits, which counts for prefill only.
    assert troubles == ["http://prefill"]


def test_idle_workers_are_left_alone() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        asked, _, _ = runner.run(asked_in_ten_s(0))
    assert not asked
