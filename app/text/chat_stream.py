"""A chat completion as a stream: role, text, calls, a last event for each choice, the end."""

from __future__ import annotations

import orjson

from app.protocol.wire_json import JsonObject
from app.text.answer import Envelope
from app.text.choice import Choice
from app.text.openai_stream import OpenaiStream
from app.text.parsers.shapes import CallDelta
from app.text.text_request import TextRequest

_ROLE = b'"delta":{"role":"assistant","content":""}'


class ChatStream(OpenaiStream):
    """Events of a chat completion.

    Args:
        request: What was asked.
        envelope: Its id and time.
    """

    def __init__(self, request: TextRequest, envelope: Envelope) -> None:
        super().__init__(request, envelope, "chat.completion.chunk")
        self._quick_heads = [
            self.writer.quick_head(slot) + b'"delta":{"content":' for slot in range(request.n_slots)
        ]
        self._quick_tail = b"}" + self.writer.quick_tail

    def beginning(self, slot: int, choice: Choice) -> bytes:  # noqa: ARG002 - one shape for all
        """The role, and the prompt's tokens if they are shown."""
        shown = self.request.shown
        top: JsonObject | None = None
        if shown.token_ids:
            top = {"prompt_token_ids": list(self.request.prompt(slot).ids)}
        usage = self.running_usage(slot)
        first = self.writer.choice(slot, _ROLE, usage=usage, top=top)
        if shown.echo:
            first += self.writer.choice(slot, self.text_member(shown.echo[0]), usage=usage)
        return first

    def quick_event(self, slot: int, text: str) -> bytes:
        """An event of content."""
        return self._quick_heads[slot] + orjson.dumps(text) + self._quick_tail

    def text_member(self, text: str) -> bytes:
        """A delta of content."""
        return b'"delta":{"content":' + orjson.dumps(text) + b"}"

    def end_member(self) -> bytes:
        """An empty delta."""
        return b'"delta":{}'

    def pieces(self, choice: Choice) -> list[bytes]:
        """The thought, the content and the calls, in the order in which models write them."""
        delta = choice.delta
        pieces: list[bytes] = []
        if delta.reasoning:
            thought = orjson.dumps("".join(delta.reasoning))
            pieces.append(b'"delta":{"reasoning_content":' + thought + b"}")
        if delta.content:
            pieces.append(self.text_member("".join(delta.content)))
        if delta.calls:
            calls = [call_piece(call) for call in delta.calls]
            pieces.append(b'"delta":{"tool_calls":' + orjson.dumps(calls) + b"}")
        return pieces


def call_piece(call: CallDelta) -> JsonObject:
    """A piece of a tool call: name and id first, then arguments only."""
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
