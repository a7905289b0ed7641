"""Single tokens, as logprobs show them: their text and their bytes."""

from __future__ import annotations

from app.text.tokenizer import Tokenizer

_LOWEST = -9999.0


class TokenView:
    """Looks up tokens of one model; what was looked up once is kept.

    A token that is part of a character has the replacement character as text, but its own
    bytes, so that a client can put the character together.

    Args:
        tokenizer: The model's.
        ids_as_tokens: A token's text is ``token_id:N``.
    """

    __slots__ = ("_bytes", "_ids_as_tokens", "_texts", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, *, ids_as_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._ids_as_tokens = ids_as_tokens
        self._texts: dict[int, str] = {}
        self._bytes: dict[int, list[int]] = {}

    def text(self, token_id: int) -> str:
        """The token's name: its text, special tokens included."""
        known = self._texts.get(token_id)
        if known is None:
            if self._ids_as_tokens:
                known = f"token_id:{token_id}"
            else:
                known = self._tokenizer.token_text(token_id)
            self._texts[token_id] = known
        return known

    def bytes_of(self, token_id: int) -> list[int]:
        """The token's bytes as numbers."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = list(self._tokenizer.token_bytes(token_id))
        return known


def finite(logprob: float | None) -> float | None:
    """JSON has no infinity; vLLM's own server writes -9999.0 for it."""
    return None if logprob is None else max(logprob, _LOWEST)
