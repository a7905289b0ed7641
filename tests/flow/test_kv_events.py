"""What engines tell of their KV caches makes the gateway know what it would have to guess."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from app.scheduling.kv_watch import KvCounts
from app.sim import SglangSim, SimConfig
from app.sim.kv_log import KvLog
from app.workers.states import State
from tests.flow.fleet import GENERATE, Fleet, serving, until
from tests.flow.test_prefill_queue import queue_of
from tests.flow.vllm_fleet import fleet_of
from tests.flow.vllm_fleet import serving as vllm_serving

QUEUE: dict[str, Any] = {"prefill_queue": "on", "prefill_poll_ms": 10.0}
BLOCK = 16
N_PROMPT = 10 * BLOCK + 1
"""Ten blocks, and the token that is always computed."""
N_CACHE = 30 * BLOCK
"""Three prompts."""


def prompt(number: int) -> dict[str, Any]:
    """A prompt of tokens that shares nothing with others."""
    ids = [10 + number] * N_PROMPT
    return {"input_ids": ids, "sampling_params": {"max_new_tokens": 1, "ignore_eos": True}}


async def predicted(fleet: Fleet, number: int) -> float:
    """The prompt's tokens that the gateway expected to be cached, seen when it was answered."""
    queue = queue_of(fleet)
    before = queue.view.figures().n_fed_cached_tokens
    assert (await fleet.ask(GENERATE, prompt(number))).status == 200
    return queue.view.figures().n_fed_cached_tokens - before


async def looks(fleet: Fleet) -> list[tuple[float, int]]:
    """What was expected to be cached of prompts, and what was, after evictions hard to guess.

    The prompts 0, 1, 2 fill the cache; 0 is used once more; 3 and 4 drive 1 and 2 out, though 0
    came first. Then 0, 4 and 1 are asked for: two that are there and one that is not.
    """
    prefill = fleet.prefills[0]
    for number in (0, 1, 2, 0, 3, 4):
        await predicted(fleet, number)
    found = []
    for number in (0, 4, 1):
        before = prefill.counters.cached_prompt_tokens
        n_predicted = await predicted(fleet, number)
        found.append((n_predicted, prefill.counters.cached_prompt_tokens - before))
    return found


THERE, GONE = (10 * BLOCK, 10 * BLOCK), (0, 0)


def view(fleet: Fleet) -> str:
    """How well the first prefill worker's cache is known."""
    return fleet.live(fleet.prefills[0]).prefix_view


async def vllm_fleet(stack: AsyncExitStack, model: Path, **settings: Any) -> Fleet:
    engine = {"has_kv_events": True, "block_size": BLOCK, "max_total_tokens": N_CACHE}
    return await listening(await fleet_of(stack, model, prefill=engine, settings=QUEUE | settings))


async def sglang_fleet(stack: AsyncExitStack, n_cache: int = N_CACHE) -> Fleet:
    config = SimConfig(has_kv_events=True, page_size=BLOCK, max_total_tokens=n_cache)
    prefill = await stack.enter_async_context(SglangSim(config))
    paired = SimConfig(role="decode", page_size=BLOCK)
    decode = await stack.enter_async_context(SglangSim(paired))
    return await listening(await stack.enter_async_context(serving([prefill], [decode], **QUEUE)))


async def listening(fleet: Fleet) -> Fleet:
    """The same fleet, once its first prefill worker is listened to, if it ever is."""
    watch = fleet.gateway.kv_watch
    if watch is not None:
        await until(lambda: fleet.live(fleet.prefills[0]).id in watch.counts)
    fleet.tasks = asyncio.all_tasks()
    return fleet


async def test_vllm_tells_what_it_evicts(stack: AsyncExitStack, model: Path) -> None:
    fleet = await vllm_fleet(stack, model)
    assert await looks(fleet) == [THERE, THERE, GONE]
    assert view(fleet) == "exact"


async def test_sglang_tells_what_it_evicts(stack: AsyncExitStack) -> None:
    fleet = await sglang_fleet(stack)
    assert await looks(fleet) == [THERE, THERE, GONE]
    assert view(fleet) == "exact"


async def test_without_events_it_is_guessed_and_wrong(stack: AsyncExitStack, model: Path) -> None:
    """The same as above: there the events make the difference."""
    fleet = await vllm_fleet(stack, model, kv_events="off")
    found = await looks(fleet)
    assert [n_cached for _, n_cached in found] == [10 * BLOCK, 10 * BLOCK, 0]
    assert any(n_predicted != n_cached for n_predicted, n_cached in found)
    assert view(fleet) == ""


def counts(fleet: Fleet) -> KvCounts:
    """What was heard of the first prefill worker."""
    watch = fleet.gateway.kv_watch
    assert watch is not None
    return watch.counts[fleet.live(fleet.prefills[0]).id]


def log_of(fleet: Fleet) -> KvLog:
    """What the first prefill worker tells of its cache."""
    log: KvLog = fleet.prefills[0].engine.ranks[0].cache.log
    return log


