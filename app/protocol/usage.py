"""Prompt and cached token counts: prefill's, put into decode's reply.

The prefill worker ran the prompt and knows how much of it came from its cache. SGLang hands its
count over with the KV cache; where decode reports something else, prefill is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from app.protocol.wire_json import (
    Json,
    JsonObject,
    count_in,
    loads_or_none,
    object_in,
    rewritten,
)


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """What prefill counted for one prompt, or for all of an OpenAI reply's prompts.

    Attributes:
        members: Members to set in ``usage`` or ``meta_info``.
        known_texts: For each member its JSON text, as a compact writer puts it.
    """

    members: JsonObject
    known_texts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """Prefill's counts for a reply.

    Attributes:
        container: ``usage`` for chat and completions, ``meta_info`` for generate.
        items: One for each prompt of a generate reply; a single one otherwise.
        is_list: The reply is a list of results.
    """

    container: str
    items: tuple[PromptCounts, ...]
    is_list: bool

    @property
    def n_cached_tokens(self) -> int:
        """Cached tokens of all prompts together, as far as prefill reported them."""
        total = 0
        for item in self.items:
            details = item.members.get("prompt_tokens_details")
            source = item.members if details is None else details
            total += count_in(source, "cached_tokens") or 0
        return total


def cached_from_prefill(prefill_body: bytes) -> CachedTokens | None:
    """Reads prefill's whole reply; ``None`` if it holds no counts."""
    document = loads_or_none(prefill_body)
    usage = object_in(document, "usage")
    if usage is not None:
        members = _usage_members(usage)
        return CachedTokens("usage", (_counts(members),), False) if members else None
    results = document if isinstance(document, list) else [document]
    items = [_counts(_meta_members(object_in(result, "meta_info") or {})) for result in results]
    if not any(item.members for item in items):
        return None
    return CachedTokens("meta_info", tuple(items), isinstance(document, list))


def patch_whole(decode_body: bytes, prefill: CachedTokens | None) -> bytes:
    """Sets prefill's counts in a whole reply; the same object when nothing changes."""
    if prefill is None:
        return decode_body
    document = loads_or_none(decode_body)
    results = document if isinstance(document, list) else [document]
    if isinstance(document, list) != prefill.is_list or len(results) != len(prefill.items):
        return decode_body
    is_changed = False
    for result, item in zip(results, prefill.items, strict=True):
        is_changed |= _put(object_in(result, prefill.container), item.members)
    return rewritten(document, decode_body) if is_changed else decode_body


def patch_event(data: bytes, prefill: CachedTokens | None) -> bytes:
    """Sets prefill's counts in an event's data; the same object when nothing changes.

    An event without counts, or of a single prompt whose counts are right, is not parsed.
    """
    if prefill is None or b'"prompt_tokens"' not in data:
        return data
    if len(prefill.items) == 1 and all(text in data for text in prefill.items[0].known_texts):
        return data
    document = loads_or_none(data)
    container = object_in(document, prefill.container)
    index = document.get("index", 0) if prefill.is_list and container is not None else 0
    if container is None or type(index) is not int or not 0 <= index < len(prefill.items):
        return data
    return rewritten(document, data) if _put(container, prefill.items[index].members) else data


def _usage_members(usage: JsonObject) -> JsonObject:
    members: JsonObject = {}
    if (n_prompt := count_in(usage, "prompt_tokens")) is not None:
        members["prompt_tokens"] = n_prompt
    # Null unless the worker was started with its cache report on.
    if details := object_in(usage, "prompt_tokens_details"):
        members["prompt_tokens_details"] = details
    return members


def _meta_members(meta_info: JsonObject) -> JsonObject:
    members: JsonObject = {}
    for key in ("prompt_tokens", "cached_tokens"):
        if (count := count_in(meta_info, key)) is not None:
            members[key] = count
    if details := object_in(meta_info, "cached_tokens_details"):
        members["cached_tokens_details"] = details
    return members


def _counts(members: JsonObject) -> PromptCounts:
    # The comma keeps 4 from being found in 40; a count at the very end is parsed after all.
    texts = tuple(orjson.dumps({key: value})[1:-1] + b"," for key, value in members.items())
    return PromptCounts(members, texts)


def _put(container: Json, members: JsonObject) -> bool:
    """Sets the members that differ, and the total that follows from them."""
    if not isinstance(container, dict):
        return False
    changed = {key: value for key, value in members.items() if container.get(key) != value}
    if not changed:
        return False
    container.update(changed)
    n_prompt, n_completion = (
        count_in(container, "prompt_tokens"),
        count_in(container, "completion_tokens"),
    )
    if "total_tokens" in container and n_prompt is not None and n_completion is not None:
        container["total_tokens"] = n_prompt + n_completion
    return True
