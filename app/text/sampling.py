"""From the fields of a body to the sampling of the decode leg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.protocol.engine import Constraint, Sampling
from app.protocol.wire_json import JsonObject
from app.text.field_rules import refuse

DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a worker's generation config may set where the client does not (vLLM's five keys)."""

_PLAIN = (
    *DEFAULTED,
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "logprobs",
    "prompt_logprobs",
    "logit_bias",
    "include_stop_str_in_output",
)
_SEEDS = 2**31


def make_sampling(
    fields: JsonObject,
    defaults: Mapping[str, float],
    constraint: Constraint | None = None,
    *,
    n_vocab: int,
    names: Mapping[str, str] | None = None,
) -> Sampling:
    """Builds the sampling of one prompt.

    Args:
        fields: Checked fields under the names of :class:`Sampling`; others are left alone.
        defaults: The worker's default sampling parameters.
        constraint: Structured output, if any.
        n_vocab: Token ids the client names must be below it.
        names: The client's word for a field, where it is another one than ours.

    Raises:
        InvalidRequest: Fields contradict each other, or name a token that does not exist.
    """
    words = names or {}
    values: JsonObject = {name: defaults[name] for name in DEFAULTED if name in defaults}
    values |= {name: fields[name] for name in _PLAIN if name in fields}
    if (top_k := values.get("top_k")) is not None:
        values["top_k"] = max(0, int(top_k))
    if fields.get("no_stop_trim"):
        values["include_stop_str_in_output"] = True
    sampling = Sampling(**values, constraint=constraint, seed=_fold_seed(fields.get("seed")))
    limit = sampling.max_tokens
    if limit is not None and sampling.min_tokens > limit:
        refuse(
            words.get("min_tokens", "min_tokens"),
            f"is {sampling.min_tokens}, but at most {limit} tokens may be generated",
        )
    for name in ("stop_token_ids", "logit_bias"):
        token_id = max(getattr(sampling, name), default=0)
        if token_id >= n_vocab:
            refuse(
                words.get(name, name),
                f"names token {token_id}; the model's vocabulary ends at {n_vocab - 1}",
            )
    return sampling


def for_choice(sampling: Sampling, choice: int) -> Sampling:
    """The sampling of the nth choice of a prompt: seed + n, so that choices differ.

    They stay reproducible, and the first choice is what the client would get for n = 1.
    """
    if choice == 0 or sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + choice) % _SEEDS)


def _fold_seed(seed: int | None) -> int | None:
    """The wire has 32 bits; a larger seed is folded into them, the same way every time.

    -1 means no seed, as vLLM has it.
    """
    return None if seed is None or seed == -1 else seed % _SEEDS
