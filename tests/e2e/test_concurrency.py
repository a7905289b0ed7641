"""Sixteen requests of every kind at once: each gets its own prompt's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest

COUNTRIES = ("France", "Italy", "Japan", "Germany")
N_TOKENS = 12
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "max_tokens": N_TOKENS,
    "extra_body": {"ignore_eos": True},
}


class Asker:
    """Asks for a country's capital in four ways and returns the text."""

    def __init__(self, client: openai.AsyncOpenAI, http: httpx.AsyncClient, model: str) -> None:
        self.client = client
        self.http = http
        self.model = model

    @property
    def ways(self) -> tuple[Callable[[str], Awaitable[str]], ...]:
        """The four ways."""
        return (self.chat, self.chat_stream, self.completion, self.generate)

    async def chat(self, country: str) -> str:
        """A whole chat answer."""
        messages: Any = [{"role": "user", "content": f"What is the capital of {country}?"}]
        answer: Any = await self.client.chat.completions.create(
            model=self.model, messages=messages, **GREEDY
        )
        return str(answer.choices[0].message.content)

    async def chat_stream(self, country: str) -> str:
        """A streamed chat answer."""
        messages: Any = [{"role": "user", "content": f"Name the capital of {country}."}]
        stream: Any = await self.client.chat.completions.create(
            model=self.model, messages=messages, stream=True, **GREEDY
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def completion(self, country: str) -> str:
        """A completion."""
        answer: Any = await self.client.completions.create(
            model=self.model, prompt=f"The capital of {country} is", **GREEDY
        )
        return str(answer.choices[0].text)

    async def generate(self, country: str) -> str:
        """SGLang's own route."""
        params = {"temperature": 0, "max_new_tokens": N_TOKENS, "ignore_eos": True}
        body = {"text": f"The main city of {country} is", "sampling_params": params}
        answer = await self.http.post("/generate", json=body)
        return str(answer.json()["text"])


@pytest.mark.timeout(120)
async def test_sixteen_at_once(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, model: str
) -> None:
    """Every answer equals the one that its prompt got when it was asked alone."""
    asker = Asker(client, http, model)
    asked = [(way, country) for way in asker.ways for country in COUNTRIES]
    alone = [await way(country) for way, country in asked]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_answer(way, country)) for way, country in asked]
    assert [task.result() for task in tasks] == alone
    assert len(set(alone)) > len(COUNTRIES)


async def _answer(way: Callable[[str], Awaitable[str]], country: str) -> str:
    return await way(country)
