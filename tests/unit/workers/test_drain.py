"""Removed workers finish what they have."""

from __future__ import annotations

import asyncio

from app.workers.drain import Drain
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerSpec


class Closed:
    """Notes which workers' connections were ended."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    async def __call__(self, worker: Worker) -> None:
        self.urls.append(worker.spec.url)


async def _until_gone(registry: Registry, worker: Worker) -> None:
    async with asyncio.timeout(2):
        while registry.get(worker.id) is not None:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def test_busy_worker_stays_until_idle() -> None:
    """Draining while a lease is out, gone with closed connections when it is back."""
    registry, closed = Registry(), Closed()
    drain = Drain(registry, close=closed, limit_s=600, now_s=lambda: 0.0)
    worker = registry.add(WorkerSpec(url="http://d:1", role=Role.DECODE))
    worker.n_leases = 1
    async with asyncio.TaskGroup() as group:
        running = group.create_task(drain.run())
        drain.start(worker, "asked")
        await asyncio.sleep(0.12)
        assert (registry.get(worker.id), worker.state) == (worker, State.DRAINING)
        worker.n_leases = 0
        await _until_gone(registry, worker)
        running.cancel()
    assert closed.urls == ["http://d:1"]


async def test_late_worker_is_removed_all_the_same() -> None:
    """Gone after the limit though a lease never came back."""
    now = [0.0]
    registry = Registry()
    drain = Drain(registry, close=Closed(), limit_s=600, now_s=lambda: now[0])
    worker = registry.add(WorkerSpec(url="http://d:1", role=Role.DECODE))
    worker.n_leases = 1
    async with asyncio.TaskGroup() as group:
        running = group.create_task(drain.run())
        drain.start(worker, "asked")
        drain.start(worker, "asked again")
        now[0] = 600.0
        await _until_gone(registry, worker)
        running.cancel()
    assert worker.state is State.GONE
