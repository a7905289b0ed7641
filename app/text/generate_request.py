"""A body of SGLang's native ``/generate``, for vLLM workers: what maps is mapped.

The route's own words are kept (``max_new_tokens``, ``return_logprob``); what has no counterpart
is refused by the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.protocol.engine import Sampling
from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject
from app.text.completion_request import check_generations, split_prompts, tokenized
from app.text.constraint import read_constraint
from app.text.field_rules import Flag, Whole, refuse
from app.text.prompt_length import check_length, fitted
from app.text.request_fields import GENERATE, GENERATE_SAMPLING, MAX_LOGPROBS
from app.text.sampling import make_sampling
from app.text.served_model import ServedModel
from app.text.text_request import Shown, TextPrompt, TextRequest

_DEFAULT_MAX_TOKENS = 128  # SGLang's
_PREFIX = "sampling_params."
_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "sampling_seed": "seed",
}
_WORDS = {
    "min_tokens": "sampling_params.min_new_tokens",
    "stop_token_ids": "sampling_params.stop_token_ids",
    "logit_bias": "sampling_params.logit_bias",
}


async def read_generate(body: JsonObject, served: ServedModel) -> TextRequest:
    """Reads a generate body.

    Raises:
        InvalidRequest: A field is wrong, cannot be honoured, or a prompt does not fit.
    """
    unknown: list[str] = []
    fields = GENERATE.read(body, unknown=unknown)
    items, is_batch, param = _prompts(fields)
    shown, counts = _logprobs(fields, len(items))
    params = fields.get("sampling_params", {})
    if isinstance(params, list) and (not is_batch or len(params) != len(items)):
        refuse("sampling_params", "must be an object, or a list with one for each prompt")
    listed = params if isinstance(params, list) else [params] * len(items)
    prompts: list[TextPrompt] = []
    choices: set[int] = set()
    made = await tokenized(served, items, {}, param)
    for (ids, text), wanted in zip(made, listed, strict=True):
        sampling, n, is_default_budget = _sampling(wanted, counts, served, unknown)
        choices.add(n)
        prompt = TextPrompt(ids, text, sampling)
        check_length(served, len(prompt.ids), None if is_default_budget else sampling, param)
        prompts.append(fitted(served, prompt) if is_default_budget else prompt)
    if len(choices) > 1:
        refuse("sampling_params.n", "must be the same for all prompts of a batch")
    n = choices.pop()
    check_generations(len(items), n, "sampling_params.n")
    return TextRequest(
        Route.GENERATE,
        served,
        fields.get("model", served.name),
        tuple(prompts),
        is_batch=is_batch,
        n=n,
        stream=fields.get("stream", False),
        shown=shown,
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _prompts(fields: JsonObject) -> tuple[list[Any], bool, str]:
    # The engine looks in this order, too.
    param = "text" if "text" in fields else "input_ids"
    if param not in fields:
        refuse("text", "or input_ids is missing")
    split = split_prompts(fields[param])
    if split is None or isinstance(split[0][0], str) != (param == "text"):
        shapes = {
            "text": "a string or a list of strings",
            "input_ids": "token ids or lists of them",
        }
        refuse(param, f"must be {shapes[param]}")
    return *split, param


def _sampling(
    params: Any, counts: JsonObject, served: ServedModel, unknown: list[str]
) -> tuple[Sampling, int, bool]:
    if not isinstance(params, dict):
        refuse("sampling_params", "must be an object")
    read = GENERATE_SAMPLING.read(params, _PREFIX, unknown)
    fields: JsonObject = {_NAMES.get(name, name): value for name, value in read.items()}
    is_default_budget = "max_new_tokens" not in read
    if is_default_budget:
        fields["max_tokens"] = max(_DEFAULT_MAX_TOKENS, fields.get("min_tokens", 0))
    sampling = make_sampling(
        fields | counts,
        served.defaults,
        read_constraint(fields, _PREFIX),
        n_vocab=served.tokenizer.n_vocab,
        names=_WORDS,
    )
    return sampling, fields.get("n", 1), is_default_budget


def _logprobs(fields: JsonObject, n_prompts: int) -> tuple[Shown, JsonObject]:
    """What is shown, and the counts the engine is asked for.

    ``logprob_start_len`` is the first prompt token whose logprob is wanted; -1, the default, is
    none of them.
    """
    if not _same(fields, "return_logprob", False, n_prompts, Flag()):
        return Shown(), {}
    n_top = _same(fields, "top_logprobs_num", 0, n_prompts, Whole(0, MAX_LOGPROBS))
    start = _same(fields, "logprob_start_len", -1, n_prompts, Whole(-1, 2**31 - 1))
    shown = Shown(
        logprobs=True,
        n_top=n_top,
        prompt_logprobs_from=None if start == -1 else start,
        logprob_text=fields.get("return_text_in_logprobs", False),
    )
    counts: JsonObject = {"logprobs": n_top}
    if start != -1:
        counts["prompt_logprobs"] = n_top
    return shown, counts


def _same(fields: JsonObject, name: str, default: Any, n_prompts: int, rule: Flag | Whole) -> Any:
    """A field that may be a list with one value for each prompt; they must agree."""
    value = fields.get(name, default)
    if not isinstance(value, list):
        return rule.read(value, name)
    items: Sequence[Any] = [rule.read(item, name) for item in value]
    if len(items) != n_prompts or len(set(items)) != 1:
        refuse(name, "must be one value, or the same one for every prompt")
    return items[0]
