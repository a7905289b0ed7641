"""Takes workers out of the registry once nothing of this gateway is left on them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from app.workers.states import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.clock import Clock
    from app.workers.registry import Registry
    from app.workers.worker import Worker

    Log = Callable[[str, Worker, str], None]

POLL_S = 0.05
END_GRACE_S = 2.0
"""For requests that were ended to tell their clients so, and for aborts to reach the engine."""
CLOSE_LIMIT_S = 5.0


class Connections(Protocol):
    """What the gateway has open to its workers."""

    def n_running(self, worker: Worker) -> int:
        """Calls that are open on the worker, those that no request waits for included."""

    def end(self, worker: Worker) -> int:
        """Fail every call that runs on the worker; returns how many there were."""

    async def drop(self, worker: Worker) -> None:
        """Close the connections to a worker that was removed."""


@dataclass(slots=True)
class Draining:
    """One worker on its way out.

    Attributes:
        since_s: When it began.
        deadline_s: When what still runs is ended.
        end: By what it will be gone: ``EMPTIED`` until legs had to be ended.
        ended_s: When they were.
        n_ended: How many.
    """

    worker: Worker
    since_s: float
    deadline_s: float
    end: Event = Event.EMPTIED
    ended_s: float = 0.0
    n_ended: int = 0


class Drain:
    """Owns the workers that are on their way out.

    A draining worker gets no new request. It is gone when nothing of this gateway is left on it:
    no lease, no KV cache that decode has yet to fetch, no open call. At its deadline, or at once
    if the operator forces it, the legs that still run are failed; their requests end with the
    error ``worker_removed``, which names the leg.

    Args:
        registry: Where they are registered.
        connections: What the gateway has open to them.
        limit_s: The deadline where the operator names none.
        now_s: Clock in seconds.
        log: Called with event, worker, reason; structlog if left out.
    """

    def __init__(
        self,
        registry: Registry,
        connections: Connections,
        limit_s: float,
        now_s: Clock,
        log: Log | None = None,
    ) -> None:
        self._registry = registry
        self._connections = connections
        self.limit_s = limit_s
        self._now_s = now_s
        self._log = log if log is not None else _log_event
        self._draining: dict[str, Draining] = {}
        self._has_work = asyncio.Event()

    def start(
        self,
        worker: Worker,
        reason: str,
        *,
        timeout_s: float | None = None,
        is_forced: bool = False,
    ) -> None:
        """Gives a worker no new request from now on, and removes it when it is empty.

        One that has not joined yet is gone at once. Again changes nothing, unless it names
        another time or force.

        Args:
            worker: The worker.
            reason: Who wanted it, as a clause.
            timeout_s: From now to the deadline.
            is_forced: End what runs on it now.
        """
        if worker.state is State.GONE:
            return
        now_s = self._now_s()
        self._registry.apply(worker, Event.REMOVAL, reason)
        entry = self._draining.get(worker.id)
        if entry is None:
            limit_s = self.limit_s if timeout_s is None else timeout_s
            entry = self._draining[worker.id] = Draining(worker, now_s, now_s + limit_s)
        elif timeout_s is not None:
            entry.deadline_s = now_s + timeout_s
        if is_forced and entry.end is Event.EMPTIED:
            self._end(entry, Event.FORCED, now_s)
        self._has_work.set()

    def progress(self, worker: Worker) -> Draining | None:
        """How far a worker's removal has come; None: it is not draining."""
        return self._draining.get(worker.id) if worker.state is State.DRAINING else None

    async def run(self) -> None:
        """Removes each worker when its time has come; runs until cancelled."""
        async with asyncio.TaskGroup() as closing:
            while True:
                await self._has_work.wait()
                for entry in list(self._draining.values()):
                    if self._is_through(entry):
                        del self._draining[entry.worker.id]
                        closing.create_task(self._remove(entry))
                if self._draining:
                    await asyncio.sleep(POLL_S)
                else:
                    self._has_work.clear()

    def _is_through(self, entry: Draining) -> bool:
        worker, now_s = entry.worker, self._now_s()
        if worker.state is not State.DRAINING or self._is_empty(worker):
            return True
        if entry.end is not Event.EMPTIED:
            return now_s - entry.ended_s >= END_GRACE_S
        if now_s >= entry.deadline_s:
            self._end(entry, Event.EXPIRED, now_s)
        return False

    def _is_empty(self, worker: Worker) -> bool:
        n_left = worker.n_leases + worker.n_held + self._connections.n_running(worker)
        return n_left <= 0

    def _end(self, entry: Draining, by: Event, now_s: float) -> None:
        entry.end = by
        entry.ended_s = now_s
        entry.n_ended = self._connections.end(entry.worker)

    async def _remove(self, entry: Draining) -> None:
        worker = entry.worker
        self._registry.apply(worker, entry.end, f"{entry.n_ended} ended" if entry.n_ended else "")
        self._log("removed", worker, worker.state_reason)
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._connections.drop(worker)
        except TimeoutError:
            self._log("not_closed", worker, f"Its connections are open after {CLOSE_LIMIT_S:g} s.")


def _log_event(event: str, worker: Worker, reason: str) -> None:
    log = structlog.get_logger("tandem.workers")
    write = log.info if event == "removed" else log.warning
    write(f"worker_{event}", worker=worker.spec.url, role=str(worker.spec.role), reason=reason)
