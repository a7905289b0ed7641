"""Waiting for a pair: granted, given up, refused, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.errors import CapacityError, NoPairAvailable
from app.policies.least_load import LeastLoad
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import Ask, Grant, LocalScheduler, Outcome
from app.workers.rank_load import RankLoad
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec
from tests.unit.scheduling.test_scheduler import Hand

FACTS = replace(peek(Route.GENERATE, b'{"text":"x"}'), n_prompt_tokens=10_000, max_tokens=10)


class Fleet:
    """One prefill and one decode worker; the prefill worker says when it has nothing to start."""

    def __init__(self, limits: QueueLimits, decode_tokens: int | None = None) -> None:
        self.clock = Hand()
        self.registry = Registry(now_s=self.clock)
        early = LocalScheduler(self.registry, LeastLoad(), LeastLoad(), self.clock)
        self.scheduler = QueueScheduler(early, self.registry, self.clock, limits)
        self.prefill = self.add("p", Role.PREFILL)
        self.decode = self.add("d", Role.DECODE, decode_tokens)

    def add(self, host: str, role: Role, n_kv_tokens: int | None = None) -> Worker:
        worker = self.registry.add(WorkerSpec(f"http://{host}", role))
        info = WorkerInfo(("m",), chunked_prefill_size=2000, max_total_tokens=n_kv_tokens)
        self.registry.set_info(worker, info)
        self.registry.set_state(worker, State.READY)
        return worker

    def say_empty(self) -> None:
        """A second later the prefill worker has started everything."""
        self.clock.s += 1.0
        self.scheduler.take(self.prefill, {0: RankLoad(self.clock.s, 0)})

    async def ask(self, n_tokens: int = 10_000) -> Grant:
        return await self.scheduler.ask(Ask(replace(FACTS, n_prompt_tokens=n_tokens)))

    def is_clean(self) -> bool:
        return not (self.prefill.n_leases or self.decode.n_leases or self.scheduler.n_waiting)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """A fleet whose prefill worker has just said that nothing waits there."""
    made = Fleet(QueueLimits(n_waiting=3, deadline_s=0.2, poll_s=100.0))
    first = await made.ask()
    made.scheduler.done(first, Outcome.OK)
    made.say_empty()
    yield made
    made.scheduler.close()
    assert made.is_clean()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_empty_queue_grants_without_waiting(fleet: Fleet) -> None:
    """Not one turn of the loop is given away."""
    asking = fleet.ask()
    with pytest.raises(StopIteration) as stopped:
        asking.send(None)
    grant: Grant = stopped.value.value
    assert (grant.pair.prefill, grant.pair.decode) == (fleet.prefill, fleet.decode)
    fleet.scheduler.done(grant, Outcome.OK)


async def test_waits_until_the_rank_has_started_what_it_has(fleet: Fleet) -> None:
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(fleet.ask())
        await settled()
        assert fleet.scheduler.n_waiting == 1
        assert fleet.prefill.n_leases == 1
        fleet.say_empty()
        second = await asking
    fleet.scheduler.done(first, Outcome.OK)
    fleet.scheduler.done(second, Outcome.OK)
    fleet.scheduler.done(second, Outcome.OK)


async def test_the_end_of_a_prefill_lets_the_next_one_go(fleet: Fleet) -> None:
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(fleet.ask())
        await settled()
        fleet.scheduler.prefill_ended(first)
        second = await asking
    assert fleet.prefill.n_leases == 1
    fleet.scheduler.done(first, Outcome.OK)
    fleet.scheduler.done(second, Outcome.OK)


async def test_who_leaves_the_queue_is_gone_at_once(fleet: Fleet) -> None:
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(fleet.ask())
        await settled()
        asking.cancel()
    assert fleet.scheduler.n_waiting == 0
    fleet.scheduler.done(first, Outcome.OK)


async def test_granted_and_cancelled_in_one_breath(fleet: Fleet) -> None:
    """The grant is there but its task never sees it: its leases come back all the same."""
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(fleet.ask())
        await settled()
        fleet.say_empty()
        assert fleet.prefill.n_leases == 2
        asking.cancel()
    assert fleet.prefill.n_leases == 1
    fleet.scheduler.done(first, Outcome.OK)


async def test_a_full_queue_refuses(fleet: Fleet) -> None:
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(fleet.ask()) for _ in range(3)]
        await settled()
        with pytest.raises(CapacityError) as refused:
            await fleet.ask()
        assert (refused.value.code, refused.value.status) == ("queue_full", 503)
        for task in asking:
            task.cancel()
    fleet.scheduler.done(first, Outcome.OK)


async def test_a_turn_that_does_not_come_in_time(fleet: Fleet) -> None:
    first = await fleet.ask()
    with pytest.raises(CapacityError) as refused:
        await fleet.ask()
    assert refused.value.code == "queue_deadline"
    fleet.scheduler.done(first, Outcome.OK)


async def test_worker_that_goes_while_one_waits_for_it(fleet: Fleet) -> None:
    """It is told when the fleet has no other, not when its time is over."""
    first = await fleet.ask()

    async def refused() -> str:
        with pytest.raises(NoPairAvailable) as caught:
            await fleet.ask()
        return caught.value.message

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(refused())
        await settled()
        fleet.registry.remove(fleet.prefill.id)
        assert "no prefill worker is registered" in await asking
    fleet.scheduler.done(first, Outcome.OK)


async def test_worker_that_joins_takes_what_waits(fleet: Fleet) -> None:
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(fleet.ask())
        await settled()
        joined = fleet.add("p2", Role.PREFILL)
        second = await asking
    assert second.pair.prefill is joined
    fleet.scheduler.done(first, Outcome.OK)
    fleet.scheduler.done(second, Outcome.OK)


async def test_prefill_waits_for_room_on_decode() -> None:
    """Room for one prompt: the second is not sent to prefill before the first is done."""
    fleet = Fleet(QueueLimits(poll_s=100.0), decode_tokens=15_000)
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(fleet.ask())
        await settled()
        fleet.say_empty()
        await settled()
        assert fleet.scheduler.n_waiting == 1
        fleet.scheduler.done(first, Outcome.OK)
        second = await asking
    fleet.scheduler.done(second, Outcome.OK)
    fleet.scheduler.close()
    assert fleet.is_clean()


async def test_whom_room_is_kept_for_goes_before_all_that_came_after() -> None:
    """Or those would hide it: none of them may have the worker, and all look shorter."""
    fleet = Fleet(QueueLimits(poll_s=100.0), decode_tokens=15_000)
    first = await fleet.ask()
    async with asyncio.TaskGroup() as tasks:
        kept_for = tasks.create_task(fleet.ask())
        await settled()
        fleet.say_empty()
        others = [tasks.create_task(fleet.ask(1000)) for _ in range(20)]
        await settled()
        assert fleet.scheduler.n_waiting == 21
        fleet.scheduler.done(first, Outcome.OK)
        fleet.scheduler.done(await kept_for, Outcome.OK)
        for _ in others:
            fleet.say_empty()
            await settled()
            for other in [one for one in others if one.done()]:
                fleet.scheduler.done(other.result(), Outcome.OK)
    fleet.scheduler.close()
    assert fleet.is_clean()


async def test_a_prompt_longer_than_any_cache_empties_no_worker() -> None:
    """The engine refuses it at once, so it need not wait for room that cannot be."""
    fleet = Fleet(QueueLimits(poll_s=100.0), decode_tokens=15_000)
    first = await fleet.ask()
    fleet.say_empty()
    asking = fleet.ask(15_000)
    with pytest.raises(StopIteration) as stopped:
        asking.send(None)
    fleet.scheduler.done(stopped.value.value, Outcome.OK)
    fleet.scheduler.done(first, Outcome.OK)
    fleet.scheduler.close()
    assert fleet.is_clean()


async def test_what_fits_nowhere_goes_to_an_idle_worker() -> None:
    """Whose own refusal says what is wrong."""
    fleet = Fleet(QueueLimits(poll_s=100.0), decode_tokens=5000)
    fleet.scheduler.done(await fleet.ask(), Outcome.OK)
    fleet.scheduler.close()
    assert fleet.is_clean()


async def test_the_view_tells_what_waits_and_how_fast_ranks_are(fleet: Fleet) -> None:
    first = await fleet.ask()
    view = fleet.scheduler.view
    empty = view.figures()
    assert (empty.n_waiting, empty.oldest_wait_s, empty.n_waiting_tokens) == (0, 0.0, 0.0)
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(fleet.ask(n_tokens)) for n_tokens in (10_000, 5000)]
        await settled()
        fleet.clock.s += 0.5
        told = view.figures()
        assert (told.n_waiting, told.oldest_wait_s, told.n_waiting_tokens) == (2, 0.5, 15_000)
        (state,) = view.rank_states()
        assert (state.worker_id, state.rank, state.tokens_per_s) == (fleet.prefill.id, 0, 10_000)
        assert state.n_unstarted_tokens == 10_000
        for task in asking:
            task.cancel()
    fleet.scheduler.done(first, Outcome.OK)
