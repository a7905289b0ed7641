"""Answers of completions and generate, streamed and whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest

from app.protocol.engine import Candidate, Chunk, Complete, TokenLogprob
from app.protocol.routes import Route
from app.text.answer import Envelope
from app.text.choice import AnswerFailed
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest
from app.text.text_route import open_stream, open_whole, read_request

Frames = list[Chunk | Complete]
MakeFrames = Callable[..., Frames]


async def completion(served: ServedModel, prompt: Any = "Hi", **members: Any) -> TextRequest:
    """Reads a completions body."""
    return await read_request(Route.COMPLETIONS, {"prompt": prompt, **members}, served)


async def generate(served: ServedModel, **members: Any) -> TextRequest:
    """Reads a generate body."""
    return await read_request(Route.GENERATE, members, served)


def stream_of(request: TextRequest, envelope: Envelope, *slots: Frames) -> list[Any]:
    """All events but the last, [DONE]; each slot's frames one by one."""
    stream = open_stream(request, envelope)
    data = b""
    for slot, frames in enumerate(slots):
        data += b"".join(stream.feed(slot, [frame]) for frame in frames)
    data += stream.close()
    *found, done = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line]
    assert b"[DONE]" == done
    return [orjson.loads(line) for line in found]


def whole_of(request: TextRequest, envelope: Envelope, *slots: Frames) -> Any:
    """The whole answer."""
    whole = open_whole(request, envelope)
    for slot, frames in enumerate(slots):
        whole.feed(slot, frames)
    return orjson.loads(whole.body())


def with_logprobs(served: ServedModel, text: str, prompt: str = "") -> Frames:
    """Frames of one token each, with logprobs, and the prompt's in the first."""
    ids = served.tokenizer.encode(text, False)
    items = [TokenLogprob(i, -0.5, (Candidate(i, -0.5),)) for i in ids]
    before = [
        TokenLogprob(i, None if at == 0 else -2.0, (Candidate(5, -1.0),))
        for at, i in enumerate(served.tokenizer.encode(prompt, True))
    ]
    chunks = [
        Chunk((item.token_id,), 3, 0, (item,), tuple(before) if at == 0 else ())
        for at, item in enumerate(items)
    ]
    return [*chunks, Complete((ids[-1],), "length", 3, 1, 0, (items[-1],))]  # type: ignore[arg-type]


