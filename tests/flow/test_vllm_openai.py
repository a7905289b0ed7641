"""The real ``openai`` client before a vLLM pair."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from app.sim import VllmFault, VllmFaultKind
from tests.flow.vllm_fleet import SHORT_LEASE_S, VllmFleet, asked, fleet_of

MODEL = "sim-model"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}\n</tool_call>'
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]


@pytest.fixture(params=["nixl", "mooncake"])
async def fleet(stack: AsyncExitStack, model: Path, request: pytest.FixtureRequest) -> VllmFleet:
    """A gateway before one pair, for a model that writes hermes tool calls."""
    settings = {"tool_call_parser": "hermes", "reasoning_parser": "none"}
    short: dict[str, Any] = {"lease_s": SHORT_LEASE_S, "mooncake_abort_s": SHORT_LEASE_S}
    # Else tokens that wait to be sent go as one message, and a fault after three never comes.
    steps = {"decode_step_s": 0.003}
    return await fleet_of(stack, model, request.param, decode=steps, settings=settings, **short)


@pytest.fixture
async def client(fleet: VllmFleet) -> AsyncIterator[AsyncOpenAI]:
    """The client that users have."""
    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        AsyncOpenAI(
            base_url=f"{fleet.http.base_url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


async def test_chat(fleet: VllmFleet, client: AsyncOpenAI) -> None:
    """A whole answer, and its mark came through the KV cache."""
    answer = await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=100)
    (choice,) = answer.choices
    ids = list(asked(fleet.decode).tokenized.input_ids)
    assert fleet.decode.mark(ids) in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == fleet.decode.generated_tokens
    assert fleet.decode.computed_prompt_tokens == 1


async def test_streamed_chat_says_the_same(client: AsyncOpenAI) -> None:
    """Role first, text, finish reason, usage; joined it is the whole answer."""
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 30, "seed": 1}
    whole = await client.chat.completions.create(**options)
    stream = await client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    events = [event async for event in stream]
    assert events[0].choices[0].delta.role == "assistant"
    text = "".join(c.delta.content or "" for event in events for c in event.choices)
    assert text == whole.choices[0].message.content
    assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert events[-1].choices == []
    assert whole.usage is not None
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_two_choices(fleet: VllmFleet, client: AsyncOpenAI, stream: bool) -> None:
    """Both choices are whole; the prompt counts once; each had its own seed."""
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 100, "n": 2}
    if stream:
        events = [e async for e in await client.chat.completions.create(**options, stream=True)]
        choices = [c for event in events for c in event.choices]
        texts = [
            "".join(c.delta.content or "" for c in choices if c.index == index) for index in (0, 1)
        ]
        reasons = sorted((c.index, c.finish_reason) for c in choices if c.finish_reason)
    else:
        answer = await client.chat.completions.create(**options)
        texts = [choice.message.content or "" for choice in answer.choices]
        reasons = [(choice.index, choice.finish_reason) for choice in answer.choices]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(asked(fleet.decode).tokenized.input_ids)
    mark = fleet.decode.mark(list(asked(fleet.decode).tokenized.input_ids))
    assert all(mark in text for text in texts)
    assert reasons == [(0, "stop"), (1, "stop")]


async def test_tool_call(fleet: VllmFleet, client: AsyncOpenAI) -> None:
    """The call's name and arguments, and nothing of its markers in the text."""
    fleet.decode.script = CALL
    answer = await client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Zürich", "days": 2}


