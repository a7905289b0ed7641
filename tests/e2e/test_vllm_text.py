"""For random requests: the text is the tokenizer's own decoding of the tokens, streamed or not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.e2e.simulated import Fleet
from tests.e2e.text_cases import TextCase, text_cases

N_CASES = 200
SEED = 20_261_123
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "generate": "/generate",
}
NATIVE = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}


@dataclass(frozen=True)
class Said:
    """An answer: its text, tokens and end (a stop string, a stop token, or neither)."""

    text: str
    ids: list[int]
    end: str
    stop: str | int | None


def body_of(case: TextCase, model: str, *, stream: bool) -> dict[str, Any]:
    """Builds the request."""
    if case.way == "generate":
        params = {NATIVE.get(name, name): value for name, value in case.params.items()}
        is_shown = params.pop("include_stop_str_in_output", False)
        params["no_stop_trim"] = is_shown
        return {"text": case.prompt, "sampling_params": params, "stream": stream}
    body = {"model": model, "stream": stream, "return_token_ids": True, **case.params}
    if case.way == "chat":
        return {**body, "messages": [{"role": "user", "content": case.prompt}]}
    return {**body, "prompt": case.prompt}


async def ask(http: httpx.AsyncClient, case: TextCase, model: str) -> Said:
    """Asks for an answer in one piece."""
    answer = await http.post(PATHS[case.way], json=body_of(case, model, stream=False))
    assert answer.status_code == 200, answer.text
    return said(case, [answer.json()])


async def ask_streamed(http: httpx.AsyncClient, case: TextCase, model: str) -> Said:
    """Asks for a stream."""
    body = body_of(case, model, stream=True)
    async with http.stream("POST", PATHS[case.way], json=body) as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return said(case, [json.loads(line.removeprefix("data: ")) for line in lines[:-1]])


def said(case: TextCase, events: list[dict[str, Any]]) -> Said:
    """Joins what the events say; SGLang's are cumulative."""
    if case.way == "generate":
        last = events[-1]
        reason = last["meta_info"]["finish_reason"]
        return Said(last["text"], last["output_ids"], reason["type"], reason.get("matched"))
    text = ""
    ids: list[int] = []
    choices = [choice for event in events for choice in event["choices"]]
    for choice in choices:
        message = choice.get("delta", choice.get("message", {}))
        text += choice.get("text", message.get("content")) or ""
        ids += choice.get("token_ids") or []
    return Said(text, ids, choices[-1]["finish_reason"], choices[-1]["stop_reason"])


def decoded(case: TextCase, answer: Said, tokenizer: Tokenizer) -> str:
    """What the tokenizer makes of the answer's tokens, cut where the answer says it ended."""
    is_shown = case.params.get("include_stop_str_in_output", False)
    ids = answer.ids
    if answer.end == "stop" and not isinstance(answer.stop, str) and not is_shown:
        ids = ids[:-1]  # the stop token
    text = tokenizer.decode(ids, skip_special_tokens=case.hides_special)
    stops = case.params.get("stop", [])
    found = [(text.index(stop) + len(stop), stop) for stop in stops if stop in text]
    if not isinstance(answer.stop, str):
        # A character that never came to its end is no match: the engine sees it too late.
        assert all(stop == "\ufffd" for _, stop in found)
        return text
    end = min(place for place, _ in found)
    assert answer.stop in [stop for place, stop in found if place == end]
    return text[: end if is_shown else end - len(answer.stop)]


@pytest.mark.engine("vllm")
@pytest.mark.real
@pytest.mark.timeout(1200)
async def test_text_is_the_decoding_of_the_tokens(
    http: httpx.AsyncClient, fleet: Fleet, model: str
) -> None:
    """200 requests: unicode, emoji, long ones, stops, special tokens; each streamed and not."""
    assert fleet.real is not None
    tokenizer = Tokenizer.from_file(str(fleet.real.model / "tokenizer.json"))
    seen: Counter[str] = Counter()
    wrong: list[tuple[TextCase, Said, Said, str]] = []
    for case in text_cases(N_CASES, SEED, tokenizer):
        whole = await ask(http, case, model)
        streamed = await ask_streamed(http, case, model)
        wanted = decoded(case, whole, tokenizer)
        if whole != streamed or whole.text != wanted:
            wrong.append((case, whole, streamed, wanted))
        special = tokenizer.decode(whole.ids) != tokenizer.decode(whole.ids, False)
        seen.update(
            {
                case.way: 1,
                f"ended by {whole.end}": 1,
                "ended at a stop string": isinstance(whole.stop, str),
                "with special tokens": special,
                "with broken characters": "\ufffd" in whole.text,
                "beyond ASCII": not whole.text.isascii(),
                "tokens": len(whole.ids),
            }
        )
    print(", ".join(f"{count} {name}" for name, count in sorted(seen.items())))
    assert not wrong, "\n".join(map(str, wrong[:5]))
