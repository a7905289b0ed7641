"""A client that leaves: the workers notice within a second, whatever it was waiting for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

STORY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell a long story."}]
NOTICED_WITHIN_S = 1.0
BUSY_WITHIN_S = 10.0
LONG: dict[str, Any] = {
    "messages": STORY,
    "temperature": 0,
    "max_tokens": 2000,
    "extra_body": {"ignore_eos": True},
}
QUEUES = (
    "prefill_bootstrap_queue_reqs",
    "prefill_inflight_queue_reqs",
    "decode_prealloc_queue_reqs",
    "decode_transfer_queue_reqs",
    "decode_retracted_queue_reqs",
)


class Workers:
    """The workers' own counters of requests they hold."""

    def __init__(self, http: httpx.AsyncClient, urls: tuple[str, ...]) -> None:
        self.http = http
        self.urls = urls

    async def n_requests(self) -> int:
        """Running, waiting and in transfer, on all workers."""
        total = 0
        for url in self.urls:
            loads = (await self.http.get(f"{url}/v1/loads")).raise_for_status().json()["loads"]
            for load in loads:
                total += load["num_running_reqs"] + load["num_waiting_reqs"]
                total += sum(load["disaggregation"][name] for name in QUEUES)
        return total

    async def until_busy(self) -> None:
        """Waits until a worker holds a request."""
        async with asyncio.timeout(BUSY_WITHIN_S):
            while not await self.n_requests():  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.02)

    async def until_idle(self, within_s: float = NOTICED_WITHIN_S) -> float:
        """Waits until no worker holds a request; returns the seconds it took."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while n := await self.n_requests():
            waited_s = loop.time() - start_s
            assert waited_s < within_s, f"{n} requests are still held after {waited_s:.2f} s"
            await asyncio.sleep(0.02)
        return loop.time() - start_s


@pytest.fixture
async def workers(worker_urls: tuple[str, ...]) -> AsyncIterator[Workers]:
    """The workers' counters, at rest before and after the test."""
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
        watched = Workers(http, worker_urls)
        await watched.until_idle(BUSY_WITHIN_S)
        yield watched


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


def n_aborted(sims: tuple[Any, ...]) -> int:
    """Requests that simulated workers were told to abort."""
    return sum(len(sim.aborted) for sim in sims)


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
