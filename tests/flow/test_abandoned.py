"""Requests that nobody waits for any more do not stand in the way of those that follow.

One slow prefill worker; ten long prompts whose clients leave while they are queued; then one short
request. What counts is its time to the first byte, beside the same request on an idle fleet.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import COMPLETIONS, Fleet, body_of, serving, until
from tests.flow.vllm_fleet import fleet_of

N_ABANDONED = 10
N_TOKENS = 4000
TOKENS_PER_S = 10_000.0
CHUNK_TOKENS = 100
"""A step of 10 ms: what is in flight when the clients leave is computed to its end."""
DELAY_S = 0.1
N_ROUNDS = 8
"""The best of them counts: this machine may be busy, but ten prompts are late every time."""
SPEED: dict[str, Any] = {"prefill_tokens_per_s": TOKENS_PER_S, "chunk_tokens": CHUNK_TOKENS}


async def slow_fleet(stack: AsyncExitStack, model: Path, transport: str) -> Fleet:
    """A gateway before one pair whose prefill worker needs 0.4 s for a long prompt."""
    if transport != "sglang":
        return await fleet_of(stack, model, transport, prefill=SPEED)
    pair = await stack.enter_async_context(sim_pair(prefill=SPEED, disconnect_notice_s=60.0))
    return await stack.enter_async_context(serving([pair[0]], [pair[1]]))


async def first_byte_s(fleet: Fleet, prompt: list[int]) -> float:
    """Seconds from sending a short request to the first byte of its answer."""
    body = body_of(COMPLETIONS, stream=True, prompt=prompt)
    began_s = time.monotonic()
    async with fleet.http.stream("POST", COMPLETIONS, json=body) as answer:
        assert answer.status_code == 200
        chunks = answer.aiter_bytes()
        assert (await anext(chunks)).startswith(b"data: ")
        took_s = time.monotonic() - began_s
        async for _ in chunks:
            pass
    return took_s


async def abandon(fleet: Fleet, stream: bool, first_id: int) -> None:
    """Ten clients ask and leave while the first prompt is computed and the others are queued."""
    (prefill,) = fleet.prefills
    n_seen, n_computed = len(prefill.seen), prefill.computed_prompt_tokens

    def are_there() -> bool:
        has_begun = prefill.computed_prompt_tokens > n_computed
        return has_begun and len(prefill.seen) == n_seen + N_ABANDONED

    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(
                fleet.ask(
                    COMPLETIONS,
                    body_of(COMPLETIONS, stream=stream, prompt=[first_id + i] * N_TOKENS),
                )
            )
            for i in range(N_ABANDONED)
        ]
        await until(are_there)
        for task in asking:
            assert not task.done()
            task.cancel()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("transport", ["sglang", "nixl", "mooncake"])
async def test_eleventh_request(
    stack: AsyncExitStack, model: Path, transport: str, stream: bool
) -> None:
    """It is at most a tenth of a second later than on an idle fleet, though ten stood before it."""
    fleet = await slow_fleet(stack, model, transport)
    (prefill,) = fleet.prefills
    idle_s = min([await first_byte_s(fleet, [1] * 20) for _ in range(3)])
    n_before, after = prefill.computed_prompt_tokens, [math.inf]
    while min(after) - idle_s >= DELAY_S and len(after) <= N_ROUNDS:
        await abandon(fleet, stream, 100 + N_ABANDONED * len(after))
        after.append(await first_byte_s(fleet, [2] * 20))
        await fleet.settle()
    after_s = min(after)
    assert after_s - idle_s < DELAY_S, f"{after} s instead of {idle_s:.3f} s"
    # Of 40,000 tokens a round hardly any were computed.
    assert prefill.computed_prompt_tokens - n_before < (len(after) - 1) * N_TOKENS
    assert fleet.charged == []
    print(f"{transport}: {idle_s * 1000:.0f} ms idle, {after_s * 1000:.0f} ms after ten had left")
