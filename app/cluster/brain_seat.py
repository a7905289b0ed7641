"""The process that decides: the one registry and scheduler, served to all pipes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from app.cluster.gathering import Gathering
from app.cluster.merged_pages import MergedPages
from app.cluster.pipe_desk import PipeDesk
from app.cluster.restoring import restore
from app.cluster.worker_copy import NEVER, copy_of, pulse_of
from app.errors import InternalError
from app.workers.registry import Registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from prometheus_client import CollectorRegistry

    from app.clock import Clock
    from app.cluster.ask_words import Wants
    from app.cluster.leading import Leading
    from app.cluster.wire import Message
    from app.cluster.worker_copy import Pulse
    from app.observability.process_watch import ProcessWatch
    from app.scheduling.scheduler import Scheduler
    from app.workers.drain import Connections, Drain
    from app.workers.health import HealthLoop
    from app.workers.worker import Worker, WorkerSpec

    Call = Callable[..., Awaitable[tuple[int, list[tuple[bytes, bytes]], bytes]]]

PULSE_S = 0.1
RESTORE_S = 1.0
"""So long a brain that takes another's place waits for all pipes to say what they know."""


class BrainSeat:
    """Serves the pipes.

    Args:
        listener: A Unix socket that listens already; it outlives the process.
        epoch: Which brain this is, from 1.
        n_pipes: How many pipes there are.
        leading: Has it decide for other replicas too.

    Attributes:
        name: As logs call the process.
        call: Serves a request of the control plane; set by who has the routes.
        wants: Returns what of prompts the scheduler needs; set likewise.
        replica: Names this gateway among all, also after this process began anew; set likewise.
        shown: The metrics of all processes.
        fleet: Tells what only this process knows of the last minutes; set by who knows it.
    """

    def __init__(
        self, listener: socket.socket, epoch: int, n_pipes: int, leading: Leading | None = None
    ) -> None:
        self.name = "brain"
        self.leading = leading
        self.replica = ""
        self.call: Call
        self.wants: Callable[[], Wants]
        self._listener = listener
        self._epoch = epoch
        self._n_pipes = n_pipes
        self._desks: dict[PipeDesk, bool] = {}
        """Each with whether it was welcomed."""
        self._n_changes = 0
        self._said: dict[str, Pulse] = {}
        self._heard: set[str] = set()
        self._gathering = Gathering()
        self.fleet: Callable[[], Any] = dict
        self._is_restored = asyncio.Event()
        self.shown: MergedPages
        self._desk_parts: tuple[Registry, Scheduler, HealthLoop, asyncio.TaskGroup]
        self._log = structlog.get_logger("tandem.cluster")

    # The parts that differ from those of a gateway in one process.

    def registry(self, now_s: Clock, make_breaker: Callable[[], Any]) -> Registry:
        """Builds the registry, every change of which is told to the pipes."""
        self._registry = Registry(now_s, make_breaker)
        self._registry.subscribe(self._on_event)
        return self._registry

    def show(self, own: CollectorRegistry, watch: ProcessWatch) -> None:
        """Takes this process's metrics, which are shown together with the pipes'."""
        self.shown = MergedPages(own, watch, partial(self._gather, "page"))

    def has_heard(self, worker: Worker) -> bool:
        """Tells whether the worker sent some pipe something since this was asked last."""
        if worker.id in self._heard:
            self._heard.discard(worker.id)
            return True
        return False

    def connections(self, clients: Connections) -> Connections:
        """Returns the connections to the workers, the pipes' included."""
        return _AllConnections(clients, self)

    @asynccontextmanager
    async def running(
        self, scheduler: Scheduler, health: HealthLoop, drain: Drain, specs: Iterable[WorkerSpec]
    ) -> AsyncIterator[None]:
        """While it lasts the pipes are served.

        Args:
            scheduler: Grants pairs.
            health: Told of workers in trouble.
            drain: Goes on with removals that an earlier brain began.
            specs: The workers that the settings name, for the first brain.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self._desk_parts = self._registry, scheduler, health, tasks
            server = await loop.create_unix_server(self._accept, sock=self._listener)
            self.shown.loop = loop
            if self._epoch > 1:
                await self._hear_all()
            copies = max(self._desks, key=lambda desk: desk.revision, default=None)
            if copies is None or copies.revision == NEVER:
                for spec in specs:
                    self._registry.add(spec)
            else:
                restore(self._registry, drain, copies.copies)
            self._is_restored.set()
            for desk in self._desks:
                self._welcome(desk)
            pulsing = tasks.create_task(self._pulse())
            serving = None if self.leading is None else self._lead(self.leading)
            try:
                yield
            finally:
                server.close()
                pulsing.cancel()
                if serving is not None:
                    serving.cancel()
                for desk in tuple(self._desks):
                    desk.wire.abort()

    def _lead(self, leading: Leading) -> asyncio.Task[None]:
        """Opens the door to pipes of other replicas; this one's are told who decides."""
        leading.wants = self.wants
        leading.on_change = lambda: self.tell_all("leader", *leading.leader)
        return self._desk_parts[-1].create_task(leading.serve(*self._desk_parts))

    async def _hear_all(self) -> None:
        end_s = asyncio.get_running_loop().time() + RESTORE_S
        while asyncio.get_running_loop().time() < end_s:
            if sum(desk.number > 0 for desk in self._desks) >= self._n_pipes:
                return
            await asyncio.sleep(0.01)

    # Pipes.

    def _accept(self) -> asyncio.Protocol:
        desk = PipeDesk(*self._desk_parts, self._on_call, self._on_end)
        self._desks[desk] = False
        return desk.wire

    def _on_end(self, desk: PipeDesk) -> None:
        del self._desks[desk]
        self._gathering.lose(desk)
        if desk.number:
            self._log.info("pipe has left", pipe=desk.number, epoch=self._epoch)

    def _on_call(self, desk: PipeDesk, message: Message) -> None:
        what, *words = message
        if what == "hello":
            desk.number, desk.revision, desk.copies = words
            if self._is_restored.is_set():
                self._welcome(desk)
        elif what == "heard":
            self._heard.update(words[0])
        elif what == "call":
            desk.tasks.create_task(self._serve(desk, words[0], self.call, *words[1:]))
        elif what == "gather":
            desk.tasks.create_task(self._serve(desk, words[0], self._look, *words[1:]))
        elif what == "reply":
            self._gathering.take(desk, *words)

    def _welcome(self, desk: PipeDesk) -> None:
        if not desk.number or self._desks[desk]:
            return
        self._desks[desk] = True
        copies = [copy_of(worker) for worker in self._registry.workers()]
        desk.wire.tell("welcome", self._epoch, copies, self._revision, self.wants())
        if self.leading is not None:
            desk.wire.tell("leader", *self.leading.leader)

    @property
    def _revision(self) -> tuple[int, int]:
        return self._epoch, self._n_changes

    async def _serve(
        self, desk: PipeDesk, no: int, serve: Callable[..., Awaitable[Any]], *words: Any
    ) -> None:
        try:
            desk.wire.tell("answer", no, await serve(*words))
        except Exception as error:  # noqa: BLE001 - the pipe shows it
            self._log.exception("a request of the control plane failed")
            desk.wire.tell("refuse", no, InternalError(f"The brain failed: {error!r}"))

    # What pipes are told.

    def tell_all(self, *message: Any) -> None:
        """Tells all pipes."""
        for desk, is_welcome in self._desks.items():
            if is_welcome:
                desk.wire.tell(*message)

    def _on_event(self, event: str, worker: Worker) -> None:
        self._n_changes += 1
        if event == "removed":
            self._said.pop(worker.id, None)
            self._heard.discard(worker.id)
            self.tell_all("gone", worker.id, worker.state_reason, self._revision)
        else:
            self.tell_all("worker", event, copy_of(worker), self._revision)

    async def _pulse(self) -> None:
        while True:
            fresh = []
            for worker in self._registry.workers():
                pulse = pulse_of(worker)
                if self._said.get(worker.id) != pulse:
                    self._said[worker.id] = pulse
                    fresh.append(pulse)
            self.tell_all("pulse", fresh, self.wants())
            await asyncio.sleep(PULSE_S)

    async def _gather(self, what: str, *words: Any) -> list[tuple[int, int, Any]]:
        """Returns number, process id and answer of all pipes that answer in time."""
        desks = [desk for desk, is_welcome in self._desks.items() if is_welcome]
        return await self._gathering.ask(desks, what, *words)

    async def _look(self, what: str, *words: Any) -> tuple[Any, list[tuple[int, int, Any]]]:
        """Returns what this process has to say as well, and what all pipes say."""
        own = await asyncio.to_thread(self.fleet) if what == "carried" else None
        return own, await self._gather(what, *words)


class _AllConnections:
    """The brain's own connections to workers, and an end to those of the pipes."""

    def __init__(self, own: Connections, brain: BrainSeat) -> None:
        self._own = own
        self._brain = brain

    def n_running(self, worker: Worker) -> int:
        """Calls of this process that are open; those of pipes are counted as leases."""
        return self._own.n_running(worker)

    def end(self, worker: Worker) -> int:
        """Fail every call that runs on the worker; returns how many requests that are."""
        self._brain.tell_all("end", worker.id)
        return self._own.end(worker) + worker.n_leases + worker.n_held

    async def drop(self, worker: Worker) -> None:
        """Close this process's connections to a worker that was removed; pipes do it likewise."""
        await self._own.drop(worker)
