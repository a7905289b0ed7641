"""Notes the token counts that engines report anyway; nothing is parsed for it.

Source of the shapes: SGLang 0.5.23 (``usage`` of the OpenAI routes, ``meta_info`` of
``/generate``; cached tokens are reported with ``--enable-cache-report``).
"""

from __future__ import annotations

import re

from app.observability.notes import Notes
from app.protocol.wire_json import Json, JsonObject, count_in, object_in

_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d{1,9})')


def note_prompt(notes: Notes, answer: Json) -> None:
    """Takes the prompt's counts of a whole answer; those of a first call stay.

    Args:
        notes: The request's.
        answer: The parsed body of a leg.
    """
    if notes.n_prompt is not None:
        return
    usage = object_in(answer, "usage")
    if usage is not None:
        notes.n_prompt = count_in(usage, "prompt_tokens")
        details = object_in(usage, "prompt_tokens_details")
        if details is not None:
            notes.n_cached = count_in(details, "cached_tokens")
        return
    for meta in _metas(answer):
        n_prompt, n_cached = count_in(meta, "prompt_tokens"), count_in(meta, "cached_tokens")
        if n_prompt is not None:
            notes.n_prompt = (notes.n_prompt or 0) + n_prompt
        if n_cached is not None:
            notes.n_cached = (notes.n_cached or 0) + n_cached


def note_answer(notes: Notes, answer: Json) -> None:
    """Takes the counts of a whole answer of decode; those of several choices add up."""
    note_prompt(notes, answer)
    usage = object_in(answer, "usage")
    for counts in _metas(answer) if usage is None else (usage,):
        n_completion = count_in(counts, "completion_tokens")
        if n_completion is not None:
            notes.n_completion = (notes.n_completion or 0) + n_completion


def note_stream(notes: Notes, n_pieces: int, n_bytes: int, before: bytes, last: bytes) -> None:
    """Takes what the end of a stream tells of its tokens.

    Args:
        notes: The request's.
        n_pieces: Pieces that were relayed, of one event each unless the gateway was busy.
        n_bytes: Of all of them.
        before: The last piece but one.
        last: The last piece, which may be no more than ``[DONE]``.
    """
    if not n_pieces:
        return
    notes.last_s = notes.now_s()
    for piece in (last, before):
        found = _COMPLETION.findall(piece)
        if found:
            notes.n_completion = int(found[-1])
            return
    # The events of a stream are much of a size; looking for borders in each costs more than all
    # else that is noted of it.
    sample = before or last
    if not sample:
        # The first piece was on its way when the client left.
        notes.n_events = n_pieces
        return
    event_bytes = len(sample) / (sample.count(b"\n\n") or 1)
    notes.n_events = max(n_pieces, round(n_bytes / event_bytes))


def _metas(answer: Json) -> list[JsonObject]:
    results = answer if isinstance(answer, list) else [answer]
    return [meta for result in results if (meta := object_in(result, "meta_info")) is not None]
