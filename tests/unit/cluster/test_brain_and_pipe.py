"""Asking, granting and giving back between processes; what each side knows of the workers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.cluster.link import BrainAway
from app.errors import NoPairAvailable
from app.scheduling.grant import Outcome
from app.workers.states import State
from app.workers.worker import Role, WorkerSpec
from tests.unit.cluster.rig import Brain, Pipe, Rig, until


@pytest.fixture
async def both(rig: Rig, stack: AsyncExitStack) -> tuple[Brain, Pipe]:
    """A brain and one pipe."""
    brain = await stack.enter_async_context(rig.brain().running())
    pipe = await stack.enter_async_context(rig.pipe())
    return brain, pipe


async def test_the_brain_counts_what_it_grants(both: tuple[Brain, Pipe]) -> None:
    """The least loaded decode worker of all, by the leases of the brain; all come back."""
    brain, pipe = both
    first, second = await pipe.ask(), await pipe.ask()
    assert {first.pair.decode.spec.url, second.pair.decode.spec.url} == {"http://d1", "http://d2"}
    assert first.pair.prefill is pipe.worker("http://p")
    assert first.reason.decode.policy == "least_load"
    assert brain.n_leases == 4
    pipe.scheduler.prefill_computed(first)
    pipe.scheduler.prefill_ended(second)
    await until(lambda: brain.worker("http://p").n_leases == 0)
    assert brain.worker("http://p").n_held == 1
    for grant in (first, second):
        pipe.scheduler.done(grant, Outcome.OK)
        pipe.scheduler.done(grant, Outcome.OK)
    await until(lambda: brain.n_leases == 0)
    assert not any(w.n_leases or w.n_held for w in pipe.registry.workers())


async def test_two_pipes_share_one_view(rig: Rig, stack: AsyncExitStack) -> None:
    """The second pipe's request goes where the first one's did not."""
    await stack.enter_async_context(rig.brain(n_pipes=2).running())
    one = await stack.enter_async_context(rig.pipe(1))
    two = await stack.enter_async_context(rig.pipe(2))
    first, second = await one.ask(), await two.ask()
    assert first.pair.decode.spec.url != second.pair.decode.spec.url
    one.scheduler.done(first, Outcome.OK)
    two.scheduler.done(second, Outcome.OK)


async def test_refusals_are_the_brains(both: tuple[Brain, Pipe]) -> None:
    """Status, code and Retry-After come over."""
    brain, pipe = both
    # Of unhealthy ones the health loop may take one back meanwhile.
    for url in ("http://d1", "http://d2"):
        brain.registry.set_state(brain.worker(url), State.DRAINING, "test")
    with pytest.raises(NoPairAvailable) as refused:
        await pipe.ask()
    assert refused.value.retry_after_s is not None
    assert brain.n_leases == 0


async def test_changes_of_workers_reach_the_pipe(both: tuple[Brain, Pipe]) -> None:
    """Added, changed, drained, gone; the pipe closes what it had open."""
    brain, pipe = both
    added = brain.registry.add(WorkerSpec("http://d3", Role.DECODE, labels={"zone": "a"}))
    await until(lambda: pipe.registry.get(added.id) is not None)
    await until(lambda: pipe.worker("http://d3").state is State.READY)
    mirrored = pipe.worker("http://d3")
    assert mirrored.id == added.id
    assert mirrored.model_ids == ("m",)
    assert dict(mirrored.spec.labels) == {"zone": "a"}
    brain.drain.start(added, "test")
    await until(lambda: pipe.registry.get(added.id) is None)
    assert str(mirrored.state) == "gone"
    await until(lambda: pipe.clients.dropped == ["http://d3"])


async def test_a_drain_by_force_ends_the_legs_of_pipes(both: tuple[Brain, Pipe]) -> None:
    """The worker is kept as long as the pipe's request is there."""
    brain, pipe = both
    grant = await pipe.ask()
    worker = brain.worker(grant.pair.decode.spec.url)
    brain.drain.start(worker, "test", is_forced=True)
    await until(lambda: pipe.clients.ended == [worker.spec.url])
    assert brain.registry.get(worker.id) is worker
    pipe.scheduler.done(grant, Outcome.FAILED)
    await until(lambda: brain.registry.get(worker.id) is None)


