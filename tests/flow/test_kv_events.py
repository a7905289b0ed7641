"""What engines tell of their KV caches makes the gateway know what it would have to guess."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from app.sim import SglangSim, SimConfig
from tests.flow.fleet import GENERATE, Fleet, serving
from tests.flow.test_prefill_queue import QUEUE, queue_of
from tests.flow.vllm_fleet import fleet_of

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
    return await fleet_of(
        stack, model, prefill=engine, settings={**QUEUE, **settings}, connector="nixl"
    )


async def sglang_fleet(stack: AsyncExitStack, **settings: Any) -> Fleet:
    config = SimConfig(has_kv_events=True, page_size=BLOCK, max_total_tokens=N_CACHE)
    prefill = await stack.enter_async_context(SglangSim(config))
    decode = await stack.enter_async_context(SglangSim(SimConfig(role="decode", page_size=BLOCK)))
    return await stack.enter_async_context(serving([prefill], [decode], **QUEUE, **settings))


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
