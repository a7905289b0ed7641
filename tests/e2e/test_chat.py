"""Chat completions through the gateway, asked with the official client."""

from __future__ import annotations

from collections import Counter
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessageParam

from app.sim import Seen, VllmSeen

FRANCE: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]
N_TOKENS = 12


async def ask(client: openai.AsyncOpenAI, model: str, **members: Any) -> Any:
    """Asks greedily for at most twelve tokens."""
    defaults = {"messages": FRANCE, "temperature": 0, "max_tokens": N_TOKENS}
    return await client.chat.completions.create(model=model, **{**defaults, **members})


def check_usage(usage: Any, n_completions: int = 1) -> None:
    """Prompt and completion add up, and every choice made tokens."""
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens > 0
    assert n_completions <= usage.completion_tokens <= n_completions * N_TOKENS


async def test_whole(client: openai.AsyncOpenAI, model: str) -> None:
    """One choice by the assistant with a text, an end and usage that adds up."""
    answer = await ask(client, model)
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", model, 1)
    (choice,) = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.id.startswith("chatcmpl-")
    check_usage(answer.usage)


async def test_streamed_text_is_the_whole_text(client: openai.AsyncOpenAI, model: str) -> None:
    """The joined deltas equal the answer that is not streamed; one id, one end, no usage."""
    whole = await ask(client, model)
    chunks = [chunk async for chunk in await ask(client, model, stream=True)]
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    ends = [chunk.choices[0].finish_reason for chunk in chunks]
    assert ends == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id.startswith("chatcmpl-")
    assert not any(chunk.usage for chunk in chunks)
    assert len(chunks) > 2


async def test_stream_ends_with_usage_when_asked(client: openai.AsyncOpenAI, model: str) -> None:
    """The last chunk has no choice and the usage of the answer that is not streamed."""
    whole = await ask(client, model)
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await ask(client, model, **asked)]
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    check_usage(usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
    )
    assert not any(chunk.usage for chunk in chunks[:-1])


async def test_two_choices(client: openai.AsyncOpenAI, model: str) -> None:
    """Choices 0 and 1 of one answer, both greedy and so alike; the prompt is counted once."""
    one = await ask(client, model)
    two = await ask(client, model, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    texts = {choice.message.content for choice in two.choices}
    assert texts == {one.choices[0].message.content}
    assert two.usage.prompt_tokens == one.usage.prompt_tokens
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens
    check_usage(two.usage, 2)


async def test_two_choices_streamed(client: openai.AsyncOpenAI, model: str) -> None:
    """Both indices come to one end each, under one id, with one usage chunk at the end."""
    one = await ask(client, model)
    asked = {"n": 2, "stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await ask(client, model, **asked)]
    texts: dict[int, str] = {0: "", 1: ""}
    ends: Counter[int] = Counter()
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason is not None
    assert texts == dict.fromkeys((0, 1), one.choices[0].message.content)
    assert ends == {0: 1, 1: 1}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == one.usage.prompt_tokens
    check_usage(chunks[-1].usage, 2)


async def test_seeded_choices(client: openai.AsyncOpenAI, model: str, sims: Any) -> None:
    """A seed with n=2 gives two choices; simulated decode saw seed and seed + 1."""
    answer = await ask(client, model, n=2, seed=4000, temperature=0.8)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for sim in sims[1:]:
        asked = [pair for pair in map(seed_and_n, sim.seen) if pair[0] in (4000, 4001)]
        assert sorted(asked) == [(4000, 1), (4001, 1)]


def seed_and_n(seen: Seen | VllmSeen) -> tuple[int | None, int]:
    """What a simulated worker was asked for."""
    if isinstance(seen, VllmSeen):
        params = seen.request.sampling_params
        return params.seed, params.n
    return seen.body.get("seed"), seen.body.get("n", 1)


async def test_logprobs(client: openai.AsyncOpenAI, model: str) -> None:
    """Every token of the answer has a logprob and two alternatives."""
    answer = await ask(client, model, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    tokens = choice.logprobs.content
    # The token that ended the answer may be counted and listed, but has no text.
    assert 0 <= answer.usage.completion_tokens - len(tokens) <= 1
    assert "".join(token.token for token in tokens).startswith(choice.message.content)
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


async def test_raw_stream_ends_with_done(client: openai.AsyncOpenAI, model: str) -> None:
    """An event stream whose last event is [DONE], with a request id in its head."""
    create = client.chat.completions.with_streaming_response.create
    async with create(model=model, messages=FRANCE, max_tokens=4, stream=True) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        lines = [line async for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
