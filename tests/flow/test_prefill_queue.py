"""Requests that wait in the gateway until prefill can start them, seen by the workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from app.scheduling.queue_scheduler import QueueScheduler
from app.sim import SglangSim, SimConfig
from tests.flow.fleet import GENERATE, Fleet, Got, serving, until
from tests.flow.vllm_fleet import fleet_of

Asked: TypeAlias = "asyncio.Task[Got]"
QUEUE = {"prefill_queue": "on", "prefill_poll_ms": 10.0}


def words(name: str, n_words: int) -> dict[str, Any]:
    """A prompt of about so many tokens that shares nothing with others."""
    params = {"max_new_tokens": 2, "ignore_eos": True}
    text = " ".join(f"{name}{number}" for number in range(n_words))
    return {"text": text, "sampling_params": params}


@asynccontextmanager
async def slow_pair(**settings: Any) -> AsyncIterator[tuple[Fleet, SglangSim]]:
    """A prefill worker of 2000 tokens a second and steps of 400, and a gateway with a queue."""
    async with AsyncExitStack() as stack:
        slow = SimConfig(role="prefill", prefill_tokens_per_s=2000.0, chunk_tokens=400)
        prefill = await stack.enter_async_context(SglangSim(slow))
        decode = await stack.enter_async_context(SglangSim(SimConfig(role="decode")))
        fleet = await stack.enter_async_context(
            serving([prefill], [decode], **{**QUEUE, **settings})
        )
        yield fleet, prefill


def queue_of(fleet: Fleet) -> QueueScheduler:
    scheduler = fleet.gateway.scheduler
    assert isinstance(scheduler, QueueScheduler)
    return scheduler


def seen(prefill: SglangSim) -> list[str]:
    """The names of the prompts that prefill was sent, in order."""
    return [one.body["text"].split(" ", 1)[0].rstrip("0123456789") for one in prefill.counters.seen]


async def occupied(fleet: Fleet, prefill: SglangSim, clients: asyncio.TaskGroup) -> list[Asked]:
    """Prefill computes one prompt and has another one to go on with: it wants no more."""
    asked = []
    for name in ("first", "second"):
        asked.append(clients.create_task(fleet.ask(GENERATE, words(name, 800))))
        await until(lambda: seen(prefill)[-1:] == [name])  # noqa: B023 - awaited at once
    return asked


async def test_short_ones_go_before_long_ones_that_came_earlier() -> None:
    """What comes while prefill has enough to do waits here and is put in order."""
    async with slow_pair() as (fleet, prefill), asyncio.TaskGroup() as clients:
        asked = await occupied(fleet, prefill, clients)
        for n_waiting, (name, n_words) in enumerate(
            (("long", 600), ("longer", 800), ("short", 99))
        ):
            asked.append(clients.create_task(fleet.ask(GENERATE, words(name, n_words))))
            await until(lambda: queue_of(fleet).n_waiting == n_waiting + 1)  # noqa: B023
        assert [(await task).status for task in asked] == [200] * 5
        assert seen(prefill) == ["first", "second", "short", "long", "longer"]


async def test_who_leaves_the_queue_is_never_seen_by_a_worker() -> None:
    async with slow_pair() as (fleet, prefill):
        async with asyncio.TaskGroup() as clients:
            asked = await occupied(fleet, prefill, clients)
            leaving = clients.create_task(fleet.ask(GENERATE, words("leaving", 800)))
            await until(lambda: queue_of(fleet).n_waiting == 1)
            leaving.cancel()
            await until(lambda: queue_of(fleet).n_waiting == 0)
            assert [(await task).status for task in asked] == [200] * 2
        assert seen(prefill) == ["first", "second"]


async def test_a_full_queue_and_a_late_turn_are_refused() -> None:
    settings = {"prefill_queue_size": 1, "prefill_queue_timeout_secs": 0.2}
    async with slow_pair(**settings) as (fleet, prefill), asyncio.TaskGroup() as clients:
        asked = await occupied(fleet, prefill, clients)
        late = clients.create_task(fleet.ask(GENERATE, words("late", 800)))
        await until(lambda: queue_of(fleet).n_waiting == 1)
        refused = [await fleet.ask(GENERATE, words("full", 800)), await late]
        assert [(got.status, got.error["code"]) for got in refused] == [
            (503, "queue_full"),
            (503, "queue_deadline"),
        ]
        assert all(got.headers["retry-after"] == "1" for got in refused)
        assert [(await task).status for task in asked] == [200] * 2
        assert seen(prefill) == ["first", "second"]


async def test_vllm_pairs_wait_too(stack: AsyncExitStack, model: Path) -> None:
    fleet = await fleet_of(stack, model, settings=QUEUE)
    for _ in range(3):
        assert (await fleet.ask(GENERATE, words("any", 30))).status == 200
    assert len(fleet.prefill.seen) == len(fleet.decode.seen) == 3


async def test_no_room_waits_on_a_full_decode_worker() -> None:
    """Decode holds a fifth of what comes at once; the rest waits here, the longest one too.

    Without the queue requests wait on the workers for more than a second.
    """
    small = SimConfig(role="decode", max_total_tokens=2500, decode_step_s=0.02)
    settings: dict[str, Any] = QUEUE
    async with AsyncExitStack() as stack:
        prefills = [
            await stack.enter_async_context(SglangSim(SimConfig(prefill_tokens_per_s=20_000.0)))
            for _ in range(2)
        ]
        decodes = [await stack.enter_async_context(SglangSim(small)) for _ in range(2)]
        fleet = await stack.enter_async_context(serving(prefills, decodes, **settings))
        sizes = [1000] * 4 + [100, 300, 600] * 8 + [1800]
        async with asyncio.TaskGroup() as clients:
            asked = []
            for number, n_tokens in enumerate(sizes):
                ids = [1000 + 2000 * number + place for place in range(n_tokens)]
                params = {"max_new_tokens": 20, "ignore_eos": True}
                body = {"input_ids": ids, "sampling_params": params}
                asked.append(clients.create_task(fleet.ask(GENERATE, body)))
        assert [task.result().status for task in asked] == [200] * len(sizes)
        assert sum(len(decode.counters.seen) for decode in decodes) == len(sizes)
        assert max(decode.counters.longest_room_wait_s for decode in decodes) < 0.5
        assert all(decode.engine.n_held == 0 for decode in decodes)


async def test_a_flush_through_the_gateway_empties_what_it_knows() -> None:
    """And what is known is what prefill then has: it reports the same number as cached."""
    async with slow_pair() as (fleet, prefill):
        body, predicted = words("same", 600), []
        for _ in range(3):
            n_before = queue_of(fleet).view.figures().n_fed_cached_tokens
            assert (await fleet.ask(GENERATE, body)).status == 200
            predicted.append(queue_of(fleet).view.figures().n_fed_cached_tokens - n_before)
            if len(predicted) == 2:
                assert prefill.counters.cached_prompt_tokens > 0
                assert (await fleet.ask("/flush_cache", {})).status == 200
        assert prefill.counters.n_flushes == 1
        assert (predicted[0], predicted[2]) == (0, 0)
        assert predicted[1] > 600
