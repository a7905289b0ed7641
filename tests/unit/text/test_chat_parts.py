"""Thoughts and tool calls in chat answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.text.answer import Envelope
from app.text.chat_template import ChatTemplate
from app.text.parsers import reasoning_parsers
from app.text.parsers.reasoning_parsers import ThoughtFormat
from app.text.served_model import ServedModel
from tests.unit.text.answering import (
    CALL,
    HELLO,
    WEATHER,
    MakeFrames,
    chat,
    deltas,
    stream_of,
    whole_of,
)


async def test_thought_and_calls(
    thinker: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Each in deltas of its own; the reason becomes tool_calls."""
    request = await chat(thinker, stream=True, tools=[WEATHER])
    made = frames(f"<think>hm</think>I look. {CALL}", eos=True)
    found = stream_of(request, envelope, made)
    parts = deltas(found[:-1])
    assert "hm" == "".join(part.get("reasoning_content", "") for part in parts)
    assert "I look." == "".join(part.get("content", "") for part in parts).strip()
    calls = [call for part in parts for call in part.get("tool_calls", ())]
    assert ("weather", "function", 0) == (
        calls[0]["function"]["name"],
        calls[0]["type"],
        calls[0]["index"],
    )
    assert calls[0]["id"].startswith("call_")
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert {"city": "Paris"} == orjson.loads(arguments)
    assert "tool_calls" == found[-2]["choices"][0]["finish_reason"]
    whole = whole_of(request, envelope, made)
    message = whole["choices"][0]["message"]
    assert "hm" == message["reasoning_content"]
    assert arguments == message["tool_calls"][0]["function"]["arguments"]
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_no_thought_is_no_reasoning(
    thinker: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """The key is there and null, and no token is called reasoning."""
    whole = whole_of(await chat(thinker), envelope, frames("Hello world"))
    assert whole["choices"][0]["message"]["reasoning_content"] is None
    assert "completion_tokens_details" not in whole["usage"]


async def test_hidden_thought(thinker: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """include_reasoning false drops it."""
    request = await chat(thinker, include_reasoning=False)
    message = whole_of(request, envelope, frames("<think>hm</think>Yes"))["choices"][0]["message"]
    assert ("Yes", None) == (message["content"], message["reasoning_content"])


@pytest.mark.parametrize("is_parallel", [True, False])
async def test_parallel_calls(
    thinker: ServedModel, envelope: Envelope, frames: MakeFrames, is_parallel: bool
) -> None:
    """Only the first call if the client wants no more."""
    request = await chat(thinker, tools=[WEATHER], parallel_tool_calls=is_parallel)
    message = whole_of(request, envelope, frames(f"{CALL}\n{CALL}"))["choices"][0]["message"]
    assert (2 if is_parallel else 1) == len(message["tool_calls"])
    assert message["content"] is None


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ("required", '[{"name": "weather", "parameters": {"city": "Paris"}}]'),
        ({"type": "function", "function": {"name": "weather"}}, ' {"city": "Paris"}'),
    ],
)
async def test_forced_calls(
    served: ServedModel, envelope: Envelope, frames: MakeFrames, choice: Any, text: str
) -> None:
    """Plain JSON becomes a call, without any parser of the model."""
    request = await chat(served, tools=[WEATHER], tool_choice=choice)
    whole = whole_of(request, envelope, frames(text))["choices"][0]
    call = whole["message"]["tool_calls"][0]
    assert "weather" == call["function"]["name"]
    assert {"city": "Paris"} == orjson.loads(call["function"]["arguments"])
    assert ("tool_calls", None) == (whole["finish_reason"], whole["message"]["content"])


async def test_calls_cut_by_length(
    thinker: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """The reason stays length: the arguments are not whole."""
    request = await chat(thinker, tools=[WEATHER])
    whole = whole_of(request, envelope, frames(CALL[:-20], reason="length"))
    assert "length" == whole["choices"][0]["finish_reason"]
    assert whole["choices"][0]["message"]["tool_calls"]


async def test_prompt_that_opens_the_thought(
    thinker: ServedModel,
    envelope: Envelope,
    frames: MakeFrames,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer begins inside it, without a marker of its own."""
    plain = whole_of(await chat(thinker), envelope, frames("hm</think>yes"))
    assert "hm</think>yes" == plain["choices"][0]["message"]["content"]
    source = "{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}"
    monkeypatch.setattr(thinker.tokenizer, "chat", ChatTemplate({"default": source}, {}))
    message = whole_of(await chat(thinker), envelope, frames("hm</think>yes"))["choices"][0]
    assert ("hm", "yes") == (message["message"]["reasoning_content"], message["message"]["content"])


@pytest.mark.parametrize(
    ("begun", "reasoning", "content"),
    [
        ("<think>Let me", "hm", "yes"),
        ("<think>Let me see.</think>Well", None, "hm</think>yes"),
        ("Well", None, "hm</think>yes"),
    ],
)
async def test_continued_message(
    thinker: ServedModel,
    envelope: Envelope,
    frames: MakeFrames,
    begun: str,
    reasoning: str | None,
    content: str,
) -> None:
    """Whether the answer goes on with a thought is for the message to say that it continues."""
    messages = [*HELLO, {"role": "assistant", "content": begun}]
    for habit in ("qwen3", "deepseek_r1"):
        model = replace(thinker, thought_format=reasoning_parsers.by_name(habit))
        request = await chat(model, messages=messages, continue_final_message=True)
        message = whole_of(request, envelope, frames("hm</think>yes"))["choices"][0]["message"]
        assert (reasoning, content) == (message.get("reasoning_content"), message["content"])


async def test_markers_that_are_special_tokens(
    thinker: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """They stay in the text for the parser, and the engine is told so."""
    form = ThoughtFormat("odd", "<|im_start|>", "<|endoftext|>")
    odd = replace(thinker, thought_format=form)
    request = await chat(odd, ignore_eos=True)
    assert not request.prompts[0].sampling.skip_special_tokens
    made = frames("<|im_start|>hm<|endoftext|>yes")
    message = whole_of(request, envelope, made)["choices"][0]["message"]
    assert ("hm", "yes") == (message["reasoning_content"], message["content"])
