"""A text completion as a stream."""

from __future__ import annotations

import orjson

from app.protocol.wire_json import JsonObject
from app.text.answer import Envelope
from app.text.choice import Choice
from app.text.echo import prompt_tokens
from app.text.logprob_view import legacy_logprobs
from app.text.openai_stream import OpenaiStream
from app.text.text_request import TextRequest


class CompletionStream(OpenaiStream):
    """Events of a text completion.

    Args:
        request: What was asked.
        envelope: Its id and time.
    """

    def __init__(self, request: TextRequest, envelope: Envelope) -> None:
        super().__init__(request, envelope, "text_completion")
        self._quick_heads = [
            self.writer.quick_head(slot) + b'"text":' for slot in range(request.n_slots)
        ]

    def beginning(self, slot: int, choice: Choice) -> bytes:
        """The echo of the prompt, with its logprobs and tokens if they are shown."""
        request, shown = self.request, self.request.shown
        if not shown.echo and not shown.token_ids:
            return b""
        logprobs = b"null"
        text = ""
        if shown.echo:
            text = shown.echo[slot // request.n]
            if shown.logprobs:
                items, offsets = prompt_tokens(request, choice)
                logprobs = orjson.dumps(legacy_logprobs(items, offsets, shown.n_top, self.view))
        extra: JsonObject | None = None
        if shown.token_ids:
            extra = {"prompt_token_ids": list(request.prompt(slot).ids), "token_ids": []}
        return self.writer.choice(
            slot,
            self.text_member(text),
            logprobs=logprobs,
            extra=extra,
            usage=self.running_usage(slot),
        )

    def quick_event(self, slot: int, text: str) -> bytes:
        """An event of text."""
        return self._quick_heads[slot] + orjson.dumps(text) + self.writer.quick_tail

    def text_member(self, text: str) -> bytes:
        """Text."""
        return b'"text":' + orjson.dumps(text)

    def end_member(self) -> bytes:
        """Empty text."""
        return b'"text":""'

    def pieces(self, choice: Choice) -> list[bytes]:
        """The text."""
        delta = choice.delta
        return [self.text_member("".join(delta.content))] if delta.content else []
