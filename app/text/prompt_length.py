"""Does a prompt fit into the model's context, with the answer it is to get?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.errors import InvalidRequest
from app.protocol.engine import Sampling
from app.text.field_rules import refuse
from app.text.served_model import ServedModel
from app.text.text_request import TextPrompt


def check_length(
    served: ServedModel, n_prompt_tokens: int, sampling: Sampling | None, param: str
) -> None:
    """Refuses what does not fit into the model's context, as vLLM's own server does.

    Args:
        served: The model.
        n_prompt_tokens: Length of the prompt.
        sampling: Holds the budget the client asked for; ``None`` if it did not.
        param: The field the prompt came in.

    Raises:
        InvalidRequest: The prompt is empty, or leaves no room for the tokens asked for.
    """
    if n_prompt_tokens == 0:
        refuse(param, "is empty: it has no tokens")
    limit = served.max_context
    if limit is None:
        return
    if n_prompt_tokens >= limit:
        raise InvalidRequest(
            f"This model's maximum context length is {limit} tokens, but the prompt alone has "
            f"{n_prompt_tokens}. Shorten the prompt.",
            code="context_length_exceeded",
            param=param,
        )
    budget = None if sampling is None else sampling.max_tokens
    if budget is not None and n_prompt_tokens + budget > limit:
        raise InvalidRequest(
            f"This model's maximum context length is {limit} tokens, but {n_prompt_tokens} of the "
            f"prompt and {budget} of the completion were asked for. Shorten the prompt or lower "
            "max_tokens.",
            code="context_length_exceeded",
            param=param,
        )


def fitted(served: ServedModel, prompt: TextPrompt) -> TextPrompt:
    """Lowers a budget that is only a default to the room behind the prompt."""
    limit, budget = served.max_context, prompt.sampling.max_tokens
    if limit is None or budget is None or len(prompt.ids) + budget <= limit:
        return prompt
    room = limit - len(prompt.ids)
    floor = min(prompt.sampling.min_tokens, room)
    return replace(prompt, sampling=replace(prompt.sampling, max_tokens=room, min_tokens=floor))


def truncated(served: ServedModel, ids: Sequence[int], keep: int | None) -> Sequence[int]:
    """Keeps the last tokens of a prompt, as ``truncate_prompt_tokens`` asks.

    Args:
        served: The model.
        ids: The prompt.
        keep: How many; ``None`` keeps all, -1 as many as the context takes.

    Raises:
        InvalidRequest: It asks for more than the context takes.
    """
    if keep is None:
        return ids
    limit = served.max_context
    if keep == -1:
        # One token must be left to generate.
        keep = len(ids) if limit is None else limit - 1
    elif limit is not None and keep > limit:
        refuse("truncate_prompt_tokens", f"is {keep}, more than the model's {limit} tokens")
    if keep == 0:
        refuse("truncate_prompt_tokens", "must be -1 or at least 1")
    return ids[-keep:]
