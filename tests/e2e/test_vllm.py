"""What the gateway itself does for vLLM workers, which speak in tokens: text, stops, calls."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.engine("vllm")
SKILLED = pytest.mark.real
"""The simulated model keeps to no schema or expression, and knows no chance."""

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Name the seven days of the week."}
]
WEATHER: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "How is the weather in Paris?"}
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Looks up the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
N_TOKENS = 24


async def ask(client: openai.AsyncOpenAI, model: str, **members: Any) -> Any:
    """Asks greedily for at most 24 tokens."""
    defaults = {"messages": QUESTION, "temperature": 0, "max_tokens": N_TOKENS}
    return await client.chat.completions.create(model=model, **{**defaults, **members})


async def ask_whole_and_streamed(
    client: openai.AsyncOpenAI, model: str, **members: Any
) -> tuple[Any, list[Any]]:
    """The same question twice: its only choice, and the choices of the stream's chunks."""
    whole = await ask(client, model, **members)
    stream = await ask(client, model, stream=True, **members)
    return whole.choices[0], [choice async for chunk in stream for choice in chunk.choices]


def joined(choices: list[Any]) -> str:
    """The text of a stream."""
    return "".join(choice.delta.content or "" for choice in choices)


@pytest.mark.parametrize("is_shown", [False, True])
async def test_stop_string(client: openai.AsyncOpenAI, model: str, is_shown: bool) -> None:
    """The text ends before the stop string, or with it if asked; it is named as the reason."""
    full = (await ask(client, model)).choices[0].message.content
    # From inside of one word to inside of another: no token begins or ends there.
    stop = full[9:15]
    extra = {"include_stop_str_in_output": is_shown}
    whole, parts = await ask_whole_and_streamed(client, model, stop=[stop], extra_body=extra)
    before = full[: full.index(stop)]
    assert whole.message.content == (before + stop if is_shown else before)
    assert joined(parts) == whole.message.content
    for end in (whole, parts[-1]):
        assert (end.finish_reason, end.stop_reason) == ("stop", stop)


async def test_stop_string_that_does_not_come(client: openai.AsyncOpenAI, model: str) -> None:
    """Nothing that was held back for it is lost."""
    full = (await ask(client, model)).choices[0].message.content
    stop = full[-4:] + "\u2603"
    whole, parts = await ask_whole_and_streamed(client, model, stop=[stop])
    assert whole.message.content == joined(parts) == full


async def test_stop_token(client: openai.AsyncOpenAI, model: str) -> None:
    """An answer that ends at a stop token has neither its text nor what comes behind it."""
    extra: dict[str, Any] = {"return_token_ids": True}
    ids = (await ask(client, model, extra_body=extra)).choices[0].token_ids
    extra["stop_token_ids"] = [ids[5]]
    whole, parts = await ask_whole_and_streamed(client, model, extra_body=extra)
    assert whole.token_ids == ids[: ids.index(ids[5]) + 1]
    assert (whole.finish_reason, whole.stop_reason) == ("stop", ids[5])
    assert joined(parts) == whole.message.content


@SKILLED
@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
async def test_forced_tool_call(client: openai.AsyncOpenAI, model: str, choice: Any) -> None:
    """A call of the tool whose arguments fit its schema; streamed pieces join to the same."""
    asked = {"messages": WEATHER, "tools": [TOOL], "tool_choice": choice, "max_tokens": 80}
    whole, parts = await ask_whole_and_streamed(client, model, **asked)
    calls = whole.message.tool_calls
    assert calls
    for call in calls:
        assert (call.type, call.function.name) == ("function", "get_weather")
        arguments = json.loads(call.function.arguments)
        assert arguments.keys() == {"city", "unit"}
        assert arguments["unit"] in ("celsius", "fahrenheit")
    assert len({call.id for call in calls}) == len(calls)
    pieces = [piece for part in parts for piece in part.delta.tool_calls or ()]
    streamed = ["" for _ in calls]
    for piece in pieces:
        streamed[piece.index] += piece.function.arguments or ""
    assert streamed == [call.function.arguments for call in calls]
    assert len(pieces) > len(calls)
    assert whole.finish_reason == parts[-1].finish_reason
    assert not whole.message.content
    assert not joined(parts)


