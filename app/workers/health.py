"""The health loop: registers workers, probes them, and moves their states accordingly."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.clock import Clock
    from app.workers.registry import Registry
    from app.workers.worker import Worker, WorkerInfo

    Log = Callable[[str, Worker, str], None]

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_MIN_GAP_S = 0.1
"""Between two probes of one worker, however often traffic asks for one."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The outcome of one probe.

    Attributes:
        ok: The health endpoint answered 2xx in time.
        error: A sentence if it did not.
        is_connect_failure: Nothing listens there, or it cannot be reached.
    """

    ok: bool
    error: str = ""
    is_connect_failure: bool = False


def _log_event(event: str, worker: Worker, reason: str) -> None:
    log = structlog.get_logger("tandem.workers")
    write = log.info if event in ("ready", "recovered") else log.warning
    write(f"worker_{event}", worker=worker.spec.url, role=str(worker.spec.role), reason=reason)


class _Watch:
    """The loop's own notes on one worker."""

    __slots__ = ("is_cut_off", "retry_s", "task", "wake", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_cut_off = False
        """Traffic could not connect to it; one good probe is enough to have it back."""
        self.retry_s = _FIRST_RETRY_S


class HealthLoop:
    """Watches every worker of the registry, one task each.

    A joining worker is probed and registered with a back-off of 0.2 to 5 s until both work,
    then it is ready at once. A ready one is unhealthy after ``failure_threshold`` failed
    probes in a row, or at once when traffic cannot connect. An unhealthy one is registered
    anew before it is ready again, as it may have been started with other settings.

    Args:
        registry: Where the workers are; workers added later are watched as well.
        probe: Asks the health endpoint.
        register: Asks what the worker serves; raises if it cannot be used.
        interval_s: Seconds between probes, spread by a tenth either way.
        timeout_s: Most seconds for a probe, and for each of a registration's calls; a
            whole registration gets three times as long.
        failure_threshold: Failed probes in a row that make a worker unhealthy.
        success_threshold: Good probes in a row that make it ready again.
        now_s: Clock in seconds.
        is_disabled: Register, but never probe: a registered worker stays ready.
        log: Called with event, worker, reason; structlog if left out.
    """

    def __init__(
        self,
        registry: Registry,
        probe: Callable[[Worker], Awaitable[ProbeResult]],
        register: Callable[[Worker], Awaitable[WorkerInfo]],
        interval_s: float = 5.0,
        timeout_s: float = 5.0,
        failure_threshold: int = 3,
        success_threshold: int = 2,
        now_s: Clock = time.monotonic,
        *,
        is_disabled: bool = False,
        log: Log = _log_event,
    ) -> None:
        self._registry = registry
        self._probe = probe
        self._register = register
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._now_s = now_s
        self._is_disabled = is_disabled
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

    async def probe(self, worker: Worker) -> ProbeResult:
        """Probe once in the caller's task, within the timeout; never raises.

        The outcome is the caller's; it does not count towards the thresholds.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._probe(worker)
        except TimeoutError:
            return ProbeResult(False, f"No answer to the probe within {self._timeout_s:g} s.")
        except Exception as exc:  # noqa: BLE001 - a broken probe must not end the loop
            return ProbeResult(False, f"The probe failed: {_sentence(exc)}")

    def note_connect_failure(self, worker: Worker, error: str = "") -> None:
        """Take note that traffic could not connect: out at once, and probed at once."""
        watch = self._watches.get(worker.id)
        if self._is_disabled or watch is None:
            return
        if error or not worker.last_error:
            worker.last_error = error or "A request could not connect to the worker."
        if worker.state is State.READY:
            watch.is_cut_off = True
            watch.retry_s = _FIRST_RETRY_S
            worker.n_successes = 0
            self._registry.set_state(worker, State.UNHEALTHY, worker.last_error)
            self._log("unhealthy", worker, worker.last_error)
        watch.wake.set()

    def note_success(self, worker: Worker) -> None:
        """Take note that traffic was answered: failed probes before that do not count."""
        if worker.n_failures and worker.state is State.READY:
            worker.n_failures = 0

    def _on_event(self, event: str, worker: Worker) -> None:
        if event == "added":
            self._start(worker)
        elif event == "removed":
            watch = self._watches.pop(worker.id, None)
            if watch is not None and watch.task is not None:
                watch.task.cancel()
        elif event == "state" and worker.state is State.JOINING:
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
                watch.worker.last_error = _sentence(exc)
                self._log("watch_failed", watch.worker, watch.worker.last_error)
                delay_s = self._interval_s
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
        if worker.state is State.DRAINING:
            return self._interval_s
        if worker.state is State.JOINING:
            return await self._join(watch)
        if self._is_disabled:
            return self._interval_s
        if await self._probe_and_count(worker):
            is_due = watch.is_cut_off or worker.n_successes >= self._success_threshold
            if worker.state is State.UNHEALTHY and is_due:
                return await self._recover(watch)
        elif worker.state is State.READY and worker.n_failures >= self._failure_threshold:
            self._registry.set_state(worker, State.UNHEALTHY, worker.last_error)
            self._log("unhealthy", worker, worker.last_error)
        if worker.state is State.UNHEALTHY and watch.is_cut_off:
            return self._next_retry_s(watch, self._interval_s)
        return self._interval_s * self._rng.uniform(0.9, 1.1)

    async def _join(self, watch: _Watch) -> float:
        worker = watch.worker
        is_up = self._is_disabled or await self._probe_and_count(worker)
        if is_up and await self._take_info(worker) and worker.state is State.JOINING:
            self._registry.set_state(worker, State.READY, "registered")
            self._log("ready", worker, "registered")
            watch.retry_s = _FIRST_RETRY_S
            return self._interval_s * self._rng.uniform(0.0, 1.1)
        if worker.state is State.JOINING and worker.state_reason != worker.last_error:
            worker.state_reason = worker.last_error
            self._log("not_ready", worker, worker.last_error)
        return self._next_retry_s(watch, _LAST_RETRY_S)

    async def _recover(self, watch: _Watch) -> float:
        worker = watch.worker
        if await self._take_info(worker) and worker.state is State.UNHEALTHY:
            if watch.is_cut_off:
                worker.breaker.reset()
                self._registry.announce("restarted", worker)
            watch.is_cut_off = False
            watch.retry_s = _FIRST_RETRY_S
            self._registry.set_state(worker, State.READY, "recovered")
            self._log("recovered", worker, "")
            return self._interval_s * self._rng.uniform(0.9, 1.1)
        if worker.state is State.UNHEALTHY:
            worker.state_reason = worker.last_error
        return self._next_retry_s(watch, _LAST_RETRY_S)

    async def _probe_and_count(self, worker: Worker) -> bool:
        result = await self.probe(worker)
        worker.last_probe_s = self._now_s()
        if result.ok:
            if worker.n_failures and worker.state is State.READY:
                worker.last_error = ""
            worker.n_successes += 1
            worker.n_failures = 0
        else:
            worker.n_failures += 1
            worker.n_successes = 0
            worker.last_error = result.error or "The probe failed."
        return result.ok

    async def _take_info(self, worker: Worker) -> bool:
        """Register the worker; on failure its ``last_error`` says why."""
        limit_s = 3 * self._timeout_s
        try:
            async with asyncio.timeout(limit_s):
                info = await self._register(worker)
        except TimeoutError:
            worker.last_error = f"The registration did not end within {limit_s:g} s."
            return False
        except Exception as exc:  # noqa: BLE001 - kept as the worker's last error
            worker.last_error = _sentence(exc)
            return False
        if worker.state is State.GONE:
            return False
        worker.last_error = ""
        self._registry.set_info(worker, info)
        return True

    def _next_retry_s(self, watch: _Watch, limit_s: float) -> float:
        delay_s = min(watch.retry_s, limit_s)
        watch.retry_s = min(2 * watch.retry_s, _LAST_RETRY_S)
        return delay_s * self._rng.uniform(0.9, 1.1)


def _sentence(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
