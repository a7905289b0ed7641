"""However an engine groups its tokens, the client gets the same answer, streamed or whole."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.protocol.engine import Candidate, Chunk, Complete, TokenLogprob
from app.protocol.routes import Route
from app.sim.small_tokenizer import write_small_tokenizer
from app.text.answer import Envelope, TokenCount
from app.text.parsers import reasoning_parsers, tool_parsers
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest
from app.text.text_route import open_stream, open_whole, read_request
from app.text.tokenizer import Tokenizer

ENVELOPE = Envelope("id", 1)
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom\u00e9 \U0001f469"}}\n</tool_call>'
)
PIECES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from(
            [
                "EN",
                "END",
                "<think>",
                "</think>",
                "</thi",
                CALL,
                CALL[:30],
                "\n\n",
                "\U0001f469\u200d",
            ]
        ),
    ),
    max_size=6,
)
CUTS = st.lists(st.integers(0, 80), max_size=12)
STRAY = st.lists(st.integers(0, 2047), max_size=4)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.sampled_from([["END"], ["ND", "</think>"], ["\n\n"]]),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "min_tokens": st.integers(0, 4),
        "logprobs": st.just(value=True),
        "return_token_ids": st.booleans(),
        "tools": st.just([TOOL]),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "parallel_tool_calls": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """A model with all parsers."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(folder)
    return ServedModel(
        "small",
        Tokenizer.load(folder),
        4096,
        tool_format=tool_parsers.by_name("qwen"),
        thought_format=reasoning_parsers.by_name("qwen3"),
    )


def frames_of(ids: list[int], cuts: list[int], reason: str) -> list[Chunk | Complete]:
    """The frames of a streamed answer, cut at these places."""
    places = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    parts = [ids[start:end] for start, end in pairwise(places)] or [[]]
    chunks = [Chunk(tuple(part), 3, 0, tuple(map(logprob, part))) for part in parts]
    last = chunks[-1]
    return [*chunks, Complete(last.token_ids, reason, 3, 1, 0, logprobs=last.logprobs)]


def logprob(token_id: int) -> TokenLogprob:
    """A logprob that tells the token."""
    return TokenLogprob(token_id, -token_id / 7, (Candidate(token_id, -token_id / 7),))


def joined_chat(data: bytes) -> Any:
    """The choice that the events of a stream add up to, in the shape of a whole answer's."""
    text: dict[str, str] = {"content": "", "reasoning_content": ""}
    calls: dict[int, dict[str, Any]] = {}
    logprobs: list[Any] = []
    ids: list[int] = []
    end: dict[str, Any] = {}
    for line in data.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[:-1]:
        choice = orjson.loads(line[6:])["choices"][0]
        for key in text:
            text[key] += choice["delta"].get(key, "")
        for piece in choice["delta"].get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {"arguments": ""})
            call["name"] = piece["function"].get("name", call.get("name"))
            call["arguments"] += piece["function"]["arguments"]
        logprobs += (choice["logprobs"] or {"content": []})["content"]
        ids += choice.get("token_ids", [])
        if choice["finish_reason"]:
            assert not end
            end = {key: choice[key] for key in ("finish_reason", "stop_reason")}
    return text, list(calls.values()), logprobs, ids, end


def parts_of(whole: bytes) -> Any:
    """The same of a whole answer."""
    choice = orjson.loads(whole)["choices"][0]
    message = choice["message"]
    text = {key: message.get(key) or "" for key in ("content", "reasoning_content")}
    calls = [call["function"] for call in message.get("tool_calls", ())]
    calls = [{"arguments": call["arguments"], "name": call["name"]} for call in calls]
    logprobs = (choice["logprobs"] or {"content": []})["content"]
    end = {key: choice[key] for key in ("finish_reason", "stop_reason")}
    return text, calls, logprobs, choice.get("token_ids", []), end


def streamed(
    request: TextRequest, frames: list[Chunk | Complete], at_once: int
) -> tuple[bytes, TokenCount]:
    """All bytes of a stream that is given so many frames at once, and its count of tokens."""
    stream = open_stream(request, ENVELOPE)
    groups = [frames[at : at + at_once] for at in range(0, len(frames), at_once)]
    data = b"".join(stream.feed(0, group) for group in groups)
    return data + stream.close(), stream.count


@given(PIECES, STRAY, CUTS, MEMBERS, st.sampled_from(["stop", "length"]), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_grouping_changes_nothing(
    thinker: ServedModel,
    pieces: list[str],
    stray: list[int],
    cuts: list[int],
    members: dict[str, Any],
    reason: str,
    at_once: int,
) -> None:
    """One frame, token by token, any groups, and the whole answer: all the same."""
    if "tools" not in members:
        members = {key: value for key, value in members.items() if key != "tool_choice"}
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, **members}
    request = asyncio.run(read_request(Route.CHAT, body, thinker))
    ids = [token_id for piece in pieces for token_id in thinker.tokenizer.encode(piece, False)]
    for seed in stray:
        ids.insert(seed % (len(ids) + 1), seed)
    every = list(range(len(ids)))
    results = []
    counts = set()
    for places, size in ((every, 1), (cuts, 1), (cuts, at_once), ([], 1)):
        data, count = streamed(request, frames_of(ids, places, reason), size)
        results.append(joined_chat(data))
        counts.add(count)
    whole = open_whole(request, ENVELOPE)
    whole.feed(0, frames_of(ids, [], reason)[-1:])
    results.append(parts_of(whole.body()))
    assert all(result == results[0] for result in results)
    assert {whole.count} == counts


@given(PIECES, CUTS, st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_plain_text_is_the_tokenizers_own(
    thinker: ServedModel, pieces: list[str], cuts: list[int], skips: bool, is_chat: bool
) -> None:
    """Without stops and parsers the text is what decoding all ids gives."""
    plain = replace(thinker, tool_format=tool_parsers.NONE, thought_format=reasoning_parsers.NONE)
    route = Route.CHAT if is_chat else Route.COMPLETIONS
    body = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "stream": True}
    body |= {"skip_special_tokens": skips}
    request = asyncio.run(read_request(route, body, plain))
    ids = plain.tokenizer.encode("".join(pieces), False)
    data, count = streamed(request, frames_of(ids, cuts, "length"), 2)
    events = [
        orjson.loads(found)["choices"][0] for found in re.findall(rb"data: (\{.*\})\n\n", data)
    ]
    texts = [event["delta"].get("content", "") if is_chat else event["text"] for event in events]
    assert plain.tokenizer.decode(ids, skips) == "".join(texts)
    assert len(ids) == count.n_completion
