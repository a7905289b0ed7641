"""Answers of ``/generate`` in SGLang's shape: text, output_ids and meta_info.

A stream's events repeat all text and ids so far, as SGLang's do; the prompt's logprobs come with
the first event only.
"""

from __future__ import annotations

import orjson

from app.protocol import sse
from app.protocol.engine import TokenLogprob
from app.protocol.wire_json import JsonObject
from app.text.answer import Answer, Envelope, Frames
from app.text.delta import End
from app.text.logprob_view import native_logprobs
from app.text.text_request import TextRequest


class NativeAnswer(Answer):
    """A generate answer, whole or as a stream.

    Args:
        request: What was asked.
        envelope: Its id; the time is not shown.
    """

    def __init__(self, request: TextRequest, envelope: Envelope) -> None:
        super().__init__(request, envelope)
        self._texts = [""] * request.n_slots
        self._ids: list[list[int]] = [[] for _ in range(request.n_slots)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n_slots)]
        self._is_list = request.is_batch or request.n > 1
        self._has_begun = [False] * request.n_slots

    def take(self, slot: int, frames: Frames) -> bool:
        """Takes frames of a choice; true if it gained a token or ended.

        Raises:
            AnswerFailed: The engine gave up.
        """
        choice, delta = self.choices[slot], self.choices[slot].delta
        choice.feed(frames)
        is_news = bool(delta.token_ids) or delta.end is not None
        self._texts[slot] += "".join(delta.content)
        self._ids[slot] += delta.token_ids
        self._logprobs[slot] += delta.logprobs
        delta.clear()
        return is_news

    def result(self, slot: int) -> JsonObject:
        """The object of a choice so far; an earlier one has told the prompt's logprobs."""
        choice, shown = self.choices[slot], self.request.shown
        suffix = f"-{slot}" if self._is_list else ""
        meta: JsonObject = {
            "id": self.envelope.id + suffix,
            "finish_reason": self._end(choice.end, slot),
            "prompt_tokens": len(self.request.prompt(slot).ids),
            "completion_tokens": self.n_completion(slot),
            "cached_tokens": self.n_cached(slot),
        }
        if shown.logprobs:
            meta |= self._meta_logprobs(slot)
        self._has_begun[slot] = True
        return {"text": self._texts[slot], "output_ids": self._ids[slot], "meta_info": meta}

    @property
    def is_list(self) -> bool:
        """The answer is a list; events then say which item they belong to."""
        return self._is_list

    def _end(self, end: End | None, slot: int) -> JsonObject | None:
        """SGLang's object; at an end-of-sequence token it names that token."""
        if end is None:
            return None
        if end.finish_reason == "length":
            return {"type": "length", "length": self.n_completion(slot)}
        matched = end.stop_id if end.stop_reason is None else end.stop_reason
        return {"type": "stop"} if matched is None else {"type": "stop", "matched": matched}

    def _meta_logprobs(self, slot: int) -> JsonObject:
        shown, n_top = self.request.shown, self.request.shown.n_top
        members: JsonObject = {}
        if shown.prompt_logprobs_from is not None and not self._has_begun[slot]:
            items = self.choices[slot].prompt_logprobs[shown.prompt_logprobs_from :]
            members = native_logprobs(
                items, "input", self.view, n_top=n_top, has_text=shown.logprob_text
            )
        return members | native_logprobs(
            self._logprobs[slot], "output", self.view, n_top=n_top, has_text=shown.logprob_text
        )


class NativeStream(NativeAnswer):
    """A generate stream."""

    def feed(self, slot: int, frames: Frames) -> bytes:
        """Takes what one wake-up brought for a choice and writes its event.

        Raises:
            AnswerFailed: The engine gave up; the frames of this call are dropped.
        """
        if self.has_ended(slot) or not self.take(slot, frames):
            return b""
        result = self.result(slot)
        if self.is_list:
            result["index"] = slot
        return sse.encode(orjson.dumps(result))

    def close(self) -> bytes:
        """Ends the stream, when every choice has ended."""
        return sse.DONE


class NativeWhole(NativeAnswer):
    """A generate answer in one piece."""

    def feed(self, slot: int, frames: Frames) -> None:
        """Takes frames of a choice, streamed or not.

        Raises:
            AnswerFailed: The engine gave up.
        """
        self.take(slot, frames)

    def body(self) -> bytes:
        """Writes it.

        Raises:
            AnswerFailed: A choice has not ended.
        """
        for slot in range(self.request.n_slots):
            self.expect_end(slot)
        results = [self.result(slot) for slot in range(self.request.n_slots)]
        return orjson.dumps(results if self.is_list else results[0])
