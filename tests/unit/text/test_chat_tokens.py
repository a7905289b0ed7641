"""What chat answers tell about tokens, and what happens when the engine gives up."""

from __future__ import annotations

import pytest

from app.protocol.engine import Candidate, Chunk, Complete, TokenLogprob
from app.text.answer import Envelope
from app.text.chat_stream import ChatStream
from app.text.choice import AnswerFailed
from app.text.openai_whole import ChatWhole
from app.text.served_model import ServedModel
from tests.unit.text.answering import (
    Frames,
    MakeFrames,
    chat,
    stream_of,
    whole_of,
)


async def test_usage_event(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """Null in every event, then one event without choices."""
    request = await chat(served, stream=True, stream_options={"include_usage": True})
    found = stream_of(request, envelope, frames("Hello world"))
    assert all(event["usage"] is None for event in found[:-2])
    usage = found[-2]
    n_tokens = len(served.tokenizer.encode("Hello world", False))
    assert [] == usage["choices"]
    assert n_tokens == usage["usage"]["completion_tokens"]
    assert {"cached_tokens": 4} == usage["usage"]["prompt_tokens_details"]


async def test_running_usage(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """Every event tells the tokens so far."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    request = await chat(served, stream=True, stream_options=options)
    found = stream_of(request, envelope, frames("a b c d"))
    counts = [event["usage"]["completion_tokens"] for event in found if event != "[DONE]"]
    assert counts == sorted(counts)
    assert 1 == counts[0]
    assert counts[-1] == counts[-2]


async def test_prefills_cached_tokens_win(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """With Mooncake decode calls the whole prompt cached."""
    whole = ChatWhole(await chat(served), envelope)
    whole.note_cached(0, 2)
    whole.feed(0, frames("Hello"))
    assert 2 == whole.count.n_cached


def logprob(token_id: int, *rivals: int) -> TokenLogprob:
    """A token with candidates."""
    top = tuple(Candidate(rival, -1.0) for rival in (token_id, *rivals))
    return TokenLogprob(token_id, -0.25, top)


async def test_logprobs_have_the_tokens_own_bytes(served: ServedModel, envelope: Envelope) -> None:
    """A character in several tokens: no bytes are lost, in a stream either."""
    text = "a\U0001f469b"
    ids = served.tokenizer.encode(text, False)
    assert len(ids) > 3
    made: Frames = [Chunk((i,), 9, 0, (logprob(i, ids[0]),)) for i in ids]
    made.append(Complete((ids[-1],), "length", 9, 1, 0, logprobs=(logprob(ids[-1]),)))
    request = await chat(served, stream=True, logprobs=True, top_logprobs=2)
    found = stream_of(request, envelope, made)
    entries = [
        entry
        for event in found[:-1]
        for entry in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert text.encode() == bytes(byte for entry in entries for byte in entry["bytes"])
    assert whole_of(request, envelope, made)["choices"][0]["logprobs"]["content"] == entries
    assert {"token": "a", "logprob": -1.0, "bytes": [97]} == entries[1]["top_logprobs"][1]


async def test_logprobs_without_text_come_with_the_end(
    served: ServedModel, envelope: Envelope
) -> None:
    """The end token has a logprob too; minus infinity is no JSON."""
    a = served.tokenizer.encode("a", False)[0]
    eos = min(served.tokenizer.eos_ids)
    request = await chat(served, stream=True, logprobs=True)
    end = TokenLogprob(eos, float("-inf"), (Candidate(eos, float("-inf")),))
    made: Frames = [Chunk((a,), 9, 0, (logprob(a),)), Chunk((eos,), 9, 0, (end,))]
    found = stream_of(request, envelope, [*made, Complete((eos,), "stop", 9, 1, 0)])
    last = found[-2]["choices"][0]
    assert "stop" == last["finish_reason"]
    assert [-9999.0] == [entry["logprob"] for entry in last["logprobs"]["content"]]
    assert [] == last["logprobs"]["content"][0]["top_logprobs"]


async def test_token_ids(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """return_token_ids, whole and in a stream."""
    ids = served.tokenizer.encode("Hello world", False)
    request = await chat(served, return_token_ids=True, stream=True)
    whole = whole_of(request, envelope, frames("Hello world"))
    assert (ids, list(request.prompts[0].ids)) == (
        whole["choices"][0]["token_ids"],
        whole["prompt_token_ids"],
    )
    found = stream_of(request, envelope, frames("Hello world"))
    assert list(request.prompts[0].ids) == found[0]["prompt_token_ids"]
    streamed = [event["choices"][0].get("token_ids", []) for event in found[:-1]]
    assert ids == [token_id for part in streamed for token_id in part]


async def test_prompt_logprobs(served: ServedModel, envelope: Envelope) -> None:
    """An extension of vLLM: null for the first token, then candidates by id."""
    a = served.tokenizer.encode("a", False)[0]
    items = (TokenLogprob(a, None), logprob(a, a + 1))
    end = Complete((a,), "length", 9, 1, 0, prompt_logprobs=items)
    whole = whole_of(await chat(served, prompt_logprobs=1), envelope, [end])
    first, second = whole["prompt_logprobs"]
    assert first is None
    assert {"logprob": -0.25, "rank": None, "decoded_token": "a"} == second[str(a)]
    assert {str(a), str(a + 1)} == second.keys()


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_engine_gives_up(served: ServedModel, envelope: Envelope, reason: str) -> None:
    """An error, never an empty answer; before the first token nothing was written."""
    stream = ChatStream(await chat(served, stream=True), envelope)
    assert b"" == stream.feed(0, [Chunk((), 9, 0)])
    with pytest.raises(AnswerFailed) as failure:
        stream.feed(0, [Complete((), reason, 9, 0, 0)])
    assert (reason, 0, 0) == (failure.value.reason, failure.value.n_tokens, failure.value.slot)


async def test_engine_gives_up_late(served: ServedModel, envelope: Envelope) -> None:
    """The tokens it had made tell that a new try would repeat them."""
    a = served.tokenizer.encode("a", False)[0]
    whole = ChatWhole(await chat(served), envelope)
    with pytest.raises(AnswerFailed) as failure:
        whole.feed(0, [Chunk((a,), 9, 0), Complete((a,), "error", 9, 1, 0)])
    assert 1 == failure.value.n_tokens


async def test_call_without_a_last_frame(served: ServedModel, envelope: Envelope) -> None:
    """Cut is not the same as ended."""
    a = served.tokenizer.encode("a", False)[0]
    whole = ChatWhole(await chat(served), envelope)
    whole.feed(0, [Chunk((a,), 9, 0)])
    for ask in (lambda: whole.expect_end(0), whole.body):
        with pytest.raises(AnswerFailed) as failure:
            ask()
        assert "cut" == failure.value.reason
