"""The health loop, with fake workers and short intervals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.workers.checks import Checks
from app.workers.health import HealthLoop
from app.workers.probe_rules import ProbeOverrides, ProbeResult, ProbeRules
from app.workers.registry import Registry
from app.workers.states import Event, State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

SPEC = WorkerSpec("http://a", Role.PREFILL)


class Fleet:
    """Answers probes and registrations as it is told, and counts them."""

    def __init__(self) -> None:
        self.result = ProbeResult(True)
        self.is_hanging = False
        self.is_speaking = False
        self.failure: Exception | None = None
        self.probe_failure: Exception | None = None
        self.n_probes = 0
        self.n_registrations = 0

    async def probe(self, worker: Worker) -> ProbeResult:
        self.n_probes += 1
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.probe_failure is not None:
            raise self.probe_failure
        return self.result

    def has_heard(self, worker: Worker) -> bool:
        return self.is_speaking

    async def register(self, worker: Worker) -> WorkerInfo:
        self.n_registrations += 1
        if self.failure is not None:
            raise self.failure
        return WorkerInfo(model_ids=("m",), version=str(self.n_registrations))


@pytest.fixture
def registry() -> Registry:
    """An empty registry."""
    return Registry()


@pytest.fixture
def fleet() -> Fleet:
    """Workers that are well."""
    return Fleet()


def _loop(
    registry: Registry,
    fleet: Fleet,
    *,
    interval_s: float = 0.1,
    is_disabled: bool = False,
    join_limit_s: float = 1800.0,
    on_failure: Callable[[Worker], None] | None = None,
) -> HealthLoop:
    checks = Checks(registry, fleet.probe, fleet.register, fleet.has_heard, time.monotonic)
    rules = ProbeRules(
        interval_s, 0.05, failure_threshold=2, success_threshold=2, is_disabled=is_disabled
    )
    return HealthLoop(registry, checks, rules, join_limit_s, on_failure, log=lambda *_: None)


@asynccontextmanager
async def _running(loop: HealthLoop) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(loop.run())
        try:
            await asyncio.sleep(0)
            yield
        finally:
            task.cancel()


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not is_so():  # noqa: ASYNC110 - a worker's fields announce nothing
            await asyncio.sleep(0.005)


async def test_workers_become_ready_whenever_added(registry: Registry, fleet: Fleet) -> None:
    """READY with its info, added before the loop runs or after."""
    first = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        second = registry.add(WorkerSpec("http://b", Role.DECODE))
        await _until(lambda: first.state is second.state is State.READY)
    assert (("m",), True) == (second.info.model_ids, second.is_discovered)


async def test_registration_is_retried(registry: Registry, fleet: Fleet) -> None:
    """JOINING with the reason shown, then READY and the reason gone."""
    fleet.failure = RuntimeError("It runs as a decode worker.")
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: fleet.n_registrations == 2)
        assert (State.JOINING, "not registered yet: It runs as a decode worker.") == (
            worker.state,
            worker.state_reason,
        )
        fleet.failure = None
        await _until(lambda: worker.state is State.READY)
        assert worker.last_error == ""


async def test_no_registration_before_a_good_probe(registry: Registry, fleet: Fleet) -> None:
    """Not asked what it serves while its health endpoint says no."""
    fleet.result = ProbeResult(False, "starting")
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: fleet.n_probes >= 2)
        assert (0, "not registered yet: starting") == (fleet.n_registrations, worker.state_reason)


async def test_failing_probes_make_unhealthy_and_good_ones_ready(
    registry: Registry, fleet: Fleet
) -> None:
    """UNHEALTHY after two failures, READY after two successes and a new registration."""
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: worker.state is State.READY)
        fleet.result = ProbeResult(False, "down")
        await _until(lambda: worker.state is State.UNHEALTHY)
        assert ("failed its probes: down", 2) == (worker.state_reason, worker.n_failures)
        fleet.result = ProbeResult(True)
        await _until(lambda: worker.state is State.READY)
        assert ("2", 2) == (worker.info.version, worker.n_successes)


async def test_hanging_and_broken_probes_are_failures(registry: Registry, fleet: Fleet) -> None:
    """UNHEALTHY by a time-out, and still so when the probe itself raises."""
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: worker.state is State.READY)
        fleet.is_hanging = True
        await _until(lambda: worker.state is State.UNHEALTHY)
        assert "within 0.05 s" in worker.state_reason
        fleet.is_hanging = False
        fleet.probe_failure = OSError("odd")
        await _until(lambda: "odd" in worker.last_error)
        fleet.probe_failure = None
        await _until(lambda: worker.state is State.READY)


async def test_connect_failure_ejects_and_one_probe_readmits(
    registry: Registry, fleet: Fleet
) -> None:
    """Out at once, back after one probe though the interval is an hour; told as restarted."""
    heard: list[str] = []
    registry.subscribe(lambda event, _: heard.append(event))
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet, interval_s=3600)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        n_probes = fleet.n_probes
        worker.breaker.record_failure()
        loop.note_connect_failure(worker, "refused")
        assert (State.UNHEALTHY, "could not be connected to: refused") == (
            worker.state,
            worker.state_reason,
        )
        await _until(lambda: worker.state is State.READY)
        assert (n_probes + 1, "2") == (fleet.n_probes, worker.info.version)
        assert "restarted" in heard


async def test_ejected_worker_is_probed_again_soon(registry: Registry, fleet: Fleet) -> None:
    """Back when it answers again, though the interval is an hour."""
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet, interval_s=3600)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        fleet.result = ProbeResult(False, "refused", is_connect_failure=True)
        loop.note_connect_failure(worker)
        n_probes = fleet.n_probes
        await _until(lambda: fleet.n_probes >= n_probes + 2)
        fleet.result = ProbeResult(True)
        await _until(lambda: worker.state is State.READY)


async def test_recovered_worker_that_cannot_register_stays_out(
    registry: Registry, fleet: Fleet
) -> None:
    """UNHEALTHY with the reason, though its probes are good."""
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        fleet.failure = RuntimeError("It changed its role.")
        loop.note_connect_failure(worker)
        await _until(
            lambda: worker.state_reason == "cannot be registered anew: It changed its role."
        )
        assert worker.state is State.UNHEALTHY


async def test_probe_now_does_not_wait(registry: Registry, fleet: Fleet) -> None:
    """One more probe though the interval is an hour."""
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet, interval_s=3600)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        n_probes = fleet.n_probes
        loop.probe_now(worker)
        loop.probe_now(worker)
        await _until(lambda: fleet.n_probes == n_probes + 1)


async def test_traffic_wipes_failed_probes(registry: Registry, fleet: Fleet) -> None:
    """No failures left after a request was answered."""
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        worker.n_failures = 1
        loop.note_success(worker)
        assert worker.n_failures == 0


async def test_removed_worker_is_left_alone(registry: Registry, fleet: Fleet) -> None:
    """No probe after the removal, not even of one that hangs."""
    fleet.is_hanging = True
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: fleet.n_probes == 1)
        registry.remove(worker.id)
        await asyncio.sleep(0.3)
        assert (1, State.GONE) == (fleet.n_probes, worker.state)


async def test_draining_worker_is_not_probed(registry: Registry, fleet: Fleet) -> None:
    """DRAINING stays, and the probes stop."""
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: worker.state is State.READY)
        registry.apply(worker, Event.REMOVAL)
        n_probes = fleet.n_probes
        await asyncio.sleep(0.25)
        assert (n_probes, State.DRAINING) == (fleet.n_probes, worker.state)


async def test_disabled_checks_register_only(registry: Registry, fleet: Fleet) -> None:
    """READY without any probe, and a connect failure does not eject."""
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet, is_disabled=True)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        loop.note_connect_failure(worker)
        await asyncio.sleep(0.15)
        assert (0, State.READY) == (fleet.n_probes, worker.state)


async def test_last_probe_is_kept(registry: Registry, fleet: Fleet) -> None:
    """Good without an error, then failed with it; both with their time and length."""
    worker = registry.add(SPEC)
    before_s = time.monotonic()
    async with _running(_loop(registry, fleet)):
        await _until(lambda: worker.state is State.READY)
        good = worker.last_probe
        fleet.result = ProbeResult(False, "down")
        await _until(lambda: worker.last_probe is not None and not worker.last_probe.ok)
    bad = worker.last_probe
    assert good is not None
    assert bad is not None
    assert (True, "", False, "down") == (good.ok, good.error, bad.ok, bad.error)
    assert before_s <= good.at_s <= bad.at_s <= time.monotonic()
    assert 0 <= good.took_s < 3


async def test_speaking_worker_may_miss_probes(registry: Registry, fleet: Fleet) -> None:
    """READY while tokens come, however many probes it does not answer; then UNHEALTHY."""
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: worker.state is State.READY)
        fleet.is_hanging = fleet.is_speaking = True
        n_probes = fleet.n_probes
        await _until(lambda: fleet.n_probes >= n_probes + 4)
        assert (State.READY, 0) == (worker.state, worker.n_failures)
        assert worker.last_probe is not None
        assert (False, True) == (worker.last_probe.ok, worker.last_probe.is_vetoed)
        fleet.is_speaking = False
        await _until(lambda: worker.state is State.UNHEALTHY)


@pytest.mark.parametrize(
    "result",
    [ProbeResult(False, "shutting down"), ProbeResult(False, "refused", is_connect_failure=True)],
)
async def test_speaking_worker_that_says_no_is_believed(
    registry: Registry, fleet: Fleet, result: ProbeResult
) -> None:
    """UNHEALTHY though tokens come: it finishes what it has, and wants nothing new."""
    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet)):
        await _until(lambda: worker.state is State.READY)
        fleet.is_speaking = True
        fleet.result = result
        await _until(lambda: worker.state is State.UNHEALTHY)


async def test_workers_own_rules_come_first(registry: Registry, fleet: Fleet) -> None:
    """One is not probed, one every 20 ms, though the interval is an hour; a change is at once."""
    still = registry.add(
        WorkerSpec("http://b", Role.DECODE, probes=ProbeOverrides(is_disabled=True))
    )
    async with _running(_loop(registry, fleet, interval_s=3600)):
        await _until(lambda: still.state is State.READY)
        assert fleet.n_probes == 0
        worker = registry.add(SPEC)
        await _until(lambda: worker.state is State.READY)
        assert fleet.n_probes == 1
        often = ProbeOverrides(interval_s=0.02, failure_threshold=3)
        registry.set_spec(worker, replace(worker.spec, probes=often))
        await _until(lambda: fleet.n_probes >= 4)
        fleet.result = ProbeResult(False, "down")
        await _until(lambda: worker.state is State.UNHEALTHY)
        assert worker.n_failures == 3


async def test_changed_worker_is_asked_anew(registry: Registry, fleet: Fleet) -> None:
    """Its new info while it stays READY; UNHEALTHY if it cannot be used, until it can."""
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet, interval_s=3600)
    async with _running(loop):
        await _until(lambda: worker.state is State.READY)
        loop.register_anew(worker)
        await _until(lambda: worker.info.version == "2")
        assert worker.state is State.READY
        fleet.failure = RuntimeError("It wants another key.")
        loop.register_anew(worker)
        await _until(lambda: worker.state is State.UNHEALTHY)
        assert worker.state_reason == "cannot be registered anew: It wants another key."
        fleet.failure = None
        loop.register_anew(worker)
        loop.probe_now(worker)
        await _until(lambda: worker.state is State.READY)


async def test_worker_that_does_not_join_is_overdue(registry: Registry, fleet: Fleet) -> None:
    """Marked after the limit and told of each time; it still joins when it comes up."""
    fleet.result = ProbeResult(False, "loading")
    failed: list[Worker] = []
    worker = registry.add(SPEC)
    loop = _loop(registry, fleet, join_limit_s=0.1, on_failure=failed.append)
    async with _running(loop):
        await _until(lambda: bool(failed))
        await _until(lambda: worker.is_overdue)
        assert worker.state is State.JOINING
        fleet.result = ProbeResult(True)
        loop.probe_now(worker)
        await _until(lambda: worker.state is State.READY)


async def test_only_failures_of_workers_that_are_out_are_told(
    registry: Registry, fleet: Fleet
) -> None:
    """Not while it is READY; each failed probe once it is UNHEALTHY; it may be removed then."""
    told: list[State] = []

    def remove(worker: Worker) -> None:
        told.append(worker.state)
        registry.remove(worker.id)

    worker = registry.add(SPEC)
    async with _running(_loop(registry, fleet, on_failure=remove)):
        await _until(lambda: worker.state is State.READY)
        fleet.result = ProbeResult(False, "down")
        await _until(lambda: worker.state is State.GONE)
        n_probes = fleet.n_probes
        await asyncio.sleep(0.25)
        assert ([State.UNHEALTHY], n_probes) == (told, fleet.n_probes)