@SKILLED
async def test_seeded_choices_are_those_of_their_seeds(
    client: openai.AsyncOpenAI, model: str
) -> None:
    """n=2 with seed 7 gives what seeds 7 and 8 give alone."""
    alone = [await ask(client, model, seed=seed, temperature=0.9) for seed in (7, 8)]
    both = await ask(client, model, seed=7, temperature=0.9, n=2)
    texts = [choice.message.content for choice in both.choices]
    assert texts == [answer.choices[0].message.content for answer in alone]
    assert texts[0] != texts[1]


async def test_logprobs_with_bytes(client: openai.AsyncOpenAI, model: str) -> None:
    """Each token has its bytes, which join to the text; so have its rivals, likeliest first."""
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 3}
    whole, parts = await ask_whole_and_streamed(client, model, **asked)
    tokens = whole.logprobs.content
    data = b"".join(bytes(token.bytes) for token in tokens)
    assert data.startswith(whole.message.content.encode())
    for token in tokens:
        # One that is a part of a character only is shown as what it is not.
        assert bytes(token.bytes).decode(errors="replace") == token.token
        rivals = [rival.logprob for rival in token.top_logprobs]
        assert len(rivals) == 3
        assert token.logprob == max(rivals) <= 0  # greedy: the token is the likeliest
    streamed = [token for part in parts if part.logprobs for token in part.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in tokens]


async def test_logprobs_of_completions(client: openai.AsyncOpenAI, model: str) -> None:
    """The echoed prompt and the answer side by side, each token at its offset in the text."""
    answer: Any = await client.completions.create(
        model=model, prompt="One, two,", echo=True, logprobs=2, temperature=0, max_tokens=4
    )
    (choice,) = answer.choices
    found = choice.logprobs
    assert choice.text.startswith("One, two,")
    assert found.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in found.token_logprobs[1:])
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token


async def test_choice(client: openai.AsyncOpenAI, model: str) -> None:
    """The answer is one of the choices."""
    members = {"structured_outputs": {"choice": ["yes", "no"]}}
    whole, parts = await ask_whole_and_streamed(client, model, extra_body=members)
    assert whole.message.content in ("yes", "no")
    assert joined(parts) == whole.message.content


@SKILLED
async def test_regex(client: openai.AsyncOpenAI, model: str) -> None:
    """The answer matches the expression."""
    members = {"structured_outputs": {"regex": "[0-9]{3}"}}
    whole, parts = await ask_whole_and_streamed(client, model, extra_body=members)
    text = whole.message.content
    assert len(text) == 3
    assert text.isdigit()
    assert joined(parts) == text


@SKILLED
async def test_response_format(client: openai.AsyncOpenAI, model: str) -> None:
    """The answer is JSON of the schema."""
    schema = TOOL["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    whole, parts = await ask_whole_and_streamed(
        client, model, messages=WEATHER, response_format=wanted, max_tokens=80
    )
    assert json.loads(whole.message.content).keys() == {"city", "unit"}
    assert joined(parts) == whole.message.content


@pytest.mark.parametrize("stream", [False, True])
async def test_error_of_the_engine(http: httpx.AsyncClient, model: str, stream: bool) -> None:
    """400 with the engine's words on an expression that does not compile, and the leg."""
    body = {"model": model, "messages": QUESTION, "regex": "(", "stream": stream}
    answer = await http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["leg"], answer.headers["x-tandem-leg"]) == ("decode", "decode")
    assert error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_too_long(http: httpx.AsyncClient, model: str, stream: bool) -> None:
    """400 by the gateway, before a worker is asked."""
    body = {"model": model, "messages": QUESTION, "max_tokens": 10**9, "stream": stream}
    answer = await http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "context length" in error["message"]
    assert "leg" not in error
