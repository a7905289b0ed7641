"""One choice of an answer: frames of an engine in, deltas of text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from app.protocol.engine import Chunk, Complete, TokenLogprob
from app.text.choice_parts import ChoiceParts
from app.text.choice_text import ChoiceText
from app.text.delta import Delta, End
from app.text.text_request import TextRequest

Failure = Literal["abort", "error", "cut"]


class AnswerFailed(Exception):
    """The engine gave an answer up although its call ended well.

    Attributes:
        reason: ``error`` and ``abort`` are the engine's own finish reasons (a KV cache that could
            not be loaded is an ``error``); ``cut`` is a call that ended without a last frame.
        slot: The choice.
        n_tokens: Tokens it had made; with 0 nothing was written and it may be tried again.
    """

    def __init__(self, reason: Failure, slot: int, n_tokens: int) -> None:
        super().__init__(f"finish_reason {reason} after {n_tokens} tokens")
        self.reason = reason
        self.slot = slot
        self.n_tokens = n_tokens


class Choice:
    """One choice.

    Tokens are taken from chunks; the last frame repeats those of the last chunk and is read for
    tokens only if there was no chunk, which is how an unstreamed answer comes.

    Args:
        request: The request it belongs to.
        slot: Which choice of which prompt.

    Attributes:
        delta: What was not written out yet; whoever writes it clears it.
        end: How it ended; ``None`` while it runs. Later frames are ignored.
        n_cached_tokens: Prompt tokens the engine took from its cache.
        n_reasoning_tokens: Tokens before the first one behind the thought.
        prompt_logprobs: Those of the prompt, if asked for.
    """

    __slots__ = (
        "_has_chunk",
        "_is_mute",
        "_keeps_ids",
        "_n_offsets",
        "_parts",
        "_shows_logprobs",
        "_slot",
        "delta",
        "end",
        "n_cached_tokens",
        "n_reasoning_tokens",
        "prompt_logprobs",
        "text",
    )

    def __init__(self, request: TextRequest, slot: int) -> None:
        prompt, served, shown = request.prompt(slot), request.served, request.shown
        self.text = ChoiceText(
            served.tokenizer,
            prompt.ids,
            prompt.sampling,
            served.eos_ids | served.tokenizer.eos_ids,
            first_offset=request.first_offset(slot),
        )
        parsing = request.parsing
        self._parts: ChoiceParts | None = None
        if parsing.new_reasoning is not None or parsing.new_tools is not None:
            self._parts = ChoiceParts(parsing)
        self._slot = slot
        self._keeps_ids = request.shows_ids
        self._shows_logprobs = shown.logprobs
        self._is_mute = shown.is_echo_only
        self._has_chunk = False
        self._n_offsets = 0
        self.delta = Delta()
        self.end: End | None = None
        self.n_cached_tokens = 0
        self.n_reasoning_tokens = 0
        self.prompt_logprobs: Sequence[TokenLogprob] = ()

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer so far; those behind a stop string do not count."""
        return self.text.n_tokens

    def feed(self, frames: Sequence[Chunk | Complete]) -> None:
        """Takes the next frames and adds to the delta.

        Raises:
            AnswerFailed: The engine gave up.
        """
        for frame in frames:
            if self.end is not None:
                return
            self.n_cached_tokens = frame.n_cached_tokens
            if frame.prompt_logprobs and not self.prompt_logprobs:
                self.prompt_logprobs = frame.prompt_logprobs
            if isinstance(frame, Chunk):
                self._has_chunk = True
                self._take(frame.token_ids, frame.logprobs)
            else:
                self._complete(frame)

    def expect_end(self) -> None:
        """Checks, when the engine's call has ended, that the answer has, too.

        Raises:
            AnswerFailed: It has not.
        """
        if self.end is None:
            raise AnswerFailed("cut", self._slot, self.n_tokens)

    def _complete(self, frame: Complete) -> None:
        reason = frame.finish_reason
        if reason in ("abort", "error"):
            raise AnswerFailed("abort" if reason == "abort" else "error", self._slot, self.n_tokens)
        if not self._has_chunk:
            self._take(frame.token_ids, frame.logprobs)
            if self.end is not None:
                return
        self._finish(reason, frame.matched_stop)

    def _take(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        if self._is_mute:
            return
        text, parts = self.text, self._parts
        n_before = text.n_tokens
        if parts is None:
            if piece := text.feed(ids):
                self.delta.content.append(piece)
        elif parts.is_past_thought:
            if piece := text.feed(ids):
                parts.feed(piece, self.delta)
        else:
            self._take_thought(ids, parts)
        if self._keeps_ids or self._shows_logprobs:
            self._note_tokens(ids, logprobs, text.n_tokens - n_before)
        if text.matched is not None:
            self._finish("stop", text.matched)

    def _take_thought(self, ids: Sequence[int], parts: ChoiceParts) -> None:
        """Takes tokens one by one, to know which of them is the first behind the thought."""
        for token_id in ids:
            if self.text.matched is not None:
                return
            if piece := self.text.feed((token_id,)):
                parts.feed(piece, self.delta)
            if not parts.is_past_thought:
                self.n_reasoning_tokens += 1
            elif not parts.has_reasoning:
                self.n_reasoning_tokens = 0

    def _note_tokens(
        self, ids: Sequence[int], logprobs: Sequence[TokenLogprob], n_taken: int
    ) -> None:
        """Keeps the tokens and logprobs that count, each logprob with its token's offset."""
        delta = self.delta
        if self._keeps_ids:
            delta.token_ids.extend(ids[:n_taken])
        if not self._shows_logprobs:
            return
        offsets = self.text.offsets
        # The servicer leaves out a position whose own token is not among the candidates.
        at = 0
        for item in logprobs:
            while at < n_taken and ids[at] != item.token_id:
                at += 1
            if at == n_taken:
                break
            delta.logprobs.append(item)
            if offsets:
                delta.offsets.append(offsets[self._n_offsets + at])
            at += 1
        if offsets:
            self._n_offsets += n_taken

    def _finish(self, reason: str, stop_reason: int | str | None) -> None:
        rest = "" if self._is_mute else self.text.finish(reason)
        if self.text.matched is not None:
            reason, stop_reason = "stop", self.text.matched
        parts = self._parts
        if parts is None:
            if rest:
                self.delta.content.append(rest)
        else:
            if rest:
                parts.feed(rest, self.delta)
            parts.finish(self.delta)
            if not parts.has_reasoning:
                self.n_reasoning_tokens = 0
        if reason == "repetition":
            # OpenAI has no such word; the stop reason tells it.
            reason, stop_reason = "stop", stop_reason or "repetition"
        if reason == "stop" and parts is not None and parts.has_calls:
            reason = "tool_calls"
        self.end = self.delta.end = End(reason, stop_reason, self.text.held_id)
