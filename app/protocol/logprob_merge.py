"""Prefill's prompt logprobs in decode's reply.

Only the prefill worker runs the prompt, so only its answer holds the prompt side: every member of
``meta_info`` that starts with ``input_`` and speaks of logprobs. ``output_*`` stays decode's.
"""

from __future__ import annotations

from app.protocol.wire_json import (
    Json,
    JsonObject,
    count_in,
    loads_or_none,
    object_in,
    rewritten,
)


def merge_prompt_logprobs(decode_body: bytes, prefill_body: bytes) -> bytes:
    """Puts the prompt's logprobs into a whole ``/generate`` reply, single or batch.

    Returns:
        The merged body; ``decode_body`` itself when there is nothing to merge.
    """
    sources = _prompt_sides(prefill_body)
    document = loads_or_none(decode_body)
    items = document if isinstance(document, list) else [document]
    if len(items) != len(sources):
        return decode_body
    is_changed = False
    for item, source in zip(items, sources, strict=True):
        is_changed |= _put(item, source)
    return rewritten(document, decode_body) if is_changed else decode_body


class LogprobMerger:
    """The same for a streamed reply: each prompt's first event carries the prompt's logprobs.

    Prompt logprobs are large and SGLang's events are cumulative, so they are sent once for each
    prompt and not with every token.
    """

    __slots__ = ("_waiting",)

    def __init__(self, prefill_body: bytes) -> None:
        sources = enumerate(_prompt_sides(prefill_body))
        self._waiting: dict[int | None, JsonObject] = {
            index: source for index, source in sources if source
        }

    def feed(self, data: bytes) -> bytes:
        """Takes an event's data and returns it merged, or as it is."""
        if not self._waiting:
            return data
        document = loads_or_none(data)
        if object_in(document, "meta_info") is None:
            return data
        # Events of a single prompt have no index.
        source = self._waiting.pop(count_in({"index": 0, **document}, "index"), None)
        return rewritten(document, data) if source and _put(document, source) else data


def _prompt_sides(prefill_body: bytes) -> list[JsonObject]:
    """For each prompt the members that belong to its prompt; empty where there are none."""
    document = loads_or_none(prefill_body)
    items = document if isinstance(document, list) else [document]
    sides: list[JsonObject] = []
    for item in items:
        meta_info = object_in(item, "meta_info") or {}
        sides.append(
            {
                key: value
                for key, value in meta_info.items()
                if key.startswith("input_") and "logprobs" in key
            }
        )
    return sides


def _put(item: Json, source: JsonObject) -> bool:
    """Replaces decode's members by prefill's, unless prefill's are empty and decode's are not."""
    meta_info = object_in(item, "meta_info")
    if meta_info is None:
        return False
    is_changed = False
    for key, value in source.items():
        if key not in meta_info or (value and meta_info[key] != value):
            meta_info[key] = value
            is_changed = True
    return is_changed
