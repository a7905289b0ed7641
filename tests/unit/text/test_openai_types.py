"""OpenAI's own client library reads every answer, with its types checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.protocol.engine import Candidate, Chunk, Complete, TokenLogprob
from app.protocol.routes import Route
from app.text.answer import Envelope
from app.text.served_model import ServedModel
from app.text.text_route import open_stream, open_whole, read_request

MakeFrames = Callable[..., list[Chunk | Complete]]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
USAGE = {"stream_options": {"include_usage": True}}


def with_logprobs(frames: list[Chunk | Complete]) -> list[Chunk | Complete]:
    """The same frames, each with logprobs of its tokens."""
    made: list[Chunk | Complete] = []
    for frame in frames:
        items = tuple(TokenLogprob(i, -0.5, (Candidate(i, -0.5),)) for i in frame.token_ids)
        if isinstance(frame, Chunk):
            made.append(Chunk(frame.token_ids, 9, 4, items))
        else:
            made.append(Complete(frame.token_ids, frame.finish_reason, 9, 1, 4, logprobs=items))
    return made


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tools": [WEATHER]},
        {"logprobs": True, "top_logprobs": 1},
        {"stop": "look"},
        {"n": 2, "return_token_ids": True},
    ],
)
async def test_chat(
    thinker: ServedModel, envelope: Envelope, frames: MakeFrames, members: dict[str, Any]
) -> None:
    """Whole objects and every event."""
    made = with_logprobs(frames(f"<think>hm</think>I look. {CALL}", eos=True))
    body = {**CHAT, **members, "stream": True, **USAGE}
    request = await read_request(Route.CHAT, body, thinker)
    whole, stream = open_whole(request, envelope), open_stream(request, envelope)
    data = b""
    for slot in range(request.n_slots):
        whole.feed(slot, made)
        data += b"".join(stream.feed(slot, [frame]) for frame in made)
    ChatCompletion.model_validate_json(whole.body(), strict=True)
    *events, done, rest = (data + stream.close()).split(b"\n\n")
    assert (b"data: [DONE]", b"") == (done, rest)
    chunks = [
        ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: "), strict=True)
        for event in events
    ]
    assert request.n_slots == sum(
        choice.finish_reason is not None for chunk in chunks for choice in chunk.choices
    )
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("members", [{}, {"logprobs": 1}, {"echo": True}, {"prompt": ["a", "b"]}])
async def test_completions(
    served: ServedModel, envelope: Envelope, frames: MakeFrames, members: dict[str, Any]
) -> None:
    """Whole objects; events have the same type."""
    made = with_logprobs(frames("Hello world"))
    body = {"prompt": "Hi", **members, "stream": True, **USAGE}
    request = await read_request(Route.COMPLETIONS, body, served)
    whole, stream = open_whole(request, envelope), open_stream(request, envelope)
    data = b""
    for slot in range(request.n_slots):
        whole.feed(slot, made)
        data += b"".join(stream.feed(slot, [frame]) for frame in made)
    Completion.model_validate_json(whole.body(), strict=True)
    for event in (data + stream.close()).split(b"\n\n")[:-2]:
        text = event.removeprefix(b"data: ")
        # The library's type wants a reason even where its own service sends null.
        Completion.model_validate_json(
            text.replace(b'"finish_reason":null', b'"finish_reason":"stop"')
        )
