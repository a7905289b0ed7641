"""Asking for chat answers and reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from app.protocol.engine import Chunk, Complete
from app.text.answer import Envelope
from app.text.chat_request import read_chat
from app.text.chat_stream import ChatStream
from app.text.openai_whole import ChatWhole
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest

Frames = list[Chunk | Complete]
MakeFrames = Callable[..., Frames]
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


async def chat(served: ServedModel, **members: Any) -> TextRequest:
    """Reads a chat body with these members."""
    return await read_chat({"messages": HELLO, **members}, served)


def events(data: bytes) -> list[Any]:
    """The events of a stream."""
    assert data.endswith(b"\n\n") or not data
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line]
    return [line.decode() if line == b"[DONE]" else orjson.loads(line) for line in lines]


def stream_of(request: TextRequest, envelope: Envelope, frames: Frames) -> list[Any]:
    """All events, one frame at a time."""
    stream = ChatStream(request, envelope)
    data = b"".join(stream.feed(0, [frame]) for frame in frames)
    return events(data + stream.close())


def whole_of(request: TextRequest, envelope: Envelope, frames: Frames) -> Any:
    """The whole object."""
    whole = ChatWhole(request, envelope)
    whole.feed(0, frames)
    return orjson.loads(whole.body())


def deltas(found: list[Any]) -> list[Any]:
    """The deltas of a stream's events."""
    return [event["choices"][0]["delta"] for event in found if event != "[DONE]"]
