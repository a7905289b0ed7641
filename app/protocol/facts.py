"""What the gateway needs to know about a request, read once from its body.

The body is parsed a single time and its bytes stay as they came: everything later is spliced in.
What the gateway does not need it does not check; the engine does, and its answer is passed on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import orjson

from app.errors import InvalidRequest
from app.protocol.fan_out_members import fan_out_patches, read_n
from app.protocol.prompts import Prompt, dump_nested, read_prompt
from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject

_BOM = b"\xef\xbb\xbf"
_PRIVATE_KEYS = frozenset(
    {
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "disagg_prefill_dp_rank",
        "routed_dp_rank",
        "data_parallel_rank",
    }
)
_SALTS = frozenset(
    {
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "extra_key",
        "lora_path",
        "reasoning_effort",
    }
)
# Long enough that no other id begins with it by chance: SGLang's scheduler aborts by prefix.
_SAFE_RID = re.compile(r"[A-Za-z0-9_-]{32,128}")


@dataclass(slots=True)
class RequestFacts:
    """One request as routing sees it; nobody changes it.

    Not frozen: a frozen dataclass sets each field by a call, 3 us for the sixteen of them.

    Attributes:
        route: The route it came on.
        model: The model asked for; ``None`` when the body names none.
        stream: The answer is wanted as events.
        n: Choices for each prompt, 1 .. 128.
        batch: Number of prompts of a list, 1 .. 1024; ``None`` for a single prompt.
        prompt_key: First 1 MiB of what determines the KV cache, for prefix policies: text as
            UTF-8, or token ids as 4 bytes each, little-endian.
        prefix_salt: What else must be equal for two prompts to share KV cache: adapter, cache salt,
            arguments of the chat template; empty if the body names none of them.
        n_prompt_tokens: All prompts together; exact for ids, else a quarter of the characters.
        max_tokens: The token budget of a choice, where the body names one.
        client_rid: The client's own request id (one for each prompt of a batch) where it can be
            used as it is; ``None`` where the gateway mints one.
        wants_prompt_logprobs: Prefill's logprobs belong into the answer.
        include_usage: A stream is asked to end with a usage event.
        fan_out_patches: For n > 1 the members each single-choice child replaces; else empty.
        body_close: Index of the closing brace in the body.
        is_empty_object: The body has no member, so the first one spliced in needs no comma.
        routing_key: What the client wants its requests kept together by; ``None``: it sent none.
        has_ids: The prompt came as token ids, so ``prompt_key`` holds them.
    """

    route: Route
    model: str | None
    stream: bool
    n: int
    batch: int | None
    prompt_key: bytes
    prefix_salt: bytes
    n_prompt_tokens: int
    max_tokens: int | None
    client_rid: str | tuple[str, ...] | None
    wants_prompt_logprobs: bool
    include_usage: bool
    fan_out_patches: tuple[bytes, ...]
    body_close: int
    is_empty_object: bool
    routing_key: bytes | None = None
    has_ids: bool = False


def peek(route: Route, body: bytes) -> RequestFacts:
    """Reads a request's facts from a body that nobody else needs parsed.

    Raises:
        InvalidRequest: The body is not a JSON object, or as ``read_facts``.
    """
    return read_facts(route, parse_object(body), body)


def read_facts(
    route: Route, document: JsonObject, body: bytes, routing_key: bytes | None = None
) -> RequestFacts:
    """Reads a request's facts; nothing in them keeps the parsed body alive.

    Args:
        route: The route it came on.
        document: The parsed body.
        body: The body itself.
        routing_key: From the request's head.

    Raises:
        InvalidRequest: It sets a member that belongs to the gateway, or a member that routing
            depends on is missing or of the wrong kind.
    """
    if not _PRIVATE_KEYS.isdisjoint(document):
        key = next(key for key in document if key in _PRIVATE_KEYS)
        raise InvalidRequest(f"{key} is set by the gateway and cannot be sent.", param=key)
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("model must be a string.", param="model")
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("stream must be true or false.", param="stream")
    prompt = read_prompt(route, document)
    n = read_n(route, document, prompt.batch)
    return RequestFacts(
        route,
        model,
        stream is True,
        n,
        prompt.batch,
        prompt.key,
        _prefix_salt(document),
        prompt.n_tokens,
        _max_tokens(route, document),
        _client_rid(document.get("rid"), prompt),
        route is Route.GENERATE and _wants_prompt_logprobs(document),
        route is not Route.GENERATE and _include_usage(document),
        fan_out_patches(route, document, n) if n > 1 else (),
        body.rindex(b"}"),
        not document,
        routing_key,
        prompt.has_ids,
    )


def _prefix_salt(document: JsonObject) -> bytes:
    found = _SALTS & document.keys()
    if not found:
        return b""
    return dump_nested({name: document[name] for name in sorted(found)}, min(found))


def parse_object(body: bytes) -> JsonObject:
    """Parses a body, with a sentence for each way in which it is no JSON object.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise InvalidRequest("The body is empty; it must be a JSON object.") from None
        if body.startswith(_BOM):
            raise InvalidRequest("The body starts with a byte order mark; send none.") from None
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return document


def _max_tokens(route: Route, document: JsonObject) -> int | None:
    """The largest budget of a choice; what is not a positive number is left to the engine."""
    if route is Route.CHAT:
        budget = document.get("max_completion_tokens")
        if budget is None:
            budget = document.get("max_tokens")
    elif route is Route.COMPLETIONS:
        budget = document.get("max_tokens")
    else:
        return _max_new_tokens(document.get("sampling_params"))
    return budget if type(budget) is int and budget > 0 else None


def _max_new_tokens(params: object) -> int | None:
    items = params if isinstance(params, list) else [params]
    found = [item.get("max_new_tokens") for item in items if isinstance(item, dict)]
    budgets = [value for value in found if type(value) is int and value > 0]
    return max(budgets, default=None)


def _client_rid(rid: object, prompt: Prompt) -> str | tuple[str, ...] | None:
    """The client's ids when there is one for each prompt and no id begins another."""
    if rid is None:
        return None
    if prompt.batch is None:
        return rid if isinstance(rid, str) and _SAFE_RID.fullmatch(rid) else None
    if not isinstance(rid, list) or len(rid) != prompt.batch:
        return None
    if not all(isinstance(item, str) and _SAFE_RID.fullmatch(item) for item in rid):
        return None
    # In sorted order an id that begins others stands right before one of them.
    ordered = sorted(rid)
    for shorter, longer in pairwise(ordered):
        if longer.startswith(shorter):
            return None
    return tuple(rid)


def _wants_prompt_logprobs(document: JsonObject) -> bool:
    """Logprobs from a place within some prompt on; both members may be lists, one item a prompt.

    Without ``logprob_start_len``, or with -1, SGLang 0.5.23 gives those of the output only
    (``managers/io_struct.py``), and nothing of prefill's is needed.
    """
    flags, starts = document.get("return_logprob"), document.get("logprob_start_len")
    if not flags or starts is None:
        return False
    if isinstance(flags, list) and isinstance(starts, list):
        return any(map(_has_prompt_side, flags, starts))
    if isinstance(flags, list):
        return any(_has_prompt_side(flag, starts) for flag in flags)
    if isinstance(starts, list):
        return any(_has_prompt_side(flags, start) for start in starts)
    return _has_prompt_side(flags, starts)


def _has_prompt_side(flag: object, start: object) -> bool:
    return flag is True and type(start) is int and start >= 0


def _include_usage(document: JsonObject) -> bool:
    options = document.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
