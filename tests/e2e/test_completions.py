"""Completions through the gateway: text, lists, token ids, several choices."""

from __future__ import annotations

from typing import Any

import openai

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
# Tokens of every vocabulary, small ones too; what they say does not matter.
FRANCE_IDS, ITALY_IDS = [504, 575, 282, 649, 314], [504, 575, 282, 158, 314]
N_TOKENS = 12


async def ask(client: openai.AsyncOpenAI, model: str, prompt: Any, **members: Any) -> Any:
    """Asks greedily for exactly twelve tokens."""
    return await client.completions.create(
        model=model,
        prompt=prompt,
        temperature=0,
        max_tokens=N_TOKENS,
        extra_body={"ignore_eos": True},
        **members,
    )


async def texts_of(client: openai.AsyncOpenAI, model: str, *prompts: Any) -> list[str]:
    """What each prompt answers when it is asked alone."""
    return [(await ask(client, model, prompt)).choices[0].text for prompt in prompts]


async def test_whole(client: openai.AsyncOpenAI, model: str) -> None:
    """One choice that ended by length, with twelve completion tokens."""
    answer = await ask(client, model, FRANCE)
    assert (answer.object, len(answer.choices)) == ("text_completion", 1)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.id.startswith("cmpl-")
    assert answer.usage.completion_tokens == N_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + N_TOKENS


async def test_streamed_text_is_the_whole_text(client: openai.AsyncOpenAI, model: str) -> None:
    """The joined pieces equal the answer that is not streamed; usage comes last."""
    whole = await ask(client, model, FRANCE)
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await ask(client, model, FRANCE, **asked)]
    pieces = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == N_TOKENS
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


async def test_list_of_prompts(client: openai.AsyncOpenAI, model: str) -> None:
    """One choice for each prompt, in their order; usage counts both prompts."""
    alone = await texts_of(client, model, FRANCE, ITALY)
    answer = await ask(client, model, [FRANCE, ITALY])
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.text for choice in answer.choices] == alone
    assert alone[0] != alone[1]
    assert answer.usage.completion_tokens == 2 * N_TOKENS


async def test_list_of_prompts_streamed(client: openai.AsyncOpenAI, model: str) -> None:
    """The pieces of each index join to what its prompt answers alone."""
    alone = await texts_of(client, model, FRANCE, ITALY)
    texts = {0: "", 1: ""}
    async for chunk in await ask(client, model, [FRANCE, ITALY], stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [texts[0], texts[1]] == alone


async def test_list_of_one(client: openai.AsyncOpenAI, model: str) -> None:
    """A list with one prompt answers as the prompt alone."""
    alone = await texts_of(client, model, FRANCE)
    answer = await ask(client, model, [FRANCE])
    assert [choice.text for choice in answer.choices] == alone


async def test_token_ids(client: openai.AsyncOpenAI, model: str) -> None:
    """Five token ids are five prompt tokens."""
    answer = await ask(client, model, FRANCE_IDS)
    assert answer.usage.prompt_tokens == len(FRANCE_IDS)
    assert answer.choices[0].text


async def test_list_of_token_ids(client: openai.AsyncOpenAI, model: str) -> None:
    """Two lists of ids are two prompts, each answered as it is alone."""
    alone = await texts_of(client, model, FRANCE_IDS, ITALY_IDS)
    answer = await ask(client, model, [FRANCE_IDS, ITALY_IDS])
    assert [choice.text for choice in answer.choices] == alone
    assert answer.usage.prompt_tokens == len(FRANCE_IDS) + len(ITALY_IDS)


async def test_two_choices(client: openai.AsyncOpenAI, model: str) -> None:
    """Choices 0 and 1 are alike when greedy; the prompt is counted once."""
    alone = await texts_of(client, model, FRANCE)
    answer = await ask(client, model, FRANCE, n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, alone[0]),
        (1, alone[0]),
    ]
    assert answer.usage.completion_tokens == 2 * N_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 2 * N_TOKENS


async def test_list_of_prompts_with_two_choices(client: openai.AsyncOpenAI, model: str) -> None:
    """Two prompts with n=2 give choices 0 to 3, the choices of a prompt side by side."""
    france, italy = await texts_of(client, model, FRANCE, ITALY)
    answer = await ask(client, model, [FRANCE, ITALY], n=2)
    found = [(choice.index, choice.text) for choice in answer.choices]
    assert found == [(0, france), (1, france), (2, italy), (3, italy)]
    assert answer.usage.completion_tokens == 4 * N_TOKENS


async def test_list_with_two_choices_streamed(client: openai.AsyncOpenAI, model: str) -> None:
    """The pieces of choices 0 to 3 join to the two texts, twice each, and end once each."""
    france, italy = await texts_of(client, model, FRANCE, ITALY)
    texts, ends = dict.fromkeys(range(4), ""), dict.fromkeys(range(4), 0)
    async for chunk in await ask(client, model, [FRANCE, ITALY], n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends[choice.index] += choice.finish_reason is not None
    assert texts == {0: france, 1: france, 2: italy, 3: italy}
    assert ends == dict.fromkeys(range(4), 1)
