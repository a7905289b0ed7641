"""The registry: all workers, and a snapshot of them that is cheap to ask."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.workers.breaker import Breaker
from app.workers.states import State, check_move, step
from app.workers.troubles import Troubles
from app.workers.urls import Identity, overlap, url_identity
from app.workers.worker import Role, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.clock import Clock
    from app.workers.states import Event
    from app.workers.worker import WorkerInfo, WorkerSpec

    Listener = Callable[[str, Worker], None]

N_REMEMBERED = 256
"""Workers that were removed and of which it is still told why."""


class DuplicateWorker(ValueError):
    """A worker of this URL is registered already."""

    def __init__(self, url: str, taken_by: Worker) -> None:
        super().__init__(f"A worker with the URL {url} is registered already: {taken_by.id}.")
        self.worker_id = taken_by.id
        self.state = taken_by.state


class Snapshot:
    """All workers as they stood at one change; nothing in it changes afterwards.

    Breakers and capacity back-off are live and are no part of it.

    Args:
        workers: The workers.
        troubles: Where they tell that they are in trouble now, which is live, too.
    """

    __slots__ = ("_by_model", "_known", "_model_ids", "_ready", "_wildcards", "troubles", "workers")

    def __init__(self, workers: tuple[Worker, ...], troubles: Troubles) -> None:
        self.workers = workers
        self.troubles = troubles
        # Everything is worked out here, so that asking is a dict lookup and a client that
        # makes up model names cannot make anything grow.
        ready = [worker for worker in workers if worker.state is State.READY]
        self._known = frozenset(model for worker in workers for model in worker.model_ids)
        self._model_ids = tuple(dict.fromkeys(m for worker in ready for m in worker.model_ids))
        self._ready = {
            role: tuple(worker for worker in ready if worker.spec.role is role) for role in Role
        }
        self._wildcards = {
            role: tuple(worker for worker in found if worker.is_wildcard)
            for role, found in self._ready.items()
        }
        self._by_model = {
            (role, model): tuple(
                worker for worker in found if worker.is_wildcard or model in worker.model_ids
            )
            for role, found in self._ready.items()
            for model in self._model_ids
        }

    def candidates(self, role: Role, model: str | None) -> tuple[Worker, ...]:
        """Return the ready workers of a role that serve the model (None: whatever they serve)."""
        if model is None:
            return self._ready[role]
        found = self._by_model.get((role, model))
        return found if found is not None else self._wildcards[role]

    def model_ids(self) -> tuple[str, ...]:
        """Return every model that a ready worker named, in the order of the workers."""
        return self._model_ids

    def knows_model(self, model: str) -> bool:
        """Tell whether any worker, ready or not, serves the model by name or takes any."""
        return model in self._known or any(worker.is_wildcard for worker in self.workers)


class Registry:
    """Holds the workers; every change makes a new snapshot and tells the listeners.

    Events: ``added``, ``removed`` (state GONE), ``state``, ``info``, ``spec``, and
    ``restarted`` (it could not be connected to and came back: what it cached is lost), and
    ``flushed`` (its prefix cache was emptied).

    Args:
        now_s: Clock in seconds, handed on to the workers.
        make_breaker: Makes the breaker of a new worker.

    Attributes:
        troubles: Whether any of the workers has an open breaker or is full.
    """

    def __init__(
        self,
        now_s: Clock = time.monotonic,
        make_breaker: Callable[[], Breaker] | None = None,
    ) -> None:
        self._now_s = now_s
        self._make_breaker = make_breaker if make_breaker is not None else lambda: Breaker(now_s)
        self._workers: dict[str, Worker] = {}
        self._ids_by_url: dict[Identity, str] = {}
        self._removed: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self.troubles = Troubles()
        self._snapshot = Snapshot((), self.troubles)

    def snapshot(self) -> Snapshot:
        """Return the workers as of the last change; the same object until the next."""
        return self._snapshot

    def workers(self) -> tuple[Worker, ...]:
        """Return all workers in the order in which they were added."""
        return self._snapshot.workers

    def get(self, worker_id: str) -> Worker | None:
        """Return the worker of this id."""
        return self._workers.get(worker_id)

    def find(self, url: str) -> Worker | None:
        """Return the worker of this URL, however it is written.

        Raises:
            ValueError: It is no worker URL.
        """
        worker_id = self._ids_by_url.get(url_identity(url))
        return None if worker_id is None else self._workers[worker_id]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(event, worker)`` after every change; returns what ends that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def add(self, spec: WorkerSpec) -> Worker:
        """Add a worker; it is JOINING until it was registered.

        Raises:
            DuplicateWorker: Its URL or id is taken.
        """
        identity = url_identity(spec.address)
        taken = next(
            (known for other, known in self._ids_by_url.items() if overlap(identity, other)),
            spec.id if spec.id in self._workers else None,
        )
        if taken is not None:
            raise DuplicateWorker(spec.address, self._workers[taken])
        worker = self._make(spec)
        worker.join(self.troubles)
        self._removed.pop(spec.id, None)
        self._workers[spec.id] = worker
        self._ids_by_url[identity] = spec.id
        self._changed("added", worker)
        return worker

    def why_removed(self, worker_id: str) -> str | None:
        """Return the reason of a removal; None: no worker had this id, or it is long ago."""
        return self._removed.get(worker_id)

    def apply(self, worker: Worker, event: Event, detail: str = "") -> bool:
        """Do to a worker what the table of states says of an event.

        Args:
            worker: The worker.
            event: What happened to it.
            detail: Put after the table's reason.

        Returns:
            Whether the state is another one now.
        """
        move = step(worker.state, event)
        if move is None:
            return False
        old = worker.state
        reason = f"{move.reason}: {detail}" if detail else move.reason
        if move.state is State.GONE:
            self.remove(worker.id, reason)
        else:
            self.set_state(worker, move.state, reason)
        return worker.state is not old

    def remove(self, worker_id: str, reason: str = "removed") -> Worker:
        """Take a worker out; what still runs on it keeps its leases.

        Raises:
            KeyError: No worker has this id.
        """
        worker = self._workers.pop(worker_id)
        del self._ids_by_url[url_identity(worker.spec.address)]
        if len(self._removed) >= N_REMEMBERED:
            del self._removed[next(iter(self._removed))]
        self._removed[worker_id] = reason
        # What still runs on it may yet fail; that troubles nobody here.
        worker.join(Troubles())
        self._enter(worker, State.GONE, reason)
        self._changed("removed", worker)
        return worker

    def set_state(self, worker: Worker, state: State, reason: str = "") -> None:
        """Move a worker to another state; the same state only takes the new reason.

        Raises:
            WrongMove: The table of states has no such move, e.g. out of GONE.
            ValueError: ``state`` is GONE: that is what ``remove`` does.
        """
        if state is State.GONE:
            raise ValueError("A worker becomes gone by being removed.")
        check_move(worker.state, state)
        if worker.state is state:
            worker.state_reason = reason
            return
        self._enter(worker, state, reason)
        self._changed("state", worker)

    def set_info(self, worker: Worker, info: WorkerInfo) -> None:
        """Take what the worker said of itself at a registration."""
        worker.info = info
        worker.is_discovered = True
        missing = info.dp_size - len(worker.rank_leases)
        if missing > 0:
            worker.rank_leases.extend([0] * missing)
        self._changed("info", worker)

    def set_spec(self, worker: Worker, spec: WorkerSpec) -> None:
        """Take the operator's change of labels, key, priority and so on.

        Raises:
            ValueError: The id, URL or role differs: that is another worker.
        """
        old = worker.spec
        if spec.id != old.id or spec.address != old.address or spec.role is not old.role:
            raise ValueError("A worker keeps its id, URL and role; remove it and add another.")
        worker.spec = spec
        self._changed("spec", worker)

    def announce(self, event: str, worker: Worker) -> None:
        """Tell the listeners something that changes no snapshot."""
        for listener in tuple(self._listeners):
            listener(event, worker)

    def _make(self, spec: WorkerSpec) -> Worker:
        return Worker(spec, self._make_breaker(), self._now_s)

    def _enter(self, worker: Worker, state: State, reason: str) -> None:
        worker.state = state
        worker.state_reason = reason
        worker.state_since_s = self._now_s()

    def _changed(self, event: str, worker: Worker) -> None:
        self._snapshot = Snapshot(tuple(self._workers.values()), self.troubles)
        self.announce(event, worker)
