"""What of a replica shares workers: a registry, its drain, and a connection to a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.state.shared_workers import SharedWorkers
from app.state.sharing import Sharing
from app.state.store import Store
from app.workers.drain import Drain
from app.workers.registry import Registry
from app.workers.states import Event
from app.workers.worker import Role, Worker, WorkerSpec
from tests.redis_server import RedisServer


class Replica:
    """One of them; nobody is connected to its workers."""

    def __init__(self, redis: RedisServer, who: str, *named: WorkerSpec) -> None:
        self.store = Store(redis.url, "test")
        self.registry = Registry(time.monotonic)
        self.drain = Drain(self.registry, self, 600, time.monotonic)
        self.asked: list[str] = []
        self.specs = named
        self.workers = SharedWorkers(
            *(self.store, who, self.registry, self.drain, self),
            named=[spec.address for spec in named],
            finds_pods=False,
            unix_s=lambda: 1.0e9,
        )
        self.sharing = Sharing(self.store, who)
        self.sharing.parts += [self.workers.follow, self.workers.send]

    def post(self, url: str, **more: object) -> Worker:
        """As POST /workers; the worker joins at once."""
        worker = self.registry.add(WorkerSpec(url, Role.DECODE, **more))  # type: ignore[arg-type]
        self.workers.changed(worker)
        self.registry.apply(worker, Event.JOINED)
        return worker

    def delete(self, url: str, *, is_forced: bool = False) -> None:
        """As DELETE /workers/{id}."""
        worker = self.registry.find(url)
        assert worker is not None
        self.drain.start(worker, "asked", is_forced=is_forced)
        self.workers.removed(worker, None, is_forced=is_forced)

    def urls(self) -> set[str]:
        """The workers that it has."""
        return {worker.spec.address for worker in self.registry.workers()}

    # As the health loop, and as the connections.

    def register_anew(self, worker: Worker) -> None:
        self.asked.append(worker.spec.url)

    def n_running(self, worker: Worker) -> int:
        return 0

    def end(self, worker: Worker) -> int:
        return 0

    async def drop(self, worker: Worker) -> None:
        pass


@asynccontextmanager
async def sharing(redis: RedisServer, who: str, *named: WorkerSpec) -> AsyncIterator[Replica]:
    """Runs one, which joins what there is."""
    replica = Replica(redis, who, *named)
    for spec in await replica.workers.at_start(named, 1.0):
        worker = replica.registry.add(spec)
        replica.registry.apply(worker, Event.JOINED)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part()) for part in (replica.sharing.run, replica.drain.run)]
        try:
            yield replica
        finally:
            for task in running:
                task.cancel()
