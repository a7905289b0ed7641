"""The brain's end of one pipe: its asks, and everything that it holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from app.cluster.ask_words import read_ask, reason_words
from app.cluster.wire import Wire
from app.errors import GatewayError, InternalError, drop_frames
from app.scheduling.grant import Grant, Outcome
from app.scheduling.scheduler import LocalScheduler
from app.workers.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cluster.wire import Message
    from app.cluster.worker_copy import Revision, WorkerCopy
    from app.scheduling.scheduler import Scheduler
    from app.workers.breaker import Trial
    from app.workers.health import HealthLoop
    from app.workers.registry import Registry
    from app.workers.worker import Worker

Leases = dict[str, Lease]
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class PipeDesk:
    """Serves one pipe; when the connection ends, all that it held is given back.

    Args:
        registry: The workers.
        scheduler: Grants pairs.
        health: Told of workers in trouble.
        tasks: Owns the asks that wait.
        on_call: Serves the messages that are not of the scheduler: ``hello``, ``call``, ``reply``.
        on_end: Told that the connection has ended.

    Attributes:
        number: Which pipe; 0: it has not said hello.
        tasks: Owns the asks that wait.
        revision: How far its copy of the registry was, when it said hello.
        copies: That copy.
    """

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        health: HealthLoop,
        tasks: asyncio.TaskGroup,
        on_call: Callable[[PipeDesk, Message], None],
        on_end: Callable[[PipeDesk], None],
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._health = health
        self.tasks = tasks
        self._on_call = on_call
        self._on_end = on_end
        self.wire = Wire(self._hear, self._leave)
        self.number = 0
        self.revision: Revision = (0, 0)
        self.copies: list[WorkerCopy] = []
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._held: dict[int, Grant | Leases] = {}
        self._acts: dict[str, Callable[..., None]] = {
            "ask": self._ask,
            "cancel": self._cancel,
            "held": self.hold,
            "done": self._done,
            "computed": self._computed,
            "prefilled": self._prefilled,
            "moved": self._moved,
            "good": self._good,
            "sums": self._sums,
            "bad": self._bad,
            "full": self._full,
            "error": self._error,
            "probe": self._probe,
            "cut": self._cut,
        }

    @property
    def n_held(self) -> int:
        """Requests of the pipe that hold workers."""
        return len(self._held)

    def _hear(self, message: Message) -> None:
        act = self._acts.get(message[0])
        if act is None:
            self._on_call(self, message)
        else:
            act(*message[1:])

    def _leave(self) -> None:
        for task in self._asking.values():
            task.cancel()
        for no in tuple(self._held):
            self._done(no, Outcome.CANCELLED, None)
        self._on_end(self)

    # Pairs.

    def _ask(self, no: int, *words: Any) -> None:
        if isinstance(self._scheduler, LocalScheduler):
            # It never waits, so no task is needed: half of what an answer costs.
            asked = self._scheduler.ask(read_ask(words))
            try:
                asked.send(None)
            except StopIteration as granted:
                self._grant(no, granted.value)
            except GatewayError as error:
                self._refuse(no, error)
        else:
            self._asking[no] = self.tasks.create_task(self._answer(no, words))

    async def _answer(self, no: int, words: tuple[Any, ...]) -> None:
        try:
            grant = await self._scheduler.ask(read_ask(words))
        except GatewayError as error:
            self._refuse(no, error)
        except Exception as error:  # noqa: BLE001 - the pipe shows and logs it
            self.wire.tell("refuse", no, InternalError(f"The brain failed: {error!r}"))
        else:
            self._grant(no, grant)
        finally:
            self._asking.pop(no, None)

    def _grant(self, no: int, grant: Grant) -> None:
        self._held[no] = grant
        pair = grant.pair
        told = (
            *(pair.prefill.id, pair.prefill_rank, pair.prefill_trial is not None),
            *(pair.decode.id, pair.decode_rank, pair.decode_trial is not None),
            reason_words(grant.reason),
        )
        self.wire.tell("answer", no, told)

    def _refuse(self, no: int, error: GatewayError) -> None:
        drop_frames(error)
        self.wire.tell("refuse", no, error)

    def _cancel(self, no: int) -> None:
        task = self._asking.pop(no, None)
        if task is not None:
            task.cancel()
        else:
            self._done(no, Outcome.CANCELLED, None)

    def hold(self, no: int, leases: list[tuple[str, str, int, bool]]) -> None:
        """Counts what the pipe took by itself, or from an earlier brain."""
        held: Leases = {}
        for leg, worker_id, rank, is_computed in leases:
            worker = self._registry.get(worker_id)
            if worker is not None and rank < len(worker.rank_leases):
                held[leg] = Lease.take(worker, rank)
                if is_computed:
                    held[leg].hold()
        self._held[no] = held

    def _done(self, no: int, outcome: str, n_cached: int | None) -> None:
        held = self._held.pop(no, None)
        if isinstance(held, Grant):
            held.n_cached = n_cached
            self._scheduler.done(held, _OUTCOMES[outcome])
        elif held is not None:
            for lease in held.values():
                lease.release()

    def _computed(self, no: int) -> None:
        held = self._held.get(no)
        if isinstance(held, Grant):
            self._scheduler.prefill_computed(held)
        elif held is not None and "prefill" in held:
            held["prefill"].hold()

    def _prefilled(self, no: int) -> None:
        held = self._held.get(no)
        if isinstance(held, Grant):
            self._scheduler.prefill_ended(held)
        elif held is not None and "prefill" in held:
            held["prefill"].release()

    def _moved(self, no: int, decode_id: str, rank: int) -> None:
        held, worker = self._held.get(no), self._registry.get(decode_id)
        if held is None or worker is None or rank >= len(worker.rank_leases):
            return
        lease = Lease.take(worker, rank)
        if isinstance(held, Grant):
            _move(held, lease)
        else:
            if "decode" in held:
                held["decode"].release()
            held["decode"] = lease

    # Workers.

    def _good(self, worker_id: str, no: int | None, leg: str) -> None:
        worker = self._registry.get(worker_id)
        if worker is not None:
            worker.breaker.record_success(self._trial(worker, no, leg))
            self._health.note_success(worker)

    def _sums(self, goods: dict[str, int]) -> None:
        """Takes how many requests of each worker went well that were no trials."""
        for worker_id, n_good in goods.items():
            worker = self._registry.get(worker_id)
            if worker is not None:
                worker.breaker.record_successes(n_good)
                self._health.note_success(worker)

    def _bad(self, worker_id: str, no: int | None, leg: str) -> None:
        worker = self._registry.get(worker_id)
        if worker is not None:
            worker.n_charged += 1
            worker.breaker.record_failure(self._trial(worker, no, leg))

    def _trial(self, worker: Worker, no: int | None, leg: str) -> Trial | None:
        if no is None:
            return None
        held = self._held.get(no)
        if isinstance(held, Grant):
            return held.pair.prefill_trial if leg == "prefill" else held.pair.decode_trial
        # The pipe let it through by itself.
        return worker.breaker.start_trial()

    def _full(self, worker_id: str, until_s: float) -> None:
        worker = self._registry.get(worker_id)
        if worker is not None:
            worker.back_off(until_s)

    def _error(self, worker_id: str, text: str) -> None:
        worker = self._registry.get(worker_id)
        if worker is not None:
            worker.last_error = text

    def _probe(self, worker_id: str) -> None:
        worker = self._registry.get(worker_id)
        if worker is not None:
            self._health.probe_now(worker)

    def _cut(self, worker_id: str, error: str) -> None:
        worker = self._registry.get(worker_id)
        if worker is not None:
            self._health.note_connect_failure(worker, error)


def _move(grant: Grant, lease: Lease) -> None:
    """Takes over the decode worker that the pipe chose in place of the one it was given."""
    grant.decode_lease.release()
    if grant.pair.decode_trial is not None:
        grant.pair.decode_trial.end()
        grant.pair.decode_trial = None
    grant.pair.decode, grant.pair.decode_rank = lease.worker, lease.rank
    grant.decode_lease = lease