async def test_failures_open_the_breaker_for_all(rig: Rig, stack: AsyncExitStack) -> None:
    """What one pipe saw keeps the requests of another away."""
    brain = await stack.enter_async_context(rig.brain(n_pipes=2).running())
    one = await stack.enter_async_context(rig.pipe(1))
    two = await stack.enter_async_context(rig.pipe(2))
    one.worker("http://d1").breaker.record_failure()
    one.worker("http://d2").back_off(1e12)
    one.worker("http://d2").last_error = "It said so."
    await until(lambda: not two.worker("http://d1").breaker.is_closed)
    await until(lambda: two.worker("http://d2").capacity_until_s == 1e12)
    assert brain.worker("http://d1").n_charged == 1
    assert brain.worker("http://d2").last_error == "It said so."
    grant = await two.ask()
    assert grant.pair.decode.spec.url == "http://d2"
    two.scheduler.done(grant, Outcome.OK)


async def test_a_trial_belongs_to_its_grant(both: tuple[Brain, Pipe]) -> None:
    """A half-open breaker is closed by the request that it let through, and by no other."""
    brain, pipe = both
    worker = brain.worker("http://p")
    older = await pipe.ask()
    worker.breaker.record_failure()
    worker.breaker.take_over(is_closed=False, opened_s=-1e9)
    assert worker.breaker.state == "half_open"
    trial = await pipe.ask()
    pipe.worker("http://p").breaker.record_success(older.pair.prefill_trial)
    pipe.scheduler.done(older, Outcome.OK)
    await until(lambda: brain.n_leases == 2)
    assert worker.breaker.state == "half_open"
    assert trial.pair.prefill_trial is not None
    pipe.worker("http://p").breaker.record_success(trial.pair.prefill_trial)
    await until(lambda: worker.breaker.is_closed)
    pipe.scheduler.done(trial, Outcome.OK)


async def test_tokens_heard_by_a_pipe_are_known_to_the_brain(both: tuple[Brain, Pipe]) -> None:
    """So a worker that is too busy for its probe is not taken for dead."""
    brain, pipe = both
    pipe.clients.heard.add("http://d1")
    await until(lambda: brain.seat.has_heard(brain.worker("http://d1")))
    assert not brain.seat.has_heard(brain.worker("http://d1"))


async def test_who_asks_and_leaves_holds_nothing(both: tuple[Brain, Pipe]) -> None:
    """Cancelled before the answer came: what was granted goes back."""
    brain, pipe = both
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(pipe.ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
    later = await pipe.ask()
    await until(lambda: brain.n_leases == 2)
    pipe.scheduler.done(later, Outcome.OK)
    await until(lambda: brain.n_leases == 0)


async def test_a_pipe_that_dies_gives_everything_back(both: tuple[Brain, Pipe]) -> None:
    brain, pipe = both
    await pipe.ask()
    assert brain.n_leases == 2
    wire = pipe.seat.link._wire
    assert wire is not None
    # As if killed: it never comes back to announce what it holds.
    pipe.scheduler._held.clear()
    wire.abort()
    await until(lambda: brain.n_leases == 0)


async def test_control_requests_need_the_brain(rig: Rig, stack: AsyncExitStack) -> None:
    """They are answered by it, and refused while it is away."""
    async with AsyncExitStack() as life:
        brain = await life.enter_async_context(rig.brain().running())

        async def call(*request: object) -> object:
            return 200, [], repr(request).encode()

        brain.seat.call = call  # type: ignore[assignment]
        pipe = await stack.enter_async_context(rig.pipe())
        assert (await pipe.seat.call("GET", "/workers"))[2] == b"('GET', '/workers')"
    await until(lambda: not pipe.seat.link.is_up)
    with pytest.raises(BrainAway):
        await pipe.seat.call("GET", "/workers")
