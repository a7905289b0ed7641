"""The brain dies, hangs and comes back: nothing is lost, nothing is leaked, the registry whole."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.cluster import link
from app.cluster.wire import Wire
from app.scheduling.grant import Outcome
from app.workers.states import State
from app.workers.worker import Role, WorkerSpec
from tests.unit.cluster.rig import Rig, until


async def test_leases_and_workers_outlive_the_brain(rig: Rig, stack: AsyncExitStack) -> None:
    """A new brain knows a worker that was added by hand, and counts what runs."""
    async with rig.brain().running() as brain:
        pipe = await stack.enter_async_context(rig.pipe())
        added = brain.registry.add(WorkerSpec("http://d3", Role.DECODE))
        await until(lambda: pipe.registry.get(added.id) is not None)
        await until(lambda: pipe.worker("http://d3").state is State.READY)
        brain.registry.set_state(brain.worker("http://d2"), State.UNHEALTHY, "test")
        await until(lambda: pipe.worker("http://d2").state is State.UNHEALTHY)
        before = await pipe.ask()
    await until(lambda: not pipe.seat.link.is_up)
    during = await pipe.ask()
    assert pipe.scheduler.n_early == 1
    copy = pipe.worker("http://d3")
    async with rig.brain(epoch=2).running() as brain:
        await until(lambda: pipe.seat.link.is_up)
        assert pipe.seat.link.epoch == 2
        assert {w.spec.url for w in brain.registry.workers()} == {
            *("http://p", "http://d1", "http://d2", "http://d3")
        }
        assert brain.worker("http://d3").id == added.id
        await until(lambda: brain.n_leases == 4)
        assert brain.worker("http://p").n_leases == 2
        # The pipe's copies are the ones it had: nothing was closed, nothing begun anew.
        assert pipe.worker("http://d3") is copy
        assert pipe.clients.dropped == []
        for grant in (before, during):
            pipe.scheduler.done(grant, Outcome.OK)
        await until(lambda: brain.n_leases == 0)
        grant = await pipe.ask()
        assert pipe.scheduler.n_early == 1
        pipe.scheduler.done(grant, Outcome.OK)


async def test_a_grant_that_ended_meanwhile_is_not_announced(
    rig: Rig, stack: AsyncExitStack
) -> None:
    async with rig.brain().running():
        pipe = await stack.enter_async_context(rig.pipe())
        grant = await pipe.ask()
    await until(lambda: not pipe.seat.link.is_up)
    pipe.scheduler.done(grant, Outcome.OK)
    async with rig.brain(epoch=2).running() as brain:
        await until(lambda: pipe.seat.link.is_up)
        await pipe.seat.link.welcomed(1.0)
        later = await pipe.ask()
        assert brain.n_leases == 2
        pipe.scheduler.done(later, Outcome.OK)


async def test_who_waits_in_the_queue_of_a_dead_brain_is_sent_early(
    rig: Rig, stack: AsyncExitStack
) -> None:
    """The request is not lost with it."""
    async with AsyncExitStack() as life:
        brain = await life.enter_async_context(rig.brain().running())
        pipe = await stack.enter_async_context(rig.pipe())

        async def never(ask: object) -> object:
            return await asyncio.Event().wait()

        brain.scheduler.ask = never  # type: ignore[method-assign,assignment]
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(pipe.ask())
            await asyncio.sleep(0.02)
            assert not asking.done()
            await life.aclose()
            grant = await asking
    assert pipe.scheduler.n_early == 1
    pipe.scheduler.done(grant, Outcome.OK)


async def test_a_brain_that_hangs_is_away(
    rig: Rig, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is open and it says nothing: requests do not wait for it."""
    monkeypatch.setattr(link, "SILENCE_S", 0.3)
    brain = await stack.enter_async_context(rig.brain().running())
    pipe = await stack.enter_async_context(rig.pipe())
    monkeypatch.setattr(Wire, "tell", lambda *_: None)
    for desk in brain.seat._desks:
        monkeypatch.setattr(desk.wire, "_on_message", lambda _: None)
    async with asyncio.timeout(5.0):
        grant = await pipe.ask()
    assert pipe.scheduler.n_early == 1
    pipe.scheduler.done(grant, Outcome.OK)


async def test_the_word_of_an_older_brain_is_refused(rig: Rig, stack: AsyncExitStack) -> None:
    """Fencing: who was welcomed by brain 3 takes nothing from brain 2."""
    async with rig.brain(epoch=3).running():
        pipe = await stack.enter_async_context(rig.pipe())
        assert pipe.seat.link.epoch == 3
    link_ = pipe.seat.link
    with pytest.raises(RuntimeError, match="brain 2 after brain 3"):
        link_._hear(("welcome", 2, [], (2, 0), None))
    assert pipe.worker("http://d1").state is State.READY
