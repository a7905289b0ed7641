"""The echoed prompt of a completion."""

from __future__ import annotations

from collections.abc import Sequence

from app.protocol.engine import TokenLogprob
from app.text.choice import Choice
from app.text.detokenizer import Detokenizer
from app.text.text_request import TextRequest


def prompt_tokens(request: TextRequest, choice: Choice) -> tuple[Sequence[TokenLogprob], list[int]]:
    """The prompt's logprobs, and where in the echoed text each token begins."""
    items = choice.prompt_logprobs
    detokenizer = Detokenizer(request.served.tokenizer, (), skip_special_tokens=True)
    offsets: list[int] = []
    n_chars = 0
    for item in items:
        offsets.append(n_chars)
        n_chars += len(detokenizer.feed((item.token_id,)))
    return items, offsets
