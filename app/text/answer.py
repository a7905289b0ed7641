"""What all answers have in common: their choices, and the count of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.protocol.engine import Chunk, Complete
from app.protocol.wire_json import JsonObject
from app.text.choice import Choice
from app.text.text_request import TextRequest
from app.text.token_view import TokenView


@dataclass(frozen=True, slots=True)
class Envelope:
    """The members that every event and every whole answer repeats.

    Attributes:
        id: The answer's id towards the client.
        created_s: When it was begun, in Unix seconds.
    """

    id: str
    created_s: int


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a whole answer.

    Attributes:
        n_prompt: All prompts together, each counted once however many choices it has.
        n_completion: All choices together.
        n_cached: Prompt tokens from the prefill worker's cache.
        n_reasoning: Completion tokens of thoughts.
    """

    n_prompt: int
    n_completion: int
    n_cached: int
    n_reasoning: int

    def as_usage(self) -> JsonObject:
        """OpenAI's usage object."""
        usage: JsonObject = {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_completion,
            "total_tokens": self.n_prompt + self.n_completion,
            "prompt_tokens_details": {"cached_tokens": self.n_cached},
        }
        if self.n_reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.n_reasoning}
        return usage


class Answer:
    """An answer under way: one choice for each slot of the request.

    Args:
        request: What was asked.
        envelope: Its id and time.
    """

    def __init__(self, request: TextRequest, envelope: Envelope) -> None:
        self.request = request
        self.envelope = envelope
        self.choices = [Choice(request, slot) for slot in range(request.n_slots)]
        self.view = TokenView(request.served.tokenizer, ids_as_tokens=request.shown.ids_as_tokens)
        self._n_cached: dict[int, int] = {}

    def note_cached(self, slot: int, n_tokens: int) -> None:
        """Takes the cached tokens that the prefill leg reported; they win over decode's.

        With Mooncake the decode worker reports the whole prompt, because all of it was
        transferred.
        """
        self._n_cached[slot] = n_tokens

    def has_ended(self, slot: int) -> bool:
        """Whether a choice is complete; if its call still runs, it may be cancelled.

        That happens when a stop string was found which the engine did not see.
        """
        return self.choices[slot].end is not None

    def expect_end(self, slot: int) -> None:
        """Checks a choice whose engine call has ended.

        Raises:
            AnswerFailed: The last frame did not come.
        """
        self.choices[slot].expect_end()

    def n_cached(self, slot: int) -> int:
        """Cached prompt tokens of a slot."""
        return self._n_cached.get(slot, self.choices[slot].n_cached_tokens)

    def n_completion(self, slot: int) -> int:
        """Tokens of a choice that count."""
        return self.choices[slot].n_tokens

    @property
    def count(self) -> TokenCount:
        """Tokens so far."""
        request = self.request
        return TokenCount(
            n_prompt=sum(len(prompt.ids) for prompt in request.prompts),
            n_completion=sum(map(self.n_completion, range(request.n_slots))),
            # The first choice speaks for the prompt: the others find in the cache what it put in.
            n_cached=sum(map(self.n_cached, range(0, request.n_slots, request.n))),
            n_reasoning=sum(choice.n_reasoning_tokens for choice in self.choices),
        )


Frames = Sequence[Chunk | Complete]
