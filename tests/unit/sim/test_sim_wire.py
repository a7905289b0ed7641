"""What the simulated workers say, member by member as the real ones do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.sim import SglangSim, mark_of, sim_pair

Legs = tuple[httpx.Response, httpx.Response]
FRANCE = "The capital of France is"


@pytest.fixture
async def pair() -> AsyncIterator[tuple[SglangSim, SglangSim]]:
    """A pair that computes in no time."""
    async with sim_pair() as members:
        yield members


async def ask(pair: tuple[SglangSim, SglangSim], path: str, body: dict[str, Any]) -> Legs:
    """Both legs at once, prefill not streamed."""
    prefill, decode = pair
    body = {"bootstrap_host": "127.0.0.1", "bootstrap_port": prefill.bootstrap_port, **body}
    body.setdefault("bootstrap_room", 7)
    async with httpx.AsyncClient(timeout=5) as client, asyncio.TaskGroup() as group:
        unstreamed = {**body, "stream": False}
        first = group.create_task(client.post(prefill.url + path, json=unstreamed))
        second = group.create_task(client.post(decode.url + path, json=body))
    return first.result(), second.result()


def events(response: httpx.Response) -> list[Any]:
    """The JSON of every event but the last, which must be [DONE]."""
    parts = response.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


async def test_prefill_answers_one_token_and_decode_all(
    pair: tuple[SglangSim, SglangSim],
) -> None:
    """The members and the lengths are those of the recorded /generate."""
    body = {"text": FRANCE, "sampling_params": {"max_new_tokens": 3}}
    first, second = await ask(pair, "/generate", body)
    meta = first.json()["meta_info"]
    assert list(meta) == [
        "id",
        "finish_reason",
        "prompt_tokens",
        "weight_version",
        "num_retractions",
        "reasoning_tokens",
        "completion_tokens",
        "cached_tokens",
        "weight_versions",
        "cached_tokens_details",
        "dp_rank",
        "e2e_latency",
        "response_sent_to_client_ts",
    ]
    assert meta["finish_reason"] == {"type": "length", "length": 0}
    assert meta["completion_tokens"] == 1
    assert second.json()["text"].startswith(first.json()["text"])
    assert second.json()["meta_info"]["completion_tokens"] == 3


async def test_decode_learns_the_mark_from_prefill_only(
    pair: tuple[SglangSim, SglangSim],
) -> None:
    """Other text on the prefill leg shows as another mark in decode's answer."""
    prefill, decode = pair
    body = {"bootstrap_port": prefill.bootstrap_port, "bootstrap_room": 3}
    async with httpx.AsyncClient(timeout=5) as client, asyncio.TaskGroup() as group:
        group.create_task(client.post(prefill.url + "/generate", json={**body, "text": "one"}))
        leg = group.create_task(client.post(decode.url + "/generate", json={**body, "text": "two"}))
    assert mark_of("one") in leg.result().json()["text"]


async def test_chat_stream_has_the_recorded_chunks(pair: tuple[SglangSim, SglangSim]) -> None:
    """Role, contents, end, usage, [DONE]."""
    _, second = await ask(
        pair,
        "/v1/chat/completions",
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "max_tokens": 2,
            "rid": "chatcmpl-1",
            "stream_options": {"include_usage": True},
        },
    )
    role, one, two, end, usage = events(second)
    assert role["choices"][0]["delta"] == {
        "reasoning_content": None,
        "role": "assistant",
        "content": "",
    }
    assert [c["choices"][0]["delta"]["content"] for c in (one, two)] == ["Simulated", " answer"]
    assert end["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert {c["id"] for c in (role, one, two, end, usage)} == {"chatcmpl-1"}


async def test_a_scalar_room_and_rid_become_lists(pair: tuple[SglangSim, SglangSim]) -> None:
    """rid_0, rid_1 in the rooms r, r+1."""
    first, second = await ask(
        pair, "/generate", {"text": ["a b", "c d"], "rid": "x", "bootstrap_room": 40}
    )
    assert [item["meta_info"]["id"] for item in first.json()] == ["x_0", "x_1"]
    assert [mark_of(t) in i["text"] for t, i in zip(("a b", "c d"), second.json(), strict=True)]


async def test_prompt_logprobs_are_with_prefill_only(
    pair: tuple[SglangSim, SglangSim],
) -> None:
    """Prefill has one entry a prompt token, decode an empty list."""
    body = {"text": FRANCE, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 1}
    first, second = await ask(pair, "/generate", body)
    meta = first.json()["meta_info"]
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]
    assert meta["input_token_logprobs"][0][0] is None
    assert second.json()["meta_info"]["input_token_logprobs"] == []


async def test_the_second_time_the_prefix_is_cached(
    pair: tuple[SglangSim, SglangSim],
) -> None:
    """All tokens but the last come from the cache, until it is flushed."""
    answers = []
    for room in range(3):
        if room == 2:
            assert pair[0].engine.flush()
        first, _ = await ask(pair, "/generate", {"text": FRANCE, "bootstrap_room": room})
        answers.append(first.json()["meta_info"])
    n_prompt = answers[0]["prompt_tokens"]
    assert [meta["cached_tokens"] for meta in answers] == [0, n_prompt - 1, 0]
    assert pair[0].computed_prompt_tokens == n_prompt + 1 + n_prompt


async def test_no_room_is_refused_as_recorded(pair: tuple[SglangSim, SglangSim]) -> None:
    """400 in both legs, with the real text."""
    async with httpx.AsyncClient() as client:
        for sim in pair:
            answer = await client.post(sim.url + "/generate", json={"text": "x", "rid": "r"})
            assert answer.status_code == 400
            assert answer.json() == {
                "error": {
                    "message": "Invalid request: Disaggregated request received without "
                    "bootstrap room id. req.rid='r'"
                }
            }


async def test_the_control_routes_answer() -> None:
    """Health is empty, the rest carries what a gateway registers with."""
    async with (
        sim_pair(api_key="k", dp_size=2) as (prefill, decode),
        httpx.AsyncClient(base_url=prefill.url, headers={"authorization": "Bearer k"}) as client,
    ):
        for path in ("/health", "/health_generate", "/ready"):
            assert (await client.get(path)).content == b""
        info = (await client.get("/server_info")).json()
        assert info["disaggregation_bootstrap_port"] == prefill.bootstrap_port
        loads = (await client.get("/v1/loads")).json()["loads"]
        assert [load["dp_rank"] for load in loads] == [0, 1]
        assert loads[0]["disaggregation"]["mode"] == "prefill"
        models = (await client.get("/v1/models")).json()
        assert models["data"][0]["id"] == "sim-model"
        unauthorized = await client.get(decode.url + "/v1/models", headers={"authorization": ""})
        assert (unauthorized.status_code, unauthorized.json()) == (401, {"error": "Unauthorized"})
