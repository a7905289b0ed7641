"""The phases of a request follow each other and add up to its time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.observability.notes import Notes
from app.observability.phases import phases
from app.workers.worker import Role, Worker, WorkerSpec

PREFILL = Worker(WorkerSpec("http://p:1", Role.PREFILL))
DECODE = Worker(WorkerSpec("http://d:1", Role.DECODE))


class Turned:
    """A clock turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def then(self, step_s: float, do: Callable[[], object]) -> None:
        """Does something a while later."""
        self.now += step_s
        do()


def rounded(notes: Notes) -> list[tuple[str, float]]:
    return [(name, round(spent_s, 6)) for name, spent_s in phases(notes)]


def stamp(notes: Notes, name: str) -> Callable[[], None]:
    return lambda: setattr(notes, name, notes.now_s())


def test_a_vllm_stream() -> None:
    """Every phase has its own time, and their sum is all of it."""
    clock = Turned()
    notes = Notes(clock)
    clock.then(0.1, stamp(notes, "read_s"))
    clock.then(0.2, notes.begin_attempt)
    clock.then(0.3, lambda: notes.grant(PREFILL, DECODE, 1))
    clock.then(0.4, notes.send_prefill)
    clock.then(0.5, notes.end_prefill)
    clock.then(0.6, lambda: notes.send_decode(DECODE))
    clock.then(0.7, stamp(notes, "first_s"))
    clock.then(0.8, stamp(notes, "last_s"))
    clock.then(0.9, stamp(notes, "ended_s"))
    assert rounded(notes) == [
        ("read", 0.1),
        ("prepare", 0.2),
        ("queue", 0.3),
        ("connect", 0.4),
        ("prefill", 0.5),
        ("handoff", 0.6),
        ("first_token", 0.7),
        ("stream", 0.8),
        ("end", 0.9),
    ]
    assert sum(s for _, s in phases(notes)) == pytest.approx(4.5)


def test_sglang_has_no_gap_between_the_legs() -> None:
    """Both legs are sent at once, so prefill's end is followed by the first token."""
    clock = Turned()
    notes = Notes(clock)
    clock.then(0.1, notes.begin_attempt)
    clock.then(0.1, lambda: notes.grant(PREFILL, DECODE, 1))
    clock.then(0.1, notes.send_both)
    clock.then(0.5, notes.end_prefill)
    clock.then(0.1, notes.end_prefill)  # decode has spoken, later
    clock.then(0.1, stamp(notes, "first_s"))
    names = dict(rounded(notes))
    assert "handoff" not in names
    assert (names["prefill"], names["first_token"]) == (0.5, 0.2)


def test_attempts_that_failed_are_a_phase_of_their_own() -> None:
    """The legs' times are the last attempt's; what came before it is retry."""
    clock = Turned()
    notes = Notes(clock)
    clock.then(0.1, notes.begin_attempt)
    clock.then(0.1, lambda: notes.grant(PREFILL, DECODE, 1))
    clock.then(1.0, notes.send_both)
    clock.then(1.0, notes.begin_attempt)
    clock.then(0.2, lambda: notes.grant(PREFILL, DECODE, 2))
    clock.then(0.3, notes.send_both)
    clock.then(0.4, stamp(notes, "ended_s"))
    assert rounded(notes) == [
        ("prepare", 0.1),
        ("retry", 2.1),
        ("queue", 0.2),
        ("connect", 0.3),
        ("end", 0.4),
    ]


def test_a_refused_retry_ends_in_its_last_phase() -> None:
    """No pair was granted for the second attempt: the old grant is no later than its asking."""
    clock = Turned()
    notes = Notes(clock)
    clock.then(0.1, notes.begin_attempt)
    clock.then(0.1, lambda: notes.grant(PREFILL, DECODE, 1))
    clock.then(1.0, notes.begin_attempt)
    clock.then(0.5, stamp(notes, "ended_s"))
    assert rounded(notes) == [("prepare", 0.1), ("retry", 1.1), ("end", 0.5)]


def test_decode_without_prefill_is_connected_to() -> None:
    """It is sent the request first: there is nothing that could be handed over."""
    clock = Turned()
    notes = Notes(clock)
    notes.begin_attempt()
    clock.then(0.1, lambda: notes.grant(PREFILL, DECODE, 1))
    clock.then(0.2, lambda: notes.send_decode(DECODE))
    clock.then(0.3, stamp(notes, "ended_s"))
    assert rounded(notes) == [("queue", 0.1), ("connect", 0.2), ("end", 0.3)]
