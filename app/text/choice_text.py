"""One choice: from token ids to text, with stop tokens hidden and stop strings cut."""

from __future__ import annotations

from collections.abc import Sequence

from app.protocol.engine import Sampling
from app.text.detokenizer import Detokenizer
from app.text.stop_scanner import StopScanner
from app.text.tokenizer import Tokenizer


class ChoiceText:
    """The text of one choice, as it grows.

    The engine ends an answer at a stop token or a stop string, and sends the tokens of either
    (vLLM's gRPC servicer does). A stop token can only be told from any other token by what
    comes behind it: nothing. So it is held until then.

    Args:
        tokenizer: The model's.
        prompt_ids: Left of the first token: decides about its leading space.
        sampling: What the engine was told.
        eos_ids: Tokens that end an answer by themselves.
        first_offset: Note for each token where in the text it begins, counted from here.

    Attributes:
        n_tokens: Tokens so far, up to a stop string's last one; stop tokens count.
        matched: The stop string that ended it.
        held_id: The last token, if it may be a stop token.
        offsets: Characters before each token; empty without ``first_offset``.
    """

    __slots__ = (
        "_detokenizer",
        "_keeps_offsets",
        "_n_chars",
        "_scanner",
        "_shows_stop",
        "_stop_ids",
        "held_id",
        "matched",
        "n_tokens",
        "offsets",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        eos_ids: frozenset[int],
        *,
        first_offset: int | None = None,
    ) -> None:
        self._detokenizer = Detokenizer(
            tokenizer,
            prompt_ids,
            skip_special_tokens=sampling.skip_special_tokens,
            spaces_between_special_tokens=sampling.spaces_between_special_tokens,
        )
        self._shows_stop = sampling.include_stop_str_in_output
        self._scanner: StopScanner | None = None
        if sampling.stop:
            self._scanner = StopScanner(
                sampling.stop, include_stop=self._shows_stop, min_tokens=sampling.min_tokens
            )
        stop_ids = frozenset(sampling.stop_token_ids)
        self._stop_ids = stop_ids if sampling.ignore_eos else stop_ids | eos_ids
        self._keeps_offsets = first_offset is not None
        self._n_chars = first_offset or 0
        self.n_tokens = 0
        self.matched: str | None = None
        self.held_id: int | None = None
        self.offsets: list[int] = []

    def feed(self, ids: Sequence[int]) -> str:
        """Takes the next tokens.

        Returns:
            The text that is certain now. Tokens behind a stop string are dropped uncounted.
        """
        if (
            self._scanner is None
            and self.held_id is None
            and not self._keeps_offsets
            and self._stop_ids.isdisjoint(ids)
        ):
            self.n_tokens += len(ids)
            return self._detokenizer.feed(ids)
        pieces: list[str] = []
        for token_id in ids:
            if self.matched is not None:
                break
            pieces.append(self._feed_one(token_id))
        return "".join(pieces)

    def finish(self, reason: str) -> str:
        """Ends it.

        Args:
            reason: The engine's finish reason; at any other than ``stop`` a last token that
                looks like a stop token was none.

        Returns:
            The text that was still held.
        """
        if self.matched is not None:
            return ""
        text = ""
        if self.held_id is not None and (self._shows_stop or reason != "stop"):
            text = self._emit(self.held_id)
        rest = self._detokenizer.flush()
        if self._scanner is None:
            return text + rest
        text += self._scanner.feed(rest, 0)
        self.matched = self._scanner.matched
        return text + self._scanner.flush()

    def _feed_one(self, token_id: int) -> str:
        text = ""
        if self.held_id is not None:
            text = self._emit(self.held_id)
            self.held_id = None
            if self.matched is not None:
                return text
        self.n_tokens += 1
        if self._keeps_offsets:
            self.offsets.append(self._n_chars)
        if token_id in self._stop_ids:
            self.held_id = token_id
            return text
        return text + self._emit(token_id)

    def _emit(self, token_id: int) -> str:
        text = self._detokenizer.feed((token_id,))
        self._n_chars += len(text)
        if self._scanner is None:
            return text
        text = self._scanner.feed(text, 1)
        self.matched = self._scanner.matched
        return text
