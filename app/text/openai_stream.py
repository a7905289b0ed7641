"""What a chat stream and a completions stream have in common."""

from __future__ import annotations

from abc import abstractmethod

import orjson

from app.protocol.wire_json import JsonObject
from app.text.answer import Answer, Envelope, Frames, TokenCount
from app.text.choice import Choice
from app.text.event_writer import EventWriter
from app.text.logprob_view import chat_logprobs, legacy_logprobs
from app.text.text_request import TextRequest


class OpenaiStream(Answer):
    """A stream of events, a choice at a time.

    Args:
        request: What was asked.
        envelope: Its id and time.
        kind: The ``object`` of every event.
    """

    def __init__(self, request: TextRequest, envelope: Envelope, kind: str) -> None:
        super().__init__(request, envelope)
        shown = request.shown
        head = {
            "id": envelope.id,
            "object": kind,
            "created": envelope.created_s,
            "model": request.model,
        }
        self.writer = EventWriter(head, request.n_slots, has_usage=shown.usage)
        self._has_begun = [False] * request.n_slots
        # Text is all there is to an event of most streams; such an event is written from parts.
        self._is_quick = not (shown.logprobs or shown.token_ids or shown.running_usage)

    def feed(self, slot: int, frames: Frames) -> bytes:
        """Takes what one wake-up brought for a choice and writes its events.

        Returns:
            Whole events; nothing while the text is held, or before the first token.

        Raises:
            AnswerFailed: The engine gave up; the frames of this call are dropped.
        """
        choice = self.choices[slot]
        if choice.end is not None:
            return b""
        choice.feed(frames)
        first = b""
        if not self._has_begun[slot]:
            # An answer that fails before its first token must not have begun.
            if not choice.n_tokens and choice.end is None:
                return b""
            self._has_begun[slot] = True
            first = self.beginning(slot, choice)
        delta = choice.delta
        if delta.end is None and self._is_quick and not (delta.reasoning or delta.calls):
            if not delta.content:
                return first
            text = delta.content[0] if len(delta.content) == 1 else "".join(delta.content)
            delta.content.clear()
            return first + self.quick_event(slot, text)
        return first + self._events(slot, choice)

    def close(self) -> bytes:
        """Ends the stream, when every choice has ended."""
        usage = self.count.as_usage() if self.request.shown.usage else None
        return self.writer.end(usage)

    @abstractmethod
    def beginning(self, slot: int, choice: Choice) -> bytes:
        """What comes before a choice's first text."""

    @abstractmethod
    def quick_event(self, slot: int, text: str) -> bytes:
        """An event of nothing but text."""

    @abstractmethod
    def text_member(self, text: str) -> bytes:
        """The member of a choice that holds text."""

    @abstractmethod
    def pieces(self, choice: Choice) -> list[bytes]:
        """The delta's text as members, each for an event of its own."""

    @abstractmethod
    def end_member(self) -> bytes:
        """The member of a choice's last event, where text would be."""

    def running_usage(self, slot: int) -> JsonObject | None:
        """The usage of one choice so far, if every event is to have it."""
        if not self.request.shown.running_usage:
            return None
        return TokenCount(
            n_prompt=len(self.request.prompt(slot).ids),
            n_completion=self.n_completion(slot),
            n_cached=self.n_cached(slot),
            n_reasoning=self.choices[slot].n_reasoning_tokens,
        ).as_usage()

    def _events(self, slot: int, choice: Choice) -> bytes:
        """Writes the delta; its tokens go with the first event there is."""
        delta, end = choice.delta, choice.delta.end
        pieces = self.pieces(choice)
        if end is not None:
            pieces.append(self.end_member())
        if not pieces:
            return b""
        usage = self.running_usage(slot)
        events: list[bytes] = []
        logprobs, extra = self._tokens(choice)
        for at, members in enumerate(pieces):
            is_last = end is not None and at == len(pieces) - 1
            events.append(
                self.writer.choice(
                    slot,
                    members,
                    logprobs=logprobs,
                    end=end.as_openai() if end is not None and is_last else None,
                    extra=extra,
                    usage=usage,
                )
            )
            logprobs, extra = b"null", None
        delta.clear()
        return b"".join(events)

    def _tokens(self, choice: Choice) -> tuple[bytes, JsonObject | None]:
        delta, shown = choice.delta, self.request.shown
        logprobs = b"null"
        if delta.logprobs and self.request.has_offsets:
            view = legacy_logprobs(delta.logprobs, delta.offsets, shown.n_top, self.view)
            logprobs = orjson.dumps(view)
        elif delta.logprobs:
            logprobs = orjson.dumps(chat_logprobs(delta.logprobs, shown.n_top, self.view))
        return logprobs, {"token_ids": delta.token_ids} if shown.token_ids else None
