"""What one choice gained since it was last written out."""

from __future__ import annotations

from dataclasses import dataclass

from app.protocol.engine import TokenLogprob
from app.protocol.wire_json import JsonObject
from app.text.parsers.shapes import CallDelta


@dataclass(frozen=True, slots=True)
class End:
    """How a choice ended.

    Attributes:
        finish_reason: OpenAI's word: ``stop``, ``length`` or ``tool_calls``.
        stop_reason: The stop string or stop token; ``None`` for an end-of-sequence token.
        stop_id: The token it ended at, end-of-sequence tokens included.
    """

    finish_reason: str
    stop_reason: int | str | None = None
    stop_id: int | None = None

    def as_openai(self) -> JsonObject:
        """OpenAI's word, with vLLM's and SMG's words for what stopped it."""
        members: JsonObject = {"finish_reason": self.finish_reason, "stop_reason": self.stop_reason}
        if self.stop_reason is not None:
            members["matched_stop"] = self.stop_reason
        return members


class Delta:
    """Text and tokens not written out yet.

    Tokens whose text is still held wait here until text or the end is written, so that none of
    their logprobs gets lost.

    Attributes:
        content: Pieces of plain text.
        reasoning: Pieces of the thought.
        calls: Pieces of tool calls.
        token_ids: The tokens, if they or their logprobs are shown.
        logprobs: Their logprobs.
        offsets: Where in the text each logprob's token begins, for completions.
        end: Set once, when the choice has ended.
    """

    __slots__ = ("calls", "content", "end", "logprobs", "offsets", "reasoning", "token_ids")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[CallDelta] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.offsets: list[int] = []
        self.end: End | None = None

    @property
    def has_text(self) -> bool:
        """Something is there that a client can see."""
        return bool(self.content or self.reasoning or self.calls)

    def clear(self) -> None:
        """Forgets what was written out."""
        self.content, self.reasoning, self.calls = [], [], []
        self.token_ids, self.logprobs, self.offsets = [], [], []
        self.end = None