async def test_completion_whole(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """One choice for each slot, in order."""
    request = await completion(served, ["a", "b"], n=2)
    texts = ["one", "two", "three", "four"]
    whole = whole_of(request, envelope, *(frames(text) for text in texts))
    assert "text_completion" == whole["object"]
    assert list(enumerate(texts)) == [(c["index"], c["text"]) for c in whole["choices"]]
    first = whole["choices"][0]
    assert ("stop", None, None) == (first["finish_reason"], first["stop_reason"], first["logprobs"])
    n_prompt = sum(len(prompt.ids) for prompt in request.prompts)
    assert n_prompt == whole["usage"]["prompt_tokens"]
    assert {"cached_tokens": 8} == whole["usage"]["prompt_tokens_details"]


async def test_completion_stream(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Text events, a last event for each choice."""
    request = await completion(served, stream=True, n=2)
    found = stream_of(request, envelope, frames("one two"), frames("three"))
    texts = {0: "", 1: ""}
    for event in found:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert {0: "one two", 1: "three"} == texts
    ends = [event["choices"][0] for event in found if event["choices"][0]["finish_reason"]]
    assert [(0, ""), (1, "")] == [(end["index"], end["text"]) for end in ends]
    assert found[0] == {
        "id": "chatcmpl-1",
        "object": "text_completion",
        "created": 1795422858,
        "model": "small",
        "choices": [
            {"index": 0, "text": found[0]["choices"][0]["text"], "logprobs": None}
            | {"finish_reason": None}
        ],
    }


async def test_completion_logprobs(served: ServedModel, envelope: Envelope) -> None:
    """OpenAI's four lists; offsets are places in the text, also within a character."""
    text = "one \U0001f469 two"
    request = await completion(served, stream=True, logprobs=1)
    made = with_logprobs(served, text)
    logprobs = whole_of(request, envelope, made)["choices"][0]["logprobs"]
    ids = served.tokenizer.encode(text, False)
    assert [served.tokenizer.token_text(i) for i in ids] == logprobs["tokens"]
    assert [-0.5] * len(ids) == logprobs["token_logprobs"]
    assert {logprobs["tokens"][0]: -0.5} == logprobs["top_logprobs"][0]
    offsets = logprobs["text_offset"]
    assert offsets == sorted(offsets)
    assert 0 == offsets[0]
    for token, offset in zip(logprobs["tokens"], offsets, strict=True):
        assert "\ufffd" in token or text[offset:].startswith(token)
    streamed: dict[str, list[Any]] = {key: [] for key in logprobs}
    for event in stream_of(request, envelope, made):
        for key, values in (event["choices"][0]["logprobs"] or {}).items():
            streamed[key] += values
    assert logprobs == streamed


async def test_no_candidates(served: ServedModel, envelope: Envelope) -> None:
    """With logprobs 0 there is no list of candidates; ids can stand for tokens."""
    request = await completion(served, logprobs=0, return_tokens_as_token_ids=True)
    logprobs = whole_of(request, envelope, with_logprobs(served, "one"))["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] is None
    assert f"token_id:{served.tokenizer.encode('one', False)[0]}" == logprobs["tokens"][0]


async def test_echo_with_logprobs(served: ServedModel, envelope: Envelope) -> None:
    """The prompt's tokens come first and their offsets go on in the answer's."""
    request = await completion(served, "Hello you", echo=True, logprobs=1, stream=True)
    made = with_logprobs(served, " one two", "Hello you")
    choice = whole_of(request, envelope, made)["choices"][0]
    assert "Hello you one two" == choice["text"]
    logprobs = choice["logprobs"]
    assert (None, None) == (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0])
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    found = stream_of(request, envelope, made)
    assert "Hello you" == found[0]["choices"][0]["text"]
    n_prompt = len(served.tokenizer.encode("Hello you", True))
    assert n_prompt == len(found[0]["choices"][0]["logprobs"]["tokens"])
    assert choice["text"] == "".join(event["choices"][0]["text"] for event in found)


async def test_echo_only(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """max_tokens 0: the engine's one token is not shown."""
    request = await completion(served, echo=True, max_tokens=0, stream=True)
    whole = whole_of(request, envelope, frames("x", reason="length"))
    assert ("Hi", "length") == (whole["choices"][0]["text"], whole["choices"][0]["finish_reason"])
    assert 0 == whole["usage"]["completion_tokens"]
    found = stream_of(request, envelope, frames("x", reason="length"))
    assert ["Hi", ""] == [event["choices"][0]["text"] for event in found]


async def test_completion_ids(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """return_token_ids shows those of prompt and answer."""
    request = await completion(served, return_token_ids=True, stream=True)
    choice = whole_of(request, envelope, frames("one"))["choices"][0]
    ids = served.tokenizer.encode("one", False)
    assert (list(request.prompts[0].ids), ids) == (choice["prompt_token_ids"], choice["token_ids"])
    found = stream_of(request, envelope, frames("one"))
    assert list(request.prompts[0].ids) == found[0]["choices"][0]["prompt_token_ids"]
    assert ids == [i for event in found for i in event["choices"][0]["token_ids"]]


async def test_generate_whole(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """SGLang's shape; the end token is named."""
    request = await generate(served, text="Hi")
    eos = min(served.tokenizer.eos_ids)
    ids = [*served.tokenizer.encode("one two", False), eos]
    whole = whole_of(request, envelope, frames("one two", eos=True))
    assert whole == {
        "text": "one two",
        "output_ids": ids,
        "meta_info": {
            "id": "chatcmpl-1",
            "finish_reason": {"type": "stop", "matched": eos},
            "prompt_tokens": len(request.prompts[0].ids),
            "completion_tokens": len(ids),
            "cached_tokens": 4,
        },
    }


async def test_generate_batch(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """A list for a list, and for several choices."""
    request = await generate(served, text=["a"], stream=True)
    whole = whole_of(request, envelope, frames("one", reason="length"))
    assert {"type": "length", "length": 1} == whole[0]["meta_info"]["finish_reason"]
    assert [0, 0] == [event["index"] for event in stream_of(request, envelope, frames("one"))]
    twice = await generate(served, text="a", sampling_params={"n": 2})
    whole = whole_of(twice, envelope, frames("one"), frames("two"))
    assert ["one", "two"] == [item["text"] for item in whole]
    assert 2 == len({item["meta_info"]["id"] for item in whole})


async def test_generate_stream_repeats_all(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Every event has the whole text so far, the last one the reason."""
    request = await generate(served, text="Hi", stream=True, sampling_params={"stop": "END"})
    found = stream_of(request, envelope, frames("one two END three"))
    texts = [event["text"] for event in found]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert "one two " == texts[-1]
    reasons = [event["meta_info"]["finish_reason"] for event in found]
    assert {"type": "stop", "matched": "END"} == reasons[-1]
    assert not any(reasons[:-1])
    assert served.tokenizer.encode("one two END", False) == found[-1]["output_ids"]


async def test_generate_logprobs(served: ServedModel, envelope: Envelope) -> None:
    """Triples of logprob, id, text."""
    request = await generate(
        served,
        text="Hello you",
        return_logprob=True,
        top_logprobs_num=1,
        logprob_start_len=1,
        return_text_in_logprobs=True,
    )
    meta = whole_of(request, envelope, with_logprobs(served, "one", "Hello you"))["meta_info"]
    one = served.tokenizer.encode("one", False)[0]
    assert [[-0.5, one, "one"]] == meta["output_token_logprobs"]
    assert [[[-0.5, one, "one"]]] == meta["output_top_logprobs"]
    prompt = served.tokenizer.encode("Hello you", True)
    assert prompt[1:] == [item[1] for item in meta["input_token_logprobs"]]


async def test_generate_stream_tells_prompt_logprobs_once(
    served: ServedModel, envelope: Envelope
) -> None:
    """As SGLang does: with the first event; the answer's own are repeated with every event."""
    request = await generate(
        served, text="Hello you", stream=True, return_logprob=True, logprob_start_len=0
    )
    found = stream_of(request, envelope, with_logprobs(served, "one two", "Hello you"))
    metas = [event["meta_info"] for event in found]
    assert len(metas) > 1
    assert ["input_token_logprobs" in meta for meta in metas] == [True] + [False] * (len(metas) - 1)
    assert all(meta["output_token_logprobs"] for meta in metas)


@pytest.mark.parametrize("route", [Route.COMPLETIONS, Route.GENERATE])
async def test_failures(served: ServedModel, envelope: Envelope, route: Route) -> None:
    """The engine's error is one here, too, and a missing end is none."""
    body = {"prompt": "Hi", "text": "Hi", "stream": True}
    request = await read_request(route, body, served)
    stream, whole = open_stream(request, envelope), open_whole(request, envelope)
    assert b"" == stream.feed(0, [Chunk((), 3, 0)])
    with pytest.raises(AnswerFailed):
        stream.feed(0, [Complete((), "error", 3, 0, 0)])
    with pytest.raises(AnswerFailed):
        whole.body()
