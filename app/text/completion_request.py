"""A completions body, tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject
from app.text.constraint import read_constraint
from app.text.field_rules import refuse
from app.text.prompt_length import check_length, fitted, truncated
from app.text.request_fields import COMPLETIONS
from app.text.sampling import make_sampling
from app.text.served_model import ServedModel
from app.text.text_request import Shown, TextPrompt, TextRequest, read_stream_options

_DEFAULT_MAX_TOKENS = 16  # OpenAI's, vLLM's and SGLang's
MAX_GENERATIONS = 1024
"""As many as prompts: each choice of each is two calls of its own to the workers."""


async def read_completion(body: JsonObject, served: ServedModel) -> TextRequest:
    """Reads a completions body.

    Raises:
        InvalidRequest: A field is wrong, cannot be honoured, or a prompt does not fit.
    """
    unknown: list[str] = []
    fields = COMPLETIONS.read(body, unknown=unknown)
    n = fields.get("n", 1)
    if fields.get("best_of", n) != n:
        refuse("best_of", "is not supported, unless it equals n", "unsupported")
    is_default_budget = "max_tokens" not in body
    if is_default_budget:
        fields["max_tokens"] = max(_DEFAULT_MAX_TOKENS, fields.get("min_tokens", 0))
    shown = _shown(fields)
    if shown.is_echo_only:
        fields["max_tokens"] = 1  # an engine makes no fewer; the token is not shown
    if shown.logprobs and fields.get("echo", False):
        # The echoed tokens have logprobs, too.
        fields.setdefault("prompt_logprobs", fields["logprobs"])
    sampling = make_sampling(
        fields, served.defaults, read_constraint(fields), n_vocab=served.tokenizer.n_vocab
    )
    items, is_batch = _prompts(fields.get("prompt"))
    check_generations(len(items), n, "n")
    prompts: list[TextPrompt] = []
    for ids, text in await tokenized(served, items, fields, "prompt"):
        prompt = TextPrompt(ids, text, sampling)
        check_length(served, len(prompt.ids), None if is_default_budget else sampling, "prompt")
        prompts.append(prompt if not is_default_budget else fitted(served, prompt))
    if fields.get("echo", False):
        shown = replace(shown, echo=tuple([await _echo(served, prompt) for prompt in prompts]))
    return TextRequest(
        Route.COMPLETIONS,
        served,
        fields.get("model", served.name),
        tuple(prompts),
        is_batch=is_batch,
        n=n,
        stream=fields.get("stream", False),
        shown=shown,
        unknown=tuple(unknown),
    )


async def tokenized(
    served: ServedModel, items: Sequence[str | Sequence[int]], fields: JsonObject, param: str
) -> list[tuple[Sequence[int], str | None]]:
    """Tokens of each prompt, and its text if it came as one; all are of one kind.

    Text gets the model's special tokens (BOS) unless the client says otherwise, as in vLLM's own
    server.

    Raises:
        InvalidRequest: A token does not exist.
    """
    tokenizer = served.tokenizer
    keep = fields.get("truncate_prompt_tokens")
    texts = [item for item in items if isinstance(item, str)]
    if texts:
        encoded = await tokenizer.encode_all_soon(texts, fields.get("add_special_tokens", True))
        return [
            (truncated(served, ids, keep), text) for ids, text in zip(encoded, texts, strict=True)
        ]
    listed = [item for item in items if not isinstance(item, str)]
    for ids in listed:
        if ids and not 0 <= min(ids) <= max(ids) < tokenizer.n_vocab:
            refuse(
                param, f"must hold token ids below {tokenizer.n_vocab}, the size of the vocabulary"
            )
    return [(truncated(served, ids, keep), None) for ids in listed]


def check_generations(n_prompts: int, n: int, param: str) -> None:
    """Refuses more choices of more prompts than one request may have.

    Raises:
        InvalidRequest: There are.
    """
    if n_prompts * n > MAX_GENERATIONS:
        refuse(
            param,
            f"is {n} for {n_prompts} prompts; at most {MAX_GENERATIONS} answers are given at once",
        )


def split_prompts(value: Any) -> tuple[list[Any], bool] | None:
    """Reads one prompt or a list of them, as text or as token ids.

    Returns:
        The prompts and whether they came as a list; ``None`` if it is neither.
    """
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, list) or not value:
        return None
    kinds = set(map(type, value))
    if kinds == {int}:
        return [value], False
    if kinds == {str}:
        return value, True
    if kinds == {list} and all(set(map(type, item)) <= {int} for item in value):
        return value, True
    return None


def _prompts(value: Any) -> tuple[list[Any], bool]:
    split = split_prompts(value)
    if split is None:
        refuse(
            "prompt",
            "must be a string, a list of strings, a list of token ids or a list of such lists",
        )
    return split


def _shown(fields: JsonObject) -> Shown:
    echo = fields.get("echo", False)
    is_stream = fields.get("stream", False)
    if "prompt_logprobs" in fields and is_stream:
        refuse("prompt_logprobs", "is not available in a stream")
    is_echo_only = fields.get("max_tokens") == 0
    if is_echo_only and not echo:
        refuse("max_tokens", "must be at least 1, unless echo is set")
    shown = Shown(
        logprobs="logprobs" in fields,
        n_top=fields.get("logprobs", 0),
        prompt_logprobs="prompt_logprobs" in fields,
        token_ids=fields.get("return_token_ids", False),
        ids_as_tokens=fields.get("return_tokens_as_token_ids", False),
        is_echo_only=is_echo_only,
    )
    return read_stream_options(fields, shown)


async def _echo(served: ServedModel, prompt: TextPrompt) -> str:
    if prompt.text is not None:
        return prompt.text
    return await served.tokenizer.decode_soon(prompt.ids, skip_special_tokens=False)
