"""Ten clients leave a real SGLang pair while their prompts are queued: the next one is served."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.loads import Workers

pytestmark = [pytest.mark.engine("sglang"), pytest.mark.real, pytest.mark.timeout(900)]

N_ABANDONED = 10
N_TOKENS = 1500
N_BEGUN = 4
"""Prompts whose step may have begun when the engine is told; a step takes two of them."""
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
    """Seconds to the first event of an answer; the client itself waits as long as it takes."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    async with http.stream("POST", "/generate", json=body_of(prompt), timeout=PATIENCE_S) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        took_s = loop.time() - start_s
        async for _ in lines:
            pass
    return took_s


async def test_eleventh_request(http: httpx.AsyncClient, workers: Workers) -> None:
    """It waits for the steps that had begun, not for the ten; the engine's counters say so."""
    prefill = workers.each[0]
    await first_byte_s(http, [5] * 20)
    idle_s = await first_byte_s(http, [6] * 20)
    one_s = await first_byte_s(http, long_prompt(0))
    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(first_byte_s(http, long_prompt(1 + i))) for i in range(N_ABANDONED)
        ]
        async with asyncio.timeout(PATIENCE_S):
            while (n_held := await prefill.n_requests()) < N_ABANDONED - 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for task in asking:
            assert not task.done()
            task.cancel()
    after_s = await first_byte_s(http, [7] * 20)
    took_s = await workers.until_idle(PATIENCE_S)
    print(
        f"prefill held {n_held} requests when their clients left; a short one then took "
        f"{after_s:.2f} s ({idle_s:.2f} s on an idle pair, one long prompt {one_s:.2f} s), "
        f"and the pair was idle {took_s:.2f} s later"
    )
    assert after_s < idle_s + N_BEGUN * one_s
