"""The health loop: registers workers, probes them, and tells the table of states what it found."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from app.workers.checks import Checks, sentence
from app.workers.probe_rules import ProbeRules
from app.workers.states import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.clock import Clock
    from app.workers.registry import Registry
    from app.workers.worker import Worker

    Log = Callable[[str, Worker, str], None]

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_MIN_GAP_S = 0.1
"""Between two probes of one worker, however often traffic asks for one."""


def _log_event(event: str, worker: Worker, reason: str) -> None:
    log = structlog.get_logger("tandem.workers")
    write = log.info if event in ("ready", "recovered") else log.warning
    write(f"worker_{event}", worker=worker.spec.address, role=str(worker.spec.role), reason=reason)


class _Watch:
    """The loop's own notes on one worker."""

    __slots__ = ("is_cut_off", "is_stale", "retry_s", "task", "wake", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_cut_off = False
        """Traffic could not connect to it; one good probe is enough to have it back."""
        self.is_stale = False
        """The operator changed it, so it is asked anew what it serves."""
        self.retry_s = _FIRST_RETRY_S


class HealthLoop:
    """Watches every worker of the registry, one task each.

    A joining worker is probed and registered with a back-off of 0.2 to 5 s until both work,
    then it is ready at once. A ready one is unhealthy after ``failure_threshold`` failed
    probes in a row, or at once when traffic cannot connect. An unhealthy one is registered
    anew before it is ready again, as it may have been started with other settings.

    Args:
        registry: Where the workers are; workers added later are watched as well.
        checks: Asks the workers.
        rules: How they are probed; a worker's spec may differ.
        join_limit_s: A worker that has not joined by then is overdue, and tried on.
        on_failure: Told of a worker that is not ready and has failed once more; may remove it.
        now_s: Clock in seconds.
        log: Called with event, worker, reason; structlog if left out.
    """

    def __init__(
        self,
        registry: Registry,
        checks: Checks,
        rules: ProbeRules,
        join_limit_s: float = 1800.0,
        on_failure: Callable[[Worker], None] | None = None,
        now_s: Clock = time.monotonic,
        *,
        log: Log = _log_event,
    ) -> None:
        self._registry = registry
        self._checks = checks
        self._rules = rules
        self._join_limit_s = join_limit_s
        self._on_failure = on_failure
        self._now_s = now_s
        self._log = log
        self._rng = random.Random()
        self._tasks: asyncio.TaskGroup | None = None
        self._watches: dict[str, _Watch] = {}

    async def run(self) -> None:
        """Watch until cancelled. Run it once, inside a task group."""
        unsubscribe = self._registry.subscribe(self._on_event)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for worker in self._registry.workers():
                    self._start(worker)
                await asyncio.Event().wait()
        finally:
            unsubscribe()
            self._tasks = None
            self._watches.clear()

    def probe_now(self, worker: Worker) -> None:
        """Have the worker probed at once rather than at its next turn."""
        watch = self._watches.get(worker.id)
        if watch is not None:
            watch.wake.set()

    def register_anew(self, worker: Worker) -> None:
        """Have the worker asked again what it serves; until it answers, it stays as it is."""
        watch = self._watches.get(worker.id)
        if watch is not None:
            watch.is_stale = True
            watch.retry_s = _FIRST_RETRY_S
            watch.wake.set()

    def note_connect_failure(self, worker: Worker, error: str = "") -> None:
        """Take note that traffic could not connect: out at once, and probed at once."""
        watch = self._watches.get(worker.id)
        if watch is None or self._rules_of(worker).is_disabled:
            return
        if error or not worker.last_error:
            worker.last_error = error or "A request could not connect to the worker."
        if self._registry.apply(worker, Event.CUT_OFF, worker.last_error):
            watch.is_cut_off = True
            watch.retry_s = _FIRST_RETRY_S
            worker.n_successes = 0
            self._log("unhealthy", worker, worker.state_reason)
        watch.wake.set()

    def note_success(self, worker: Worker) -> None:
        """Take note that traffic was answered: failed probes before that do not count."""
        if worker.n_failures and worker.state is State.READY:
            worker.n_failures = 0

    def _rules_of(self, worker: Worker) -> ProbeRules:
        return worker.spec.probes.over(self._rules)

    def _on_event(self, event: str, worker: Worker) -> None:
        if event == "added":
            self._start(worker)
        elif event == "removed":
            watch = self._watches.pop(worker.id, None)
            if watch is not None and watch.task is not None:
                watch.task.cancel()
        elif event == "spec":
            self.probe_now(worker)

    def _start(self, worker: Worker) -> None:
        if self._tasks is None or worker.id in self._watches:
            return
        watch = _Watch(worker)
        self._watches[worker.id] = watch
        watch.task = self._tasks.create_task(self._watch(watch))

    async def _watch(self, watch: _Watch) -> None:
        while True:
            try:
                delay_s = await self._turn(watch)
            except Exception as exc:  # noqa: BLE001 - one worker's trouble must not end the loop
                watch.worker.last_error = sentence(exc)
                self._log("watch_failed", watch.worker, watch.worker.last_error)
                delay_s = self._rules.interval_s
            gap_s = min(_MIN_GAP_S, delay_s)
            await asyncio.sleep(gap_s)
            try:
                async with asyncio.timeout(delay_s - gap_s):
                    await watch.wake.wait()
            except TimeoutError:
                pass
            watch.wake.clear()

    async def _turn(self, watch: _Watch) -> float:
        """Do what is due for the worker; returns the seconds until its next turn."""
        worker = watch.worker
        rules = self._rules_of(worker)
        pause_s = rules.interval_s * self._rng.uniform(0.9, 1.1)
        if worker.state is State.DRAINING:
            return pause_s
        if worker.state is State.JOINING:
            return await self._join(watch, rules)
        if not (rules.is_disabled or await self._checks.probe(worker, rules)):
            return self._note_failed_probe(watch, rules, pause_s)
        if worker.state is State.UNHEALTHY:
            is_due = rules.is_disabled or watch.is_cut_off
            if is_due or worker.n_successes >= rules.success_threshold:
                return await self._recover(watch, rules, pause_s)
        elif watch.is_stale:
            return await self._refresh(watch, rules, pause_s)
        return pause_s

    async def _join(self, watch: _Watch, rules: ProbeRules) -> float:
        worker = watch.worker
        is_up = rules.is_disabled or await self._checks.probe(worker, rules)
        if is_up and await self._checks.register(worker, rules):
            self._registry.apply(worker, Event.JOINED)
            self._log("ready", worker, worker.state_reason)
            watch.retry_s = _FIRST_RETRY_S
            watch.is_stale = False
            return rules.interval_s * self._rng.uniform(0.0, 1.1)
        worker.is_overdue = self._now_s() - worker.added_s >= self._join_limit_s
        known = worker.state_reason
        self._registry.apply(worker, Event.UNREGISTERED, worker.last_error)
        if worker.state_reason != known:
            self._log("not_ready", worker, worker.state_reason)
        return self._after_failure(watch, _LAST_RETRY_S)

    def _note_failed_probe(self, watch: _Watch, rules: ProbeRules, pause_s: float) -> float:
        worker = watch.worker
        if worker.n_failures >= rules.failure_threshold and self._registry.apply(
            worker, Event.PROBES_FAILED, worker.last_error
        ):
            self._log("unhealthy", worker, worker.state_reason)
        if worker.state is not State.UNHEALTHY:
            return pause_s
        delay_s = self._after_failure(watch, rules.interval_s)
        return delay_s if watch.is_cut_off else pause_s

    async def _recover(self, watch: _Watch, rules: ProbeRules, pause_s: float) -> float:
        worker = watch.worker
        if not await self._checks.register(worker, rules):
            self._registry.apply(worker, Event.UNREGISTERED, worker.last_error)
            return self._after_failure(watch, _LAST_RETRY_S)
        if watch.is_cut_off:
            worker.breaker.reset()
            self._registry.announce("restarted", worker)
        watch.is_cut_off = watch.is_stale = False
        watch.retry_s = _FIRST_RETRY_S
        if self._registry.apply(worker, Event.RECOVERED):
            self._log("recovered", worker, worker.state_reason)
        return pause_s

    async def _refresh(self, watch: _Watch, rules: ProbeRules, pause_s: float) -> float:
        worker = watch.worker
        watch.is_stale = False
        if await self._checks.register(worker, rules):
            return pause_s
        if self._registry.apply(worker, Event.UNREGISTERED, worker.last_error):
            self._log("unhealthy", worker, worker.state_reason)
        return self._after_failure(watch, _LAST_RETRY_S)

    def _after_failure(self, watch: _Watch, limit_s: float) -> float:
        """Tell of a failure of a worker that is not ready; returns the seconds until the next."""
        if self._on_failure is not None:
            self._on_failure(watch.worker)
        delay_s = min(watch.retry_s, limit_s)
        watch.retry_s = min(2 * watch.retry_s, _LAST_RETRY_S)
        return delay_s * self._rng.uniform(0.9, 1.1)
