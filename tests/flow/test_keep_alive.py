"""Comments in streams that are silent: between events, and read by every client."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest

from app.api.keep_alive import COMMENT
from app.sim.wire import Exchange, encode_event
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.raw_client import connected, post_of
from tests.flow.scripted import SSE, ScriptedWorker, whole
from tests.unit.api.test_keep_alive import looking

INTERVAL_S = 0.2
WORD: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "sim-model",
    "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
}


class Speaker:
    """A decode worker that says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[bytes] = asyncio.Queue()
        self.worker = ScriptedWorker("decode", self._speak)

    async def _speak(self, exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, SSE)
        while (word := await self.words.get()) != b"cut":
            is_last = word.endswith(b"[DONE]\n\n")
            await exchange.write(word, is_last=is_last)
            if is_last:
                return
        await exchange.reset()


async def fleet_of(stack: AsyncExitStack, **settings: Any) -> tuple[Fleet, Speaker]:
    """A gateway before such a worker."""
    speaker = Speaker()
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(speaker.worker)
    asked = {"sse_keepalive_secs": INTERVAL_S} | settings
    return await stack.enter_async_context(serving([prefill], [decode], **asked)), speaker


def chunks(raw: bytes) -> bytes:
    """The body of a chunked answer that came whole."""
    body = b""
    rest = raw.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


async def test_silence_between_events(stack: AsyncExitStack) -> None:
    """Comments stand between whole events, also while the worker is in the middle of one."""
    fleet, speaker = await fleet_of(stack)
    event = encode_event(WORD)
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True), "connection: close"))
        await until(lambda: speaker.worker.n_active)
        speaker.words.put_nowait(event + event[:9])
        got = await client.until(COMMENT)
        got += await client.until(COMMENT)
        speaker.words.put_nowait(event[9:])
        got += await client.until(COMMENT)
        speaker.words.put_nowait(b"data: [DONE]\n\n")
        got += await client.rest()
    # A busy machine may leave time for more of them.
    some, one = b"(%b)+" % re.escape(COMMENT), re.escape(event)
    assert re.fullmatch(one + some + one + some + rb"data: \[DONE\]\n\n", chunks(got))


async def test_talking_streams_get_none(stack: AsyncExitStack) -> None:
    """Events that come faster than the interval leave no room for comments."""
    fleet, speaker = await fleet_of(stack, sse_keepalive_secs=1.0)

    async def talk() -> None:
        await until(lambda: speaker.worker.n_active)
        for _ in range(12):
            speaker.words.put_nowait(encode_event(WORD))
            await asyncio.sleep(0.15)
        speaker.words.put_nowait(b"data: [DONE]\n\n")

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT, stream=True)), talk())
    assert got.raw == encode_event(WORD) * 12 + b"data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_nothing_is_sent_before_the_first_event(stack: AsyncExitStack, stream: bool) -> None:
    """Until then the answer may still be an error with a status of its own."""
    fleet, speaker = await fleet_of(stack, cb_failure_threshold=5)

    async def stay_silent() -> None:
        await until(lambda: speaker.worker.n_active)
        await asyncio.sleep(4 * INTERVAL_S)
        speaker.words.put_nowait(b"cut")

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT, stream=stream)), stay_silent())
    assert (got.status, got.error["leg"]) == (502, "decode")


@pytest.mark.parametrize("ending", ["done", "error"])
async def test_early_comments(stack: AsyncExitStack, ending: str) -> None:
    """Where the operator asks for it they come before the first event too, with the head."""
    fleet, speaker = await fleet_of(stack, sse_keepalive_early=True, cb_failure_threshold=5)
    done = encode_event(WORD) + b"data: [DONE]\n\n"
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True), "connection: close"))
        got = await client.until(COMMENT)
        got += await client.until(COMMENT)
        speaker.words.put_nowait(done if ending == "done" else b"cut")
        got += await client.rest()
    head = got.partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/event-stream" in head
    rest = chunks(got)
    assert rest.startswith(2 * COMMENT)
    rest = rest.replace(COMMENT, b"")
    if ending == "done":
        assert rest == done
    else:
        assert json.loads(rest.removeprefix(b"data: "))["error"]["leg"] == "decode"


async def test_openai_client_passes_over_them(stack: AsyncExitStack) -> None:
    """The official client sees its chunks and nothing else."""
    fleet, speaker = await fleet_of(stack)
    end = {**WORD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    texts: list[str | None] = []
    async with openai.AsyncOpenAI(base_url=f"{fleet.http.base_url}/v1", api_key="x") as client:
        speaker.words.put_nowait(encode_event(WORD))
        stream = await client.chat.completions.create(
            model="sim-model", messages=[{"role": "user", "content": "a"}], stream=True
        )
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
            if len(texts) < 3:
                await asyncio.sleep(3 * INTERVAL_S)
                speaker.words.put_nowait(
                    encode_event(WORD)
                    if len(texts) < 2
                    else encode_event(end) + b"data: [DONE]\n\n"
                )
    assert texts == ["a", "a", None]


@pytest.mark.parametrize("is_early", [False, True])
async def test_nothing_is_left_when_the_client_leaves(
    stack: AsyncExitStack, is_early: bool
) -> None:
    """Neither a timer that would speak into a closed connection nor a task that would."""
    fleet, speaker = await fleet_of(stack, sse_keepalive_early=is_early)
    if not is_early:
        speaker.words.put_nowait(encode_event(WORD))
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
        await client.until(COMMENT)
        client.leave()
    await until(lambda: speaker.worker.aborted)
    await asyncio.sleep(2 * INTERVAL_S)
    assert looking() == []
    speaker.words.put_nowait(b"cut")
    await fleet.settle()
    assert speaker.worker.aborted == [speaker.worker.seen[0].rid]
