"""A client that leaves: the workers notice within a second, whatever it was waiting for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from app.sim import SglangSim, VllmSim
from tests.e2e.loads import Workers

STORY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell a long story."}]
LONG: dict[str, Any] = {
    "messages": STORY,
    "temperature": 0,
    "max_tokens": 2000,
    "extra_body": {"ignore_eos": True},
}


async def leave_stream(
    client: openai.AsyncOpenAI, model: str, workers: Workers, **members: Any
) -> None:
    """Reads three chunks of a long stream, sees that it is worked on, and closes it."""
    stream = await client.chat.completions.create(model=model, stream=True, **LONG, **members)
    n_chunks = 0
    async for _ in stream:
        n_chunks += 1
        if n_chunks == 3:
            break
    assert await workers.n_requests() > 0
    await stream.close()


def n_aborted(sims: tuple[SglangSim | VllmSim, ...]) -> int:
    """Requests that simulated workers were told to abort; with vLLM a cancelled call is, too."""
    n_cancelled = sum(len(sim.cancelled) for sim in sims if isinstance(sim, VllmSim))
    return n_cancelled + sum(len(sim.aborted) for sim in sims)


async def test_leaving_a_stream(
    client: openai.AsyncOpenAI, model: str, workers: Workers, sims: Any
) -> None:
    """Decode stops within a second of the client's leaving; simulated decode saw an abort."""
    n_before = n_aborted(sims[1:])
    await leave_stream(client, model, workers)
    took_s = await workers.until_idle()
    print(f"workers idle {took_s:.2f} s after the client left its stream")
    assert n_aborted(sims[1:]) - n_before == len(sims[1:])


async def test_leaving_a_stream_of_two_choices(
    client: openai.AsyncOpenAI, model: str, workers: Workers, sims: Any
) -> None:
    """Both children stop within a second."""
    n_before = n_aborted(sims[1:])
    await leave_stream(client, model, workers, n=2)
    took_s = await workers.until_idle()
    print(f"workers idle {took_s:.2f} s after the client left its two choices")
    assert n_aborted(sims[1:]) - n_before == 2 * len(sims[1:])


@pytest.mark.parametrize("n", [1, 2])
async def test_leaving_while_waiting(
    client: openai.AsyncOpenAI, model: str, workers: Workers, n: int
) -> None:
    """An answer that is not streamed is dropped within a second too."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(
            client.chat.completions.create(model=model, n=n, **LONG), name="asking"
        )
        await workers.until_busy()
        await asyncio.sleep(0.3)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    took_s = await workers.until_idle()
    print(f"workers idle {took_s:.2f} s after the client stopped waiting, n={n}")


async def test_leaving_generate(http: httpx.AsyncClient, workers: Workers) -> None:
    """A batch on /generate is dropped within a second."""
    params = {"max_new_tokens": 2000, "ignore_eos": True}
    body = {"text": ["One", "Two"], "stream": True, "sampling_params": params}
    async with http.stream("POST", "/generate", json=body) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        assert await workers.n_requests() > 0
    took_s = await workers.until_idle()
    print(f"workers idle {took_s:.2f} s after the client left its batch")
