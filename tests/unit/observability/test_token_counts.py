"""Token counts are taken from what engines say anyway."""

from __future__ import annotations

from typing import Any

import pytest

from app.observability.notes import Notes
from app.observability.token_counts import note_answer, note_prompt, note_stream

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 8},
}
META = {"prompt_tokens": 12, "completion_tokens": 5, "cached_tokens": 8}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"usage": USAGE}, (12, 8, 5)),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": None}}, (3, None, None)),
        ({"meta_info": META}, (12, 8, 5)),
        ([{"meta_info": META}, {"meta_info": META}], (24, 16, 10)),
        ({"usage": {"prompt_tokens": "many"}}, (None, None, None)),
        ("text", (None, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_whole_answers(answer: Any, expected: tuple[int | None, ...]) -> None:
    notes = Notes()
    note_answer(notes, answer)
    assert (notes.n_prompt, notes.n_cached, notes.n_completion) == expected


def test_choices_add_up_but_their_prompt_is_one() -> None:
    """Each choice of a fan-out reports the prompt; prefill's word on it came first."""
    notes = Notes()
    note_prompt(notes, {"usage": USAGE | {"prompt_tokens": 11}})
    for _ in range(3):
        note_answer(notes, {"usage": USAGE})
    assert (notes.n_prompt, notes.n_cached, notes.n_completion) == (11, 8, 15)


def event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()


@pytest.mark.parametrize(
    ("before", "last"),
    [
        (b'data: {"usage":{"prompt_tokens":3,"completion_tokens": 41}}\n\n', b"data: [DONE]\n\n"),
        (event("a"), b'data: {"usage":{"completion_tokens":41}}\n\ndata: [DONE]\n\n'),
        (b'data: {"meta_info":{"completion_tokens":40}}\n\n', b'data: {"completion_tokens":41}'),
    ],
)
def test_the_end_of_a_stream_tells(before: bytes, last: bytes) -> None:
    notes = Notes()
    note_stream(notes, 40, 4000, before, last)
    assert (notes.n_completion, notes.n_answer_tokens) == (41, 41)
    assert notes.last_s > 0


def test_without_usage_events_are_counted_by_their_size() -> None:
    """Several events came in each piece, because the gateway was busy."""
    pieces = [event("abc") * 10 for _ in range(6)] + [b"data: [DONE]\n\n"]
    notes = Notes()
    note_stream(notes, len(pieces), sum(map(len, pieces)), pieces[-2], pieces[-1])
    assert notes.n_completion is None
    assert notes.n_answer_tokens == 60


def test_a_stream_whose_client_left_at_its_first_event() -> None:
    notes = Notes()
    note_stream(notes, 1, 100, b"", b"")
    assert notes.n_answer_tokens == 1


def test_a_stream_that_never_began_has_no_end() -> None:
    notes = Notes()
    note_stream(notes, 0, 0, b"", b"")
    assert (notes.last_s, notes.n_events) == (0.0, 0)
