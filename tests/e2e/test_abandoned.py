"""Ten clients leave a real SGLang pair while their prompts are queued: the next one is served."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.loads import Workers
from tests.e2e.simulated import Fleet

pytestmark = [pytest.mark.engine("sglang"), pytest.mark.real, pytest.mark.timeout(900)]

N_ABANDONED = 10
N_TOKENS = 600
N_BEGUN = 4
"""Prompts that may be computed before the engine hears of it: it ends a step that has begun."""
PATIENCE_S = 300.0
"""For a busy machine; the workers renew their counters between two steps only."""


def body_of(prompt: list[int]) -> dict[str, Any]:
    """A request for two tokens."""
    params = {"max_new_tokens": 2, "ignore_eos": True, "temperature": 0}
    return {"input_ids": prompt, "sampling_params": params, "stream": True}


def long_prompt(number: int) -> list[int]:
    """Tokens that no other prompt begins with."""
    return [1000 + number] * N_TOKENS


async def first_byte_s(http: httpx.AsyncClient, prompt: list[int]) -> float:
    """Seconds to the first event of an answer."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    body = body_of(prompt)
    async with http.stream("POST", "/generate", json=body, timeout=PATIENCE_S) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        took_s = loop.time() - start_s
        async for _ in lines:
            pass
    return took_s


async def n_computed_tokens(url: str) -> int:
    """Prompt tokens that a worker has computed since its start, by its own count."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.get(f"{url}/v1/loads?include=all")
    loads = answer.raise_for_status().json()["loads"]
    return sum(int(load["total_prefill_uncached_tokens"]) for load in loads)


async def test_eleventh_request(http: httpx.AsyncClient, workers: Workers, fleet: Fleet) -> None:
    """It waits for the step that had begun, not for the ten; they are hardly computed at all."""
    prefill_url = fleet.worker_urls[0]
    await first_byte_s(http, [5] * 20)
    idle_s = await first_byte_s(http, [6] * 20)
    one_s = await first_byte_s(http, long_prompt(0))
    await workers.until_idle(PATIENCE_S)
    n_before = await n_computed_tokens(prefill_url)
    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(first_byte_s(http, long_prompt(1 + i))) for i in range(N_ABANDONED)
        ]
        # By then the first one is computed; the engine tells nothing before its step ends.
        await asyncio.sleep(one_s / 2)
        for task in asking:
            assert not task.done()
            task.cancel()
    after_s = await first_byte_s(http, [7] * 20)
    took_s = await workers.until_idle(PATIENCE_S)
    n_computed = await n_computed_tokens(prefill_url) - n_before
    print(
        f"ten prompts of {N_TOKENS} tokens were abandoned, {n_computed} tokens computed; a short "
        f"one then took {after_s:.2f} s ({idle_s:.2f} s on an idle pair, one long {one_s:.2f} s), "
        f"and the pair was idle {took_s:.2f} s later"
    )
    assert after_s < idle_s + N_BEGUN * one_s
    assert n_computed < N_BEGUN * N_TOKENS
