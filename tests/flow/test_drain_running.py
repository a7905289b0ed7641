"""A prefill worker is removed once all of a request has left it, not only the first part."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim.wire import Exchange
from app.workers.drain import POLL_S
from tests.flow.fleet import COMPLETIONS, GENERATE, body_of, serving, until
from tests.flow.scripted import SSE, ScriptedWorker

WORD = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
END = {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}
TOKEN = {"text": "a", "meta_info": {"id": "x", "finish_reason": None}}
PROMPT = {"text": "", "meta_info": {"input_token_logprobs": [[-1.0, 1, None]]}}


class SlowPair:
    """Decode's first call speaks at once; everything else waits for :attr:`go`."""

    def __init__(self, route: str) -> None:
        self.go = asyncio.Event()
        self.n_spoken = 0
        self._events: tuple[Any, Any] = (TOKEN, TOKEN) if route == GENERATE else (WORD, END)
        self.prefill = ScriptedWorker("prefill", self._answer)
        self.decode = ScriptedWorker("decode", self._speak)

    async def _answer(self, exchange: Exchange, body: dict[str, Any]) -> None:
        await self.go.wait()
        await exchange.json(200, PROMPT)

    async def _speak(self, exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, SSE)
        self.n_spoken += 1
        if self.n_spoken == 1:
            await exchange.event(self._events[0])
        await self.go.wait()
        await exchange.event(self._events[1])
        await exchange.write(b"data: [DONE]\n\n", is_last=True)


@pytest.mark.parametrize(
    ("route", "more"),
    [
        (COMPLETIONS, {"prompt": ["a", "b"]}),
        (COMPLETIONS, {"n": 2}),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2}),
        (GENERATE, {"return_logprob": True, "logprob_start_len": 0}),
    ],
    ids=["batch", "fan-out", "fan-out of a batch", "prompt logprobs"],
)
async def test_removal_waits_for_prefill(
    stack: AsyncExitStack, route: str, more: dict[str, Any]
) -> None:
    """Removed while decode has spoken for a part only: the answer is whole, then it is gone."""
    pair = SlowPair(route)
    for worker in (pair.prefill, pair.decode):
        await stack.enter_async_context(worker)
    fleet = await stack.enter_async_context(serving([pair.prefill], [pair.decode]))
    live = fleet.live(pair.prefill)
    n_calls = more.get("n", 1)

    async def remove() -> None:
        await until(lambda: pair.n_spoken == pair.prefill.n_active == n_calls)
        assert (await fleet.http.delete(f"/workers/{live.spec.id}")).status_code == 202
        await asyncio.sleep(3 * POLL_S)
        assert live in fleet.gateway.registry.workers()
        pair.go.set()

    got = await fleet.during(fleet.ask(route, body_of(route, stream=True, **more)), remove())
    assert (got.status, got.events[-1]) == (200, "[DONE]")
    assert "error" not in got.raw.decode()
    await until(lambda: live not in fleet.gateway.registry.workers())


async def test_plain_stream_gives_prefill_back_at_its_first_event(stack: AsyncExitStack) -> None:
    """Decode's first event proves that prefill is through, before prefill answers."""
    pair = SlowPair(COMPLETIONS)
    for worker in (pair.prefill, pair.decode):
        await stack.enter_async_context(worker)
    fleet = await stack.enter_async_context(serving([pair.prefill], [pair.decode]))
    live = fleet.live(pair.prefill)

    async def look() -> None:
        await until(lambda: pair.n_spoken)
        await until(lambda: live.n_leases == 0)
        pair.go.set()

    got = await fleet.during(fleet.ask(COMPLETIONS, body_of(COMPLETIONS, stream=True)), look())
    assert (got.status, got.events[-1]) == (200, "[DONE]")