async def told(fleet: Fleet, number: int) -> float:
    """As ``predicted``, and what the worker tells of it was heard."""
    before = counts(fleet).n_batches
    found = await predicted(fleet, number)
    await until(lambda: counts(fleet).n_batches > before)
    return found


async def test_what_was_missed_over_grpc_makes_the_rest_worthless(
    stack: AsyncExitStack, model: Path
) -> None:
    """The blocks heard of after the gap are believed, those before it are guessed again."""
    fleet = await vllm_fleet(stack, model)
    await told(fleet, 0)
    log_of(fleet).n_to_lose = 1
    await predicted(fleet, 1)
    await told(fleet, 2)
    assert (view(fleet), counts(fleet).n_gaps) == ("partial", 1)
    assert await predicted(fleet, 2) == 10 * BLOCK
    assert (await fleet.http.post("/flush_cache")).status_code == 200
    await until(lambda: view(fleet) == "exact")
    assert await predicted(fleet, 2) == 0


async def test_what_was_missed_over_zeromq_is_asked_for_again(stack: AsyncExitStack) -> None:
    fleet = await sglang_fleet(stack)
    await told(fleet, 0)
    (publisher,) = fleet.prefills[0].kv_publishers
    n_replays = publisher.n_replays
    log_of(fleet).n_to_lose = 1
    await predicted(fleet, 1)
    await told(fleet, 2)
    assert (view(fleet), counts(fleet).n_gaps) == ("exact", 0)
    assert publisher.n_replays == n_replays + 1
    assert await predicted(fleet, 1) == 10 * BLOCK


async def test_who_listens_late_hears_what_was_before(stack: AsyncExitStack) -> None:
    """The publisher still has all its batches: a second gateway knows the cache as the first."""
    fleet = await sglang_fleet(stack)
    await predicted(fleet, 0)
    second = await listening(
        await stack.enter_async_context(serving(fleet.prefills, fleet.decodes, **QUEUE))
    )
    await until(lambda: view(second) == "exact")
    assert await predicted(second, 0) == 10 * BLOCK
    assert await predicted(second, 1) == 0


async def test_another_gateways_prompts_are_known(stack: AsyncExitStack, model: Path) -> None:
    """What this gateway never sent is expected to be cached, too."""
    fleet = await vllm_fleet(stack, model)
    asked = vllm_serving(fleet.prefills, fleet.decodes, model_path=str(model), **QUEUE)
    second = await listening(await stack.enter_async_context(asked))
    await predicted(fleet, 0)
    await until(lambda: view(second) == "exact")
    assert await predicted(second, 0) == 10 * BLOCK


async def test_a_new_engine_begins_with_nothing(stack: AsyncExitStack) -> None:
    """Its own count of batches says so, though the gateway never saw it away."""
    fleet = await sglang_fleet(stack)
    await told(fleet, 0)
    prefill = fleet.prefills[0]
    await prefill.kill()
    await prefill.restart()
    await until(lambda: fleet.live(prefill).state is State.READY)
    await until(lambda: view(fleet) == "predicted")
    await predicted(fleet, 1)
    await until(lambda: view(fleet) == "exact")
    assert await predicted(fleet, 0) == 0
    assert await predicted(fleet, 1) == 10 * BLOCK
    fleet.tasks = asyncio.all_tasks()


async def test_text_is_guessed_but_forgotten_with_the_cache(stack: AsyncExitStack) -> None:
    """SGLang's own tokenizer stands between a text and its tokens."""
    fleet = await sglang_fleet(stack, n_cache=10_000)
    text = {"text": "a" * 2048, "sampling_params": {"max_new_tokens": 1, "ignore_eos": True}}
    queue = queue_of(fleet)
    found = []
    for is_cleared in (False, False, True):
        if is_cleared:
            fleet.prefills[0].engine.flush()
            await until(lambda: counts(fleet).n_cleared == 1)
        before = queue.view.figures().n_fed_cached_tokens
        assert (await fleet.ask(GENERATE, text)).status == 200
        found.append(queue.view.figures().n_fed_cached_tokens - before)
    assert found == [0, 511, 0]


async def test_a_worker_without_events_is_not_asked_twice(
    stack: AsyncExitStack, model: Path
) -> None:
    """As vLLM without --kv-events-config answers; its cache is guessed as ever."""
    fleet = await fleet_of(stack, model, settings=QUEUE)
    await until(lambda: view(fleet) == "predicted")
    assert (await fleet.ask(GENERATE, prompt(0))).status == 200
    assert counts(fleet).n_losses == 0


async def test_it_is_shown(stack: AsyncExitStack) -> None:
    fleet = await sglang_fleet(stack)
    await predicted(fleet, 0)
    await until(lambda: view(fleet) == "exact")
    listed = (await fleet.http.get("/workers")).json()["workers"]
    assert [one.get("prefix_view") for one in listed] == ["exact", None]
    text = generate_latest(fleet.gateway.metrics.registry).decode()
    url = fleet.prefills[0].url
    assert f'tandem_prefix_view{{role="prefill",view="exact",worker="{url}"}} 1.0' in text
    assert f'tandem_kv_event_blocks_total{{kind="stored",role="prefill",worker="{url}"}} 10' in text
