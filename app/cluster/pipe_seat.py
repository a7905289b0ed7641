"""What a pipe has in place of the parts that live in the brain."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from app.cluster.ask_words import Wants
from app.cluster.far_scheduler import FarScheduler
from app.cluster.link import Link
from app.cluster.mirror import FarHealth, Mirror
from app.cluster.worker_copy import copy_of
from app.policies.least_load import LeastLoad
from app.scheduling.scheduler import LocalScheduler
from app.workers.drain import CLOSE_LIMIT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from app.clock import Clock
    from app.cluster.clients import Clients
    from app.cluster.wire import Message
    from app.cluster.worker_copy import Pulse, Revision, WorkerCopy
    from app.scheduling.solo_chooser import SoloChooser
    from app.workers.breaker import Breaker
    from app.workers.worker import Worker

FIRST_WORD_S = 30.0
"""A pipe accepts nobody before it knows the workers, unless the brain stays away for so long."""
REPORT_S = 0.25
_LOOK_S = 0.05


class PipeSeat:
    """A process that carries requests.

    Args:
        number: Which of the pipes, from 1.
        path: The brain's socket.

    Attributes:
        name: As logs call the process.
        link: To the brain.
        shows: What the brain may ask of this process, by name; set by who knows it. It is called
            in a thread.
    """

    def __init__(self, number: int, path: str) -> None:
        self.name = f"pipe-{number}"
        self.link = Link(path, self._greet, self._hear)
        self.shows: dict[str, Callable[..., Any]] = {"page": list}
        self._number = number
        self._tasks: asyncio.TaskGroup | None = None
        self._acts: dict[str, Callable[..., None]] = {
            "welcome": self._welcome,
            "pulse": self._feel,
            "worker": self._follow,
            "gone": self._lose,
            "end": self._end,
            "show": self._show,
        }

    def registry(self, now_s: Clock, make_breaker: Callable[[Any], Breaker]) -> Mirror:
        """Builds the registry, which follows the brain's."""
        self._mirror = Mirror(self.link, make_breaker, now_s)
        return self._mirror

    def connections(self, clients: Clients) -> Clients:
        """Takes the connections to the workers, which are closed when the brain says so."""
        self._clients = clients
        return clients

    def health(self, *parts: Any, **more: Any) -> FarHealth:
        """Builds what is told of workers in trouble."""
        return FarHealth(*parts, **more, tell=self.link.tell)

    def scheduler(self, solos: SoloChooser, now_s: Clock) -> FarScheduler:
        """Builds the scheduler."""
        early = LocalScheduler(self._mirror, LeastLoad(), LeastLoad(), now_s, solos)
        self._scheduler = FarScheduler(self.link, self._mirror, early)
        return self._scheduler

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it lasts the connection to the brain is kept up."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            keeping = [tasks.create_task(self.link.run()), tasks.create_task(self._report())]
            await self.link.welcomed(FIRST_WORD_S)
            try:
                yield
            finally:
                self._tasks = None
                for task in keeping:
                    task.cancel()

    async def call(self, *request: Any) -> Any:
        """Has the brain serve a request of the control plane.

        Raises:
            BrainAway: It is not there.
        """
        no = next(self.link.numbers)
        try:
            return await self.link.ask("call", no, *request)
        except asyncio.CancelledError:
            self.link.leave(no)
            raise

    async def gather(self, what: str, *words: Any) -> Any:
        """Has the brain ask all pipes, this one too; returns its own word and what they say.

        Raises:
            BrainAway: It is not there.
        """
        return await self.link.ask("gather", self.link.number(), what, *words)

    def _greet(self, tell: Callable[..., None]) -> None:
        mirror = self._mirror
        copies = [copy_of(worker) for worker in mirror.workers()]
        tell("hello", self._number, mirror.revision, copies)

    def _hear(self, message: Message) -> None:
        self._acts[message[0]](*message[1:])

    def _welcome(
        self, _epoch: int, copies: Sequence[WorkerCopy], revision: Revision, wants: Wants
    ) -> None:
        self._scheduler.wants = wants
        before = self._mirror.workers()
        self._mirror.take_all(copies, revision)
        for worker in before:
            if self._mirror.get(worker.id) is not worker:
                self._drop(worker)
        self._scheduler.announce()

    def _follow(self, event: str, copy: WorkerCopy, revision: Revision) -> None:
        self._mirror.take(event, copy, revision)

    def _feel(self, pulses: Sequence[Pulse], wants: Wants) -> None:
        self._scheduler.wants = wants
        self._mirror.feel(pulses)

    def _lose(self, worker_id: str, reason: str, revision: Revision) -> None:
        worker = self._mirror.drop(worker_id, reason, revision)
        if worker is not None:
            self._drop(worker)

    def _end(self, worker_id: str) -> None:
        worker = self._mirror.get(worker_id)
        if worker is not None:
            self._clients.end(worker)

    def _show(self, no: int, what: str, *words: Any) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._reply(no, self.shows[what], *words))

    async def _reply(self, no: int, show: Callable[..., Any], *words: Any) -> None:
        # Beside the loop, as for a listener.
        said = await asyncio.to_thread(show, *words)
        self.link.tell("reply", no, os.getpid(), said)

    async def _report(self) -> None:
        """Tells which workers sent something: the brain's probes may find them too busy."""
        while True:
            await asyncio.sleep(REPORT_S)
            heard = [w.id for w in self._mirror.workers() if self._clients.take_heard(w)]
            if heard:
                self.link.tell("heard", heard)

    def _drop(self, worker: Worker) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._close(worker))

    async def _close(self, worker: Worker) -> None:
        """Closes the connections to a worker that is gone, once nothing runs on them."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + CLOSE_LIMIT_S
        while self._clients.n_running(worker) and loop.time() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        await self._clients.drop(worker)
