"""Probes that fail under load, workers that stay away, and breakers, before whole fleets."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import Fault, FaultKind, VllmFault, VllmFaultKind
from app.workers.states import State
from app.workers.worker import Worker
from tests.flow.fleet import COMPLETIONS, Fleet, body_of, until
from tests.flow.kinds import fleet_of, is_busy

OFTEN: dict[str, Any] = {
    "health_check_interval_secs": 0.1,
    "health_check_timeout_secs": 0.3,
    "health_failure_threshold": 2,
}
ENGINES = pytest.mark.parametrize("kind", ["sglang", "nixl"])


def _never_answers(kind: str) -> Any:
    if kind == "sglang":
        return Fault(kind=FaultKind.HANG, route="/health", times=None)
    return VllmFault(kind=VllmFaultKind.HANG, rpc="Check", times=None)


async def next_probe(worker: Worker) -> None:
    """Waits for the end of one more probe."""
    before = worker.last_probe
    await until(lambda: worker.last_probe is not before)


@ENGINES
async def test_worker_that_speaks_may_miss_probes(
    stack: AsyncExitStack, model: Path, kind: str
) -> None:
    """Ready while its stream runs, though no probe is answered; unhealthy when it is silent."""
    fleet, _ = await fleet_of(stack, kind, model, decode={"decode_step_s": 0.03}, **OFTEN)
    (decode,) = fleet.decodes
    live = fleet.live(decode)

    async def probes_fail() -> None:
        await until(lambda: decode.generated_tokens >= 2)
        decode.faults.add(_never_answers(kind))
        for _ in range(4):
            await next_probe(live)
        assert live.last_probe is not None
        assert (live.last_probe.ok, live.last_probe.is_vetoed) == (False, True)
        assert live.state is State.READY

    body = body_of(COMPLETIONS, stream=True, n_tokens=80)
    got = await fleet.during(fleet.ask(COMPLETIONS, body), probes_fail())
    assert got.events[-1] == "[DONE]"
    await until(lambda: live.state is State.UNHEALTHY)
    decode.faults.clear()
    await until(lambda: live.state is State.READY)


@ENGINES
async def test_worker_that_went_silent_is_out(
    stack: AsyncExitStack, model: Path, kind: str
) -> None:
    """A stream that has stopped is no sign of life."""
    fleet, _ = await fleet_of(stack, kind, model, n_decodes=2, **OFTEN)
    stuck = fleet.decodes[0]
    if kind == "sglang":
        stuck.faults.add(Fault(kind=FaultKind.HANG))
    else:
        stuck.faults.add(VllmFault(kind=VllmFaultKind.STALL, after_messages=1))
    stuck.faults.add(_never_answers(kind))
    live = fleet.live(stuck)
    async with asyncio.TaskGroup() as group:
        body = body_of(COMPLETIONS, stream=True, n_tokens=20)
        asking = [group.create_task(fleet.ask(COMPLETIONS, body)) for _ in range(2)]
        await until(lambda: is_busy(stuck))
        await until(lambda: live.state is State.UNHEALTHY)
        assert live.last_probe is not None
        assert not live.last_probe.is_vetoed
        for task in asking:
            task.cancel()


@ENGINES
async def test_lost_worker_is_removed_and_the_last_one_is_not(
    stack: AsyncExitStack, model: Path, kind: str
) -> None:
    """Killed, it is gone after the time; so it is with all but one; the last one comes back."""
    fleet, _ = await fleet_of(
        stack,
        kind,
        model,
        n_decodes=2,
        remove_unhealthy_workers=True,
        remove_unhealthy_after_secs=0.4,
        **OFTEN,
    )
    one, other = fleet.decodes
    last = fleet.live(other)
    id_of_one = fleet.live(one).id
    await one.kill()
    await until(lambda: fleet.gateway.registry.get(id_of_one) is None)
    why = fleet.gateway.registry.why_removed(id_of_one)
    assert why == "drained"
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    await other.kill()
    await until(lambda: last.state is State.UNHEALTHY)
    await asyncio.sleep(1.0)
    assert last.state is State.UNHEALTHY
    await other.restart()
    await until(lambda: last.state is State.READY)
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    await one.restart()


async def test_lost_workers_stay_unless_asked(stack: AsyncExitStack, model: Path) -> None:
    """Without the flag a dead worker is kept, and probed for ever."""
    settings = OFTEN | {"remove_unhealthy_after_secs": 0.1}
    fleet, _ = await fleet_of(stack, "sglang", model, n_decodes=2, **settings)
    live = fleet.live(fleet.decodes[0])
    await fleet.decodes[0].kill()
    await until(lambda: live.state is State.UNHEALTHY)
    await asyncio.sleep(0.5)
    assert live.state is State.UNHEALTHY
    await fleet.decodes[0].restart()
    await until(lambda: live.state is State.READY)


async def _ask(fleet: Fleet, n: int) -> list[int]:
    body = body_of(COMPLETIONS)
    return [(await fleet.ask(COMPLETIONS, body)).status for _ in range(n)]


async def test_worker_that_fails_every_other_request_is_out(
    stack: AsyncExitStack, model: Path
) -> None:
    """Its successes do not hide it (they do in SMG 1.13); everything goes to the other one."""
    fleet, _ = await fleet_of(stack, "sglang", model, n_decodes=2, cb_failure_threshold=4)
    bad, good = fleet.decodes
    breaker = fleet.live(bad).breaker
    for is_failing in itertools.chain.from_iterable(itertools.repeat((True, False), 4)):
        assert breaker.is_closed
        if is_failing:
            bad.faults.refuse(500)
        n_seen = len(bad.seen)
        while len(bad.seen) == n_seen:
            await _ask(fleet, 1)
        if not breaker.is_closed:
            break
    assert not breaker.is_closed
    n_bad, n_good = len(bad.seen), len(good.seen)
    assert await _ask(fleet, 6) == [200] * 6
    assert (len(bad.seen) - n_bad, len(good.seen) - n_good) == (0, 6)
    path = f"/workers/{fleet.live(bad).id}"
    assert (await fleet.http.get(path)).json()["breaker"]["state"] == "open"
    assert fleet.live(fleet.prefills[0]).breaker.is_closed


async def test_half_open_worker_gets_a_few_trials(stack: AsyncExitStack, model: Path) -> None:
    """Two at a time, whoever asks; what leaves or is refused frees its place; two good close."""
    fleet, _ = await fleet_of(
        stack,
        "sglang",
        model,
        decode={"decode_step_s": 0.02},
        cb_failure_threshold=1,
        cb_success_threshold=2,
        cb_timeout_duration_secs=0.3,
    )
    (decode,) = fleet.decodes
    breaker = fleet.live(decode).breaker
    decode.faults.refuse(500)
    assert await _ask(fleet, 2) == [500, 503]
    await until(lambda: breaker.state == "half_open")
    body = body_of(COMPLETIONS, n_tokens=200)
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(fleet.ask(COMPLETIONS, body)) for _ in range(2)]
            await until(lambda: decode.n_active == 2)
            assert await _ask(fleet, 1) == [503]
            for task in asking:
                task.cancel()
        await fleet.settle()
    decode.faults.refuse(422)
    assert await _ask(fleet, 1) == [422]
    assert breaker.state == "half_open"
    assert await _ask(fleet, 2) == [200, 200]
    assert breaker.state == "closed"
