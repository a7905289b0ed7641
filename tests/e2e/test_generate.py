"""SGLang's own /generate through the gateway: ids, batches, prompt logprobs, samples."""

from __future__ import annotations

import json
from typing import Any

import httpx

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
# Tokens of every vocabulary, small ones too; what they say does not matter.
FRANCE_IDS, ITALY_IDS = [504, 575, 282, 649, 314], [504, 575, 282, 158, 314]
N_TOKENS = 12
LOGPROBS = {"return_logprob": True, "logprob_start_len": 0}
GREEDY = {"temperature": 0, "max_new_tokens": N_TOKENS, "ignore_eos": True}


async def ask(http: httpx.AsyncClient, params: Any = None, **members: Any) -> Any:
    """Asks greedily for exactly twelve tokens and returns the parsed answer."""
    body = {"sampling_params": {**GREEDY, **(params or {})}, **members}
    answer = await http.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def events_of(http: httpx.AsyncClient, **members: Any) -> list[Any]:
    """Asks for a stream, which must end with [DONE], and returns the events before it."""
    body = {"sampling_params": GREEDY, "stream": True, **members}
    async with http.stream("POST", "/generate", json=body) as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def check_prompt_logprobs(meta_info: dict[str, Any]) -> None:
    """A logprob for every prompt token; the first has none, as nothing stands before it."""
    prompt = meta_info["input_token_logprobs"]
    assert len(prompt) == meta_info["prompt_tokens"]
    assert prompt[0][0] is None
    assert all(logprob <= 0 for logprob, *_ in prompt[1:])


async def test_whole(http: httpx.AsyncClient) -> None:
    """Text, twelve ids and counts."""
    answer = await ask(http, text=FRANCE)
    assert answer["text"]
    assert len(answer["output_ids"]) == N_TOKENS
    assert answer["meta_info"]["completion_tokens"] == N_TOKENS
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": N_TOKENS}


async def test_streamed_text_is_the_whole_text(http: httpx.AsyncClient) -> None:
    """Events are cumulative, so the last one is the whole answer."""
    whole = await ask(http, text=FRANCE)
    events = await events_of(http, text=FRANCE)
    assert (events[-1]["text"], events[-1]["output_ids"]) == (whole["text"], whole["output_ids"])
    counts = [event["meta_info"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == N_TOKENS


async def test_prompt_logprobs(http: httpx.AsyncClient) -> None:
    """The prompt's logprobs are there, which only the prefill worker has, and the answer's."""
    answer = await ask(http, text=FRANCE, **LOGPROBS)
    check_prompt_logprobs(answer["meta_info"])
    assert len(answer["meta_info"]["output_token_logprobs"]) == N_TOKENS


async def test_prompt_top_logprobs(http: httpx.AsyncClient) -> None:
    """Two alternatives for every prompt token but the first."""
    answer = await ask(http, text=FRANCE, top_logprobs_num=2, **LOGPROBS)
    check_prompt_logprobs(answer["meta_info"])
    alternatives = answer["meta_info"]["input_top_logprobs"]
    assert [item and len(item) for item in alternatives] == [None] + [2] * (len(alternatives) - 1)


async def test_prompt_logprobs_streamed(http: httpx.AsyncClient) -> None:
    """The prompt's logprobs come once, with the first event."""
    events = await events_of(http, text=FRANCE, **LOGPROBS)
    check_prompt_logprobs(events[0]["meta_info"])
    assert not any(event["meta_info"].get("input_token_logprobs") for event in events[1:])
    assert len(events[-1]["meta_info"]["output_token_logprobs"]) == N_TOKENS


async def test_batch_of_ids(http: httpx.AsyncClient) -> None:
    """Two lists of ids give two results in their order, with five prompt tokens each."""
    alone = [(await ask(http, input_ids=ids))["output_ids"] for ids in (FRANCE_IDS, ITALY_IDS)]
    results = await ask(http, input_ids=[FRANCE_IDS, ITALY_IDS])
    assert [result["output_ids"] for result in results] == alone
    assert [result["meta_info"]["prompt_tokens"] for result in results] == [5, 5]


async def test_batch_of_texts_streamed(http: httpx.AsyncClient) -> None:
    """The last event of each index is what its prompt answers alone."""
    alone = [(await ask(http, text=text))["text"] for text in (FRANCE, ITALY)]
    last = {event["index"]: event for event in await events_of(http, text=[FRANCE, ITALY])}
    assert [last[0]["text"], last[1]["text"]] == alone


async def test_batch_with_prompt_logprobs(http: httpx.AsyncClient) -> None:
    """Each result has the logprobs of its own prompt."""
    results = await ask(http, input_ids=[FRANCE_IDS, ITALY_IDS], **LOGPROBS)
    for result, ids in zip(results, (FRANCE_IDS, ITALY_IDS), strict=True):
        check_prompt_logprobs(result["meta_info"])
        assert [entry[1] for entry in result["meta_info"]["input_token_logprobs"]] == ids


async def test_batch_with_prompt_logprobs_streamed(http: httpx.AsyncClient) -> None:
    """Each index brings its prompt's logprobs once, with its first event."""
    events = await events_of(http, input_ids=[FRANCE_IDS, ITALY_IDS], **LOGPROBS)
    for index, ids in enumerate((FRANCE_IDS, ITALY_IDS)):
        own = [event["meta_info"] for event in events if event["index"] == index]
        assert [entry[1] for entry in own[0]["input_token_logprobs"]] == ids
        assert not any(meta_info.get("input_token_logprobs") for meta_info in own[1:])


async def test_samples(http: httpx.AsyncClient) -> None:
    """sampling_params.n=2 gives a list of two results, alike when greedy."""
    alone = await ask(http, text=FRANCE)
    results = await ask(http, {"n": 2}, text=FRANCE)
    assert [result["output_ids"] for result in results] == [alone["output_ids"]] * 2


async def test_samples_of_a_batch(http: httpx.AsyncClient) -> None:
    """Two prompts with n=2 give four results, the samples of a prompt side by side."""
    france, italy = [(await ask(http, text=text))["text"] for text in (FRANCE, ITALY)]
    results = await ask(http, {"n": 2}, text=[FRANCE, ITALY])
    assert [result["text"] for result in results] == [france, france, italy, italy]
