"""Prefill's answer may come long after decode's: real engines send it a step later under load."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, GENERATE, Fleet, Got, body_of, serving, until
from tests.flow.scripted import ScriptedWorker, events, whole

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
WORD = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}


class Late:
    """A pair whose prefill answers when it is told to, and a gateway before it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.gate = asyncio.Event()
        self.answer: Any = whole(200, {"choices": []})
        self.prefill = ScriptedWorker("prefill", self._answer_late)
        self.decode = ScriptedWorker("decode", whole(200, {"choices": []}))
        self._stack = stack

    async def _answer_late(self, exchange: Exchange, body: dict[str, Any]) -> None:
        await self.gate.wait()
        await self.answer(exchange, body)

    async def start(self, **settings: Any) -> Fleet:
        """Starts all three."""
        for worker in (self.prefill, self.decode):
            await self._stack.enter_async_context(worker)
        return await self._stack.enter_async_context(
            serving([self.prefill], [self.decode], **settings)
        )


@BOTH
async def test_decode_does_not_wait_for_prefill(stack: AsyncExitStack, stream: bool) -> None:
    """The client has the whole answer while prefill's is outstanding.

    Prefill's lease ended with decode's first word. Its connection is read to its end by one
    reader, aborted by none, and used again.
    """
    late = Late(stack)
    fleet = await late.start()
    live = fleet.live(late.prefill)
    pool = fleet.gateway.clients.get(live).pool
    if stream:
        late.decode.script = events(WORD)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.is_stream) == (200, stream)
    assert (live.n_leases, live.rank_leases) == (0, [0])
    assert late.prefill.n_active == 1
    assert fleet.gateway.reaper.n_pending == 1
    assert (pool.n_active, n_open := pool.n_open) == (1, pool.n_open)
    late.gate.set()
    await fleet.settle()
    assert late.prefill.aborted == []
    assert pool.n_idle == pool.n_open == n_open
    assert (await fleet.ask(CHAT, body_of(CHAT, stream=stream))).status == 200
    await fleet.settle()
    assert pool.n_open == n_open


async def test_first_event_is_held_no_longer_than_told(stack: AsyncExitStack) -> None:
    """The first event is passed on after the hold, before decode says more."""
    late = Late(stack)
    goes_on = asyncio.Event()

    async def speak(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, {"content-type": "text/event-stream"})
        await exchange.event(WORD)
        await goes_on.wait()
        await exchange.write(b"data: [DONE]\n\n", is_last=True)

    late.decode.script = speak
    fleet = await late.start(hold_decode_ms=30)
    body = body_of(CHAT, stream=True)
    async with asyncio.timeout(5), fleet.http.stream("POST", CHAT, json=body) as answer:
        chunks = answer.aiter_bytes()
        assert json.loads((await anext(chunks)).removeprefix(b"data: ")) == WORD
        goes_on.set()
        assert await anext(chunks) == b"data: [DONE]\n\n"
    late.gate.set()


@pytest.mark.parametrize("status", [500, 503, 400])
async def test_failure_after_decodes_word_is_no_failure(stack: AsyncExitStack, status: int) -> None:
    """The answer is whole, so nobody is charged; prefill is not credited and is probed at once."""
    late = Late(stack)
    late.answer = whole(status, {"message": "Out of memory."})
    goes_on = asyncio.Event()

    async def speak(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, {"content-type": "text/event-stream"})
        await exchange.event(WORD)
        await goes_on.wait()
        await exchange.write(b"data: [DONE]\n\n", is_last=True)

    late.decode.script = speak
    fleet = await late.start(cb_failure_threshold=2, cb_failure_share=1.0)
    live = fleet.live(late.prefill)
    # One more would open the breakers; a credit in between would not let it.
    for worker in (live, fleet.live(late.decode)):
        worker.breaker.record_failure()
    probed_s = live.last_probe
    async with asyncio.timeout(5):
        asking = fleet.http.stream("POST", CHAT, json=body_of(CHAT, stream=True))
        async with asking as answer:
            chunks = answer.aiter_bytes()
            raw = await anext(chunks)
            late.gate.set()
            await until(lambda: late.prefill.n_active == 0)
            await asyncio.sleep(0.02)
            goes_on.set()
            raw += b"".join([chunk async for chunk in chunks])
    assert Got(answer.status_code, answer.headers, raw).events[-1] == "[DONE]"
    await until(lambda: live.last_probe != probed_s)
    await fleet.settle()
    assert fleet.charged == []
    assert live.last_error == "Out of memory."
    live.breaker.record_failure()
    fleet.live(late.decode).breaker.record_failure()
    assert fleet.charged == ["prefill"]


@BOTH
async def test_prompt_logprobs_wait_for_prefill(stack: AsyncExitStack, stream: bool) -> None:
    """Nothing is sent before prefill has answered; its failure then is the answer."""
    token = {"text": "a", "meta_info": {"id": "x", "input_token_logprobs": []}}
    for starts_at, is_late in ((0, True), (-1, False)):
        late = Late(stack)
        late.answer = whole(500, {"message": "Out of memory."})
        late.decode.script = events(token) if stream else whole(200, token)
        fleet = await late.start()
        body = body_of(GENERATE, stream=stream, return_logprob=True, logprob_start_len=starts_at)
        if is_late:
            got = await fleet.during(fleet.ask(GENERATE, body), open_after(late.gate))
            assert (got.status, got.error["leg"]) == (500, "prefill")
            assert fleet.charged == ["prefill"]
        else:
            assert (await fleet.ask(GENERATE, body)).status == 200
            late.gate.set()


async def open_after(gate: asyncio.Event) -> None:
    """Opens the gate, later than anything on this machine takes."""
    await asyncio.sleep(0.1)
    gate.set()


@BOTH
@pytest.mark.parametrize("texts", ["One two three", ["One two", "Three four five"]])
async def test_prompt_logprobs_are_prefills(fleet: Fleet, texts: Any, stream: bool) -> None:
    """Prefill's own values, once for each prompt; decode, which has none, keeps the output's."""
    body = body_of(GENERATE, stream=stream, text=texts, return_logprob=True, logprob_start_len=0)
    got = await fleet.ask(GENERATE, body)
    n_prompts = len(texts) if isinstance(texts, list) else 1
    if stream:
        items = [json.loads(text) for text in got.events[:-1]]
        with_prompt = [i for i in items if i["meta_info"]["input_token_logprobs"]]
        assert [i.get("index", 0) for i in with_prompt] == list(range(n_prompts))
        assert len(items) > n_prompts
    else:
        items = with_prompt = got.json if isinstance(texts, list) else [got.json]
    for item in with_prompt:
        prompt = item["meta_info"]["input_token_logprobs"]
        assert len(prompt) == item["meta_info"]["prompt_tokens"]
        assert (prompt[0][0], prompt[1][0] < 0) == (None, True)
    assert all(item["meta_info"]["output_token_logprobs"] for item in items)
