"""Clients that leave a vLLM pair, one after another: nothing is left of any of them.

The legs of many requests stand at many places at once, so that those who leave pass by whatever
might be forgotten. The leases are far longer than the test.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flow.fleet import COMPLETIONS, body_of
from tests.flow.vllm_fleet import VllmFleet, fleet_of

N_REQUESTS = 32


async def ask_all(
    fleet: VllmFleet, n: int, *, stream: bool, leaving_s: float = 0.0
) -> tuple[int, float]:
    """Asks for many answers at once.

    Args:
        fleet: Who is asked.
        n: Choices of each.
        stream: How they are answered.
        leaving_s: The clients leave within this time; at 0 they stay.

    Returns:
        How many stayed until they had their answers, and the time it took.
    """
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        asking = []
        for number in range(N_REQUESTS):
            prompt = f"prompt {number} of {leaving_s}"
            body = body_of(COMPLETIONS, stream=stream, n=n, prompt=prompt)
            asking.append(group.create_task(fleet.ask(COMPLETIONS, body)))
        for one in asking if leaving_s else ():
            await asyncio.sleep(leaving_s / N_REQUESTS)
            one.cancel()
    return sum(not one.cancelled() for one in asking), time.monotonic() - began_s


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
@pytest.mark.parametrize("n", [1, 2])
async def test_leave_at_any_time(
    stack: AsyncExitStack, model: Path, connector: str, n: int, stream: bool
) -> None:
    """No lease, leg, block, room or ask; no read of blocks that were free; nobody is charged."""
    pace: dict[str, Any] = {"prefill_tokens_per_s": 2000.0, "decode_step_s": 0.004}
    fleet = await fleet_of(stack, model, connector, transfer_s_per_token=0.0005, **pace)
    n_stayed, took_s = await ask_all(fleet, n, stream=stream)
    assert n_stayed == N_REQUESTS
    n_stayed, _ = await ask_all(fleet, n, stream=stream, leaving_s=took_s)
    await fleet.settle()
    assert n_stayed < N_REQUESTS
    left = [*fleet.prefill.aborted, *fleet.decode.aborted, *fleet.decode.cancelled]
    assert left
    for worker in fleet.workers:
        counters = worker.counters
        assert (counters.n_expired, counters.n_asks_in_vain) == (0, 0)
        assert (counters.n_load_failures, counters.n_garbage_reads) == (0, 0)
    assert fleet.charged == []