async def test_streamed_tool_call(fleet: VllmFleet, client: AsyncOpenAI) -> None:
    """The arguments come in pieces that make the same object."""
    fleet.decode.script = CALL
    stream = await client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, stream=True
    )
    choices = [c for event in [e async for e in stream] for c in event.choices]
    pieces = [call for c in choices for call in c.delta.tool_calls or []]
    functions = [piece.function for piece in pieces if piece.function is not None]
    assert [f.name for f in functions if f.name] == ["weather"]
    arguments = "".join(f.arguments or "" for f in functions)
    assert json.loads(arguments) == {"city": "Zürich", "days": 2}
    assert {piece.index for piece in pieces} == {0}
    assert not "".join(c.delta.content or "" for c in choices)
    assert choices[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_logprobs_of_chat(client: AsyncOpenAI, stream: bool) -> None:
    """One entry for each token, with its bytes and as many alternatives as were asked for."""
    options: dict[str, Any] = {
        "model": MODEL,
        "messages": ASK,
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
    }
    if stream:
        events = [e async for e in await client.chat.completions.create(**options, stream=True)]
        choices = [c for event in events for c in event.choices]
        entries = [x for c in choices if c.logprobs for x in c.logprobs.content or []]
        text = "".join(c.delta.content or "" for c in choices)
    else:
        (choice,) = (await client.chat.completions.create(**options)).choices
        assert choice.logprobs is not None
        entries, text = choice.logprobs.content or [], choice.message.content or ""
    assert len(entries) == 5
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == text
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in entries)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_completions(fleet: VllmFleet, client: AsyncOpenAI, stream: bool) -> None:
    """Two prompts, echoed, with the older form of logprobs."""
    options: dict[str, Any] = {
        "model": MODEL,
        "prompt": ["one two", "three"],
        "max_tokens": 60,
        "echo": True,
    }
    if stream:
        events = [e async for e in await client.completions.create(**options, stream=True)]
        choices = [c for event in events for c in event.choices]
        texts = ["".join(c.text for c in choices if c.index == index) for index in (0, 1)]
    else:
        answer = await client.completions.create(**options)
        texts = [choice.text for choice in answer.choices]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == fleet.decode.generated_tokens
    seen = [list(one.request.tokenized.input_ids) for one in fleet.decode.seen]
    for ids in seen:
        prompt, mark = fleet.decode.tokenizer.decode(ids), fleet.decode.mark(ids)
        (text,) = [text for text in texts if text.startswith(prompt)]
        assert mark in text


async def test_completion_logprobs(client: AsyncOpenAI) -> None:
    """Tokens, their logprobs and their offsets into the text."""
    answer = await client.completions.create(model=MODEL, prompt="Hi", max_tokens=4, logprobs=2)
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == choice.text
    assert len(logprobs.token_logprobs or []) == 4
    offsets, tokens = logprobs.text_offset or [], logprobs.tokens or []
    assert [choice.text[at:][: len(t)] for at, t in zip(offsets, tokens, strict=True)] == tokens


async def test_errors_are_the_clients_own(fleet: VllmFleet, client: AsyncOpenAI) -> None:
    """Each status as its exception, with the leg where one failed."""
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=MODEL, messages=ASK, temperature=9)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="other", messages=ASK)
    fleet.decode.faults.refuse("RESOURCE_EXHAUSTED", "full")
    with pytest.raises(openai.RateLimitError) as full:
        await client.chat.completions.create(model=MODEL, messages=ASK)
    assert full.value.response.headers["x-tandem-leg"] == "decode"
    fleet.prefill.faults.refuse("INTERNAL", "broken")
    with pytest.raises(openai.InternalServerError, match="broken"):
        await client.chat.completions.create(model=MODEL, messages=ASK)


async def test_error_in_mid_stream(fleet: VllmFleet, client: AsyncOpenAI) -> None:
    """The client's iterator raises after what was said."""
    fault = VllmFault(kind=VllmFaultKind.BREAK, after_messages=3, message="broke")
    fleet.decode.faults.add(fault)
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    said: list[str | None] = []

    async def read() -> None:
        async for event in stream:
            said.append(event.choices[0].delta.content)  # noqa: PERF401 - kept when it raises

    with pytest.raises(openai.APIError, match="broke"):
        await read()
    assert any(said)
