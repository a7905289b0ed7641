"""A brain and pipes in the test's own loop, over a real Unix socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from app.cluster.ask_words import Wants
from app.cluster.brain_seat import BrainSeat
from app.cluster.leading import Leading
from app.cluster.pipe_seat import PipeSeat
from app.observability.process_watch import ProcessWatch
from app.policies.least_load import LeastLoad
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.scheduler import Ask, Grant, LocalScheduler
from app.scheduling.skip_rule import SkipRule
from app.scheduling.solo import SoloCounts
from app.scheduling.solo_chooser import SoloChooser
from app.workers.breaker import Breaker
from app.workers.checks import Checks
from app.workers.drain import Drain
from app.workers.health import HealthLoop
from app.workers.probe_rules import ProbeResult, ProbeRules
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x"}')
RULES = ProbeRules(interval_s=5.0, timeout_s=5.0, failure_threshold=3, success_threshold=2)


def make_breaker(make: Any = Breaker) -> Any:
    """A breaker that one failure opens."""
    return make(time.monotonic, 1, 1, 60.0)


class Clients:
    """Connections to workers: what was ended and dropped."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.dropped: list[str] = []
        self.heard: set[str] = set()

    def n_running(self, worker: Worker) -> int:
        return 0

    def end(self, worker: Worker) -> int:
        self.ended.append(worker.spec.url)
        return 0

    async def drop(self, worker: Worker) -> None:
        self.dropped.append(worker.spec.url)

    def take_heard(self, worker: Worker) -> bool:
        is_heard = worker.spec.url in self.heard
        self.heard.discard(worker.spec.url)
        return is_heard


async def _probe(worker: Worker) -> ProbeResult:
    return ProbeResult(True)


async def _register(worker: Worker) -> WorkerInfo:
    return WorkerInfo(("m",))


class Brain:
    """The deciding half, with one prefill and two decode workers for a start."""

    def __init__(
        self, door: socket.socket, epoch: int, n_pipes: int, leading: Leading | None = None
    ) -> None:
        self.seat = BrainSeat(door, epoch, n_pipes, leading)
        self.seat.wants = Wants
        self.registry: Registry = self.seat.registry(time.monotonic, make_breaker)
        self.seat.show(CollectorRegistry(), ProcessWatch(time.monotonic))
        self.clients = Clients()
        self.drain = Drain(self.registry, self.seat.connections(self.clients), 30.0, time.monotonic)
        self.scheduler = LocalScheduler(self.registry, LeastLoad(), LeastLoad())
        self.checks = Checks(self.registry, _probe, _register, self.seat.has_heard, time.monotonic)
        self.health = HealthLoop(self.registry, self.checks, RULES)

    def worker(self, url: str) -> Worker:
        """A worker by its URL."""
        found = self.registry.find(url)
        assert found is not None
        return found

    @property
    def n_leases(self) -> int:
        """Leases on all workers."""
        return sum(worker.n_leases + worker.n_held for worker in self.registry.workers())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Brain]:
        """Serves, its loops included."""
        specs = [
            # Replicas know a worker by the same id.
            WorkerSpec("http://p", Role.PREFILL, id="p"),
            WorkerSpec("http://d1", Role.DECODE, id="d1"),
            WorkerSpec("http://d2", Role.DECODE, id="d2"),
        ]
        parts = self.scheduler, self.health, self.drain
        async with asyncio.TaskGroup() as tasks, self.seat.running(*parts, specs):
            loops = [tasks.create_task(part.run()) for part in parts[1:]]
            await until(lambda: all(w.state is not State.JOINING for w in self.registry.workers()))
            try:
                yield self
            finally:
                for task in loops:
                    task.cancel()


class Pipe:
    """The carrying half."""

    def __init__(self, number: int, path: str, secret: str = "") -> None:
        self.seat = PipeSeat(number, path, secret)
        self.registry = self.seat.registry(time.monotonic, make_breaker)
        self.clients = Clients()
        self.seat.connections(self.clients)
        solos = SoloChooser(
            LeastLoad(), time.monotonic, SkipRule(), decodes_alone=False, counts=SoloCounts()
        )
        self.scheduler = self.seat.scheduler(solos, time.monotonic)
        self.health = self.seat.health(
            self.registry,
            Checks(self.registry, _probe, _register, self.clients.take_heard, time.monotonic),
            RULES,
        )

    def worker(self, url: str) -> Worker:
        """A worker by its URL."""
        found = self.registry.find(url)
        assert found is not None
        return found

    async def ask(self, **facts: Any) -> Grant:
        """A grant from wherever there is one."""
        return await self.scheduler.ask(Ask(replace(FACTS, **facts)))


class Rig:
    """A door that outlives brains, as the supervisor's does."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "brain")
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(self.path)
        self.door.listen(16)
        self.door.setblocking(False)

    def brain(self, epoch: int = 1, n_pipes: int = 1, leading: Leading | None = None) -> Brain:
        """A brain on the door."""
        return Brain(self.door.dup(), epoch, n_pipes, leading)

    @asynccontextmanager
    async def pipe(self, number: int = 1, secret: str = "") -> AsyncIterator[Pipe]:
        """A pipe that has been welcomed."""
        made = Pipe(number, self.path, secret)
        async with made.seat.running():
            yield made


async def until(is_so: Any, limit_s: float = 5.0) -> None:
    """Waits for something that nothing announces."""
    async with asyncio.timeout(limit_s):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@contextmanager
def rig_in(folder: Path) -> Iterator[Rig]:
    """A rig whose door is closed at the end."""
    made = Rig(folder)
    with made.door:
        yield made
