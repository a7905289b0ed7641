"""Chat answers, streamed and whole: text, stops, ends, choices."""

from __future__ import annotations

import orjson

from app.protocol.engine import Chunk, Complete
from app.text.answer import Envelope
from app.text.chat_stream import ChatStream
from app.text.openai_whole import ChatWhole
from app.text.served_model import ServedModel
from tests.unit.text.answering import (
    HELLO,
    MakeFrames,
    chat,
    deltas,
    events,
    stream_of,
    whole_of,
)


async def test_stream_order(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """Role, content, a last event with the reason, the end."""
    request = await chat(served, stream=True)
    found = stream_of(request, envelope, frames("Hello world", eos=True))
    assert {"role": "assistant", "content": ""} == deltas(found)[0]
    assert "Hello world" == "".join(delta.get("content", "") for delta in deltas(found))
    last = found[-2]
    assert last == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1795422858,
        "model": "small",
        "choices": [
            {
                "index": 0,
                "delta": {},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
    }
    assert "[DONE]" == found[-1]
    assert all(e["choices"][0]["finish_reason"] is None for e in found[:-2])


async def test_one_wake_up_is_one_content_event(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Several frames that came together are written as one delta."""
    stream = ChatStream(await chat(served, stream=True), envelope)
    found = events(stream.feed(0, frames("Hello world, how are you?")))
    assert [{"role": "assistant", "content": ""}, {"content": "Hello world, how are you?"}, {}] == (
        deltas(found)
    )


async def test_whole(served: ServedModel, envelope: Envelope) -> None:
    """From the one frame of an unstreamed call."""
    ids = tuple(served.tokenizer.encode("Hello world", False))
    request = await chat(served)
    whole = whole_of(request, envelope, [Complete(ids, "length", 9, len(ids), 4)])
    assert whole == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795422858,
        "model": "small",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": len(request.prompts[0].ids),
            "completion_tokens": len(ids),
            "total_tokens": len(request.prompts[0].ids) + len(ids),
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


async def test_the_last_frame_repeats_tokens(served: ServedModel, envelope: Envelope) -> None:
    """Chunks [1,2],[3] and a last frame [3] are three tokens."""
    one, two, three = served.tokenizer.encode("a b c", False)[:3]
    end = Complete((three,), "length", 9, 1, 0)
    answer = ChatWhole(await chat(served), envelope)
    answer.feed(0, [Chunk((one, two), 9, 0), Chunk((three,), 9, 0), end])
    assert 3 == answer.count.n_completion
    content = orjson.loads(answer.body())["choices"][0]["message"]["content"]
    assert served.tokenizer.decode([one, two, three], False) == content


async def test_end_token_is_hidden_and_counted(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Also if special tokens are shown, as in vLLM; unless the stop itself is wanted."""
    shown = {"skip_special_tokens": False}
    made = frames("Hello", eos=True)
    n_tokens = len(made) - 1
    for members, text in (
        ({}, "Hello"),
        (shown, "Hello"),
        ({**shown, "include_stop_str_in_output": True}, "Hello<|endoftext|>"),
    ):
        whole = whole_of(await chat(served, **members), envelope, made)
        assert text == whole["choices"][0]["message"]["content"]
        assert n_tokens == whole["usage"]["completion_tokens"]


async def test_end_token_in_the_middle(served: ServedModel, envelope: Envelope) -> None:
    """It ends nothing if the engine goes on, or stops for another reason."""
    eos = min(served.tokenizer.eos_ids)
    a, b = (served.tokenizer.encode(text, False)[0] for text in "ab")
    request = await chat(served, skip_special_tokens=False)
    token = served.tokenizer.token_text(eos)
    for ids, reason, text in (
        ((a, eos, b), "stop", f"a{token}b"),
        ((a, eos), "length", f"a{token}"),
        ((a, eos), "stop", "a"),
    ):
        whole = whole_of(request, envelope, [Complete(ids, reason, 9, len(ids), 0)])
        assert text == whole["choices"][0]["message"]["content"]


async def test_stop_string(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """Cut before it, named, and its tokens counted; what comes behind is not."""
    made = frames("one two END three", matched_stop="END")
    counted = len(served.tokenizer.encode("one two END", False))
    request = await chat(served, stop="END", stream=True)
    found = stream_of(request, envelope, made)
    assert "one two " == "".join(delta.get("content", "") for delta in deltas(found))
    end = found[-2]["choices"][0]
    assert ("stop", "END", "END") == (end["finish_reason"], end["stop_reason"], end["matched_stop"])
    stream = ChatStream(request, envelope)
    stream.feed(0, made[:-1])
    assert stream.has_ended(0)
    assert counted == stream.count.n_completion
    assert b"" == stream.feed(0, made[-1:])


async def test_include_stop_string(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Kept when asked for."""
    request = await chat(served, stop="END", include_stop_str_in_output=True)
    whole = whole_of(request, envelope, frames("one two END three"))
    assert "one two END" == whole["choices"][0]["message"]["content"]


async def test_choices_end_one_by_one(
    served: ServedModel, envelope: Envelope, frames: MakeFrames
) -> None:
    """Each choice has its role and its last event; the prompt is counted once."""
    request = await chat(served, stream=True, n=2, stream_options={"include_usage": True})
    stream = ChatStream(request, envelope)
    first, second = frames("one"), frames("two three")
    data = events(stream.feed(1, second[:1]) + stream.feed(0, first))
    ends = [e["choices"][0]["index"] for e in data if e["choices"][0]["finish_reason"]]
    assert [0] == ends
    assert (True, False) == (stream.has_ended(0), stream.has_ended(1))
    rest = events(stream.feed(1, second[1:]) + stream.close())
    assert [1] == [
        e["choices"][0]["index"]
        for e in rest[:-2]
        if e["choices"] and e["choices"][0]["finish_reason"]
    ]
    usage = rest[-2]["usage"]
    assert len(request.prompts[0].ids) == usage["prompt_tokens"]
    assert 4 == usage["prompt_tokens_details"]["cached_tokens"]
    assert len(first) + len(second) - 2 == usage["completion_tokens"]


async def test_repetition_is_a_stop(served: ServedModel, envelope: Envelope) -> None:
    """OpenAI has no word for it."""
    a = served.tokenizer.encode("a", False)[0]
    whole = whole_of(await chat(served), envelope, [Complete((a,), "repetition", 9, 1, 0)])
    choice = whole["choices"][0]
    assert ("stop", "repetition") == (choice["finish_reason"], choice["stop_reason"])


async def test_echo(served: ServedModel, envelope: Envelope, frames: MakeFrames) -> None:
    """The unfinished message comes first."""
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    request = await chat(
        served, messages=messages, continue_final_message=True, echo=True, stream=True
    )
    whole = whole_of(request, envelope, frames(" yes"))
    assert "Well, yes" == whole["choices"][0]["message"]["content"]
    found = stream_of(request, envelope, frames(" yes"))
    assert "Well, yes" == "".join(delta.get("content", "") for delta in deltas(found[:-1]))
