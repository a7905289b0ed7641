"""Adding up the usage of a fan-out's children, each of which counted the same prompt."""

from __future__ import annotations

from collections.abc import Sequence

from app.protocol.wire_json import JsonObject, count_in, object_in


def merge_usages(usages: Sequence[JsonObject | None]) -> JsonObject | None:
    """Counts the prompt once and the completions of all.

    Args:
        usages: The children's usage, by child; ``None`` where a child sent none.

    Returns:
        The first child's usage with completion, reasoning and total counts replaced; ``None``
        when no child sent any.
    """
    found = [usage for usage in usages if usage is not None]
    if not found:
        return None
    merged = dict(found[0])
    for key in ("completion_tokens", "reasoning_tokens"):
        _add_up(merged, key, found)
    details = [entry for usage in found if (entry := object_in(usage, "completion_tokens_details"))]
    if details:
        summed = dict(details[0])
        for key in {key for entry in details for key in entry}:
            _add_up(summed, key, details)
        merged["completion_tokens_details"] = summed
    n_prompt, n_completion = (
        count_in(merged, "prompt_tokens"),
        count_in(merged, "completion_tokens"),
    )
    if n_prompt is not None and n_completion is not None:
        merged["total_tokens"] = n_prompt + n_completion
    return merged


def _add_up(target: JsonObject, key: str, parts: Sequence[JsonObject]) -> None:
    counts = [count for part in parts if (count := count_in(part, key)) is not None]
    if counts:
        target[key] = sum(counts)
