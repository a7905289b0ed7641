"""What requests would have been elsewhere, and what their workers cost them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.observability.flight_candidates import MOST
from app.observability.flight_judge import FlightJudge
from app.observability.flight_recorder import Flight, FlightRecorder
from app.observability.hindsight import look_back
from app.observability.notes import Notes
from app.observability.phases import TIMES
from app.scheduling.reason import Candidates, Choice, Queued, Reason
from tests.unit.observability.test_flight_recorder import noted
from tests.unit.scheduling.test_candidates import finishes


def flight(
    granted_s: float,
    took_s: float,
    *,
    prefill: str = "p1",
    expected_s: float = 0.0,
    candidates: tuple[tuple[str, float], ...] = (),
    n_prompt: int = 1000,
    blocks: tuple[int, ...] = (),
    decode: str = "d1",
    decode_s: float = 0.1,
) -> Flight:
    at_s = dict.fromkeys(TIMES, granted_s)
    at_s["prefill_ended_s"] = granted_s + took_s
    at_s["first_s"] = at_s["last_s"] = at_s["ended_s"] = granted_s + took_s + decode_s
    return Flight(
        times=tuple(at_s.values()),
        expected_s=expected_s,
        n_prompt=n_prompt,
        n_cached=-1,
        n_completion=1,
        n_estimated=n_prompt,
        prefill=prefill,
        decode=decode,
        model="m",
        outcome="ok",
        leg=None,
        status=200,
        n_attempts=1,
        is_stream=True,
        request_id=f"{granted_s}",
        blocks=blocks,
        candidates=candidates,
    )


def test_the_queue_s_predictions_are_corrected_by_each_worker_s_error() -> None:
    """p2 has always taken 0.2 s more than predicted, so 0.5 s there would have been 0.7 s."""
    both = (("p1", 1.0), ("p2", 0.5), ("p2", 0.6))
    taught = flight(0.0, 0.7, prefill="p2", expected_s=0.5, candidates=both)
    late = flight(5.0, 1.0, expected_s=1.0, candidates=both)
    fast = flight(9.0, 0.6, expected_s=1.0, candidates=both)
    first, second, third = look_back([taught, late, fast])
    assert first is not None
    assert first.would_s == {"p1": 1.0}
    assert (first.regret_s, first.first_error_s) == (0.0, None)
    assert second is not None
    assert second.would_s == pytest.approx({"p2": 0.7})
    assert second.regret_s == pytest.approx(0.3)
    assert second.first_error_s == pytest.approx(0.0)
    assert third is not None
    assert third.regret_s == 0
    assert third.first_error_s == pytest.approx(-0.4)


def test_without_a_queue_the_record_tells() -> None:
    """p2 is busy until 3 s, then computes what it has not: 1,000 tokens a second, 512 cached."""
    flights = [
        flight(0.0, 3.0, prefill="p2", n_prompt=3000, blocks=(1, 2, 3, 4, 5)),
        flight(1.0, 4.0, n_prompt=1024, blocks=(8, 9)),
        flight(2.0, 3.5, n_prompt=1024, blocks=(1, 9)),
        flight(4.0, 2.0, n_prompt=1024, blocks=(1, 9)),
    ]
    first, second, third, fourth = look_back(flights)
    assert first is not None
    assert (first.would_s, first.regret_s) == ({}, None)
    assert second is not None
    assert second.would_s == pytest.approx({"p2": 2.0 + 1.024})
    assert second.regret_s == pytest.approx(4.0 - 3.024)
    assert third is not None
    assert third.would_s == pytest.approx({"p2": 1.0 + 1.024})
    assert fourth is not None
    assert fourth.would_s == pytest.approx({"p2": 0.512})


def test_what_has_no_pair_or_no_prefill_is_left_out() -> None:
    refused = replace(flight(0.0, 1.0), times=(0.0,) * len(TIMES))
    alone = flight(1.0, 1.0, prefill="w", decode="w")
    assert look_back([refused, alone]) == [None, None]


def test_decode_is_held_against_what_others_usually_take() -> None:
    flights = [flight(0.0, 1.0, decode_s=0.1), flight(2.0, 1.0, decode="d2", decode_s=0.5)]
    first, second = look_back(flights)
    assert first is not None
    assert first.decode_regret_s is None
    assert second is not None
    assert second.decode_regret_s == pytest.approx(0.4)


def queued(arrived_s: float, finish_s: list[float]) -> Notes:
    """A request that the queue sent to the first of some workers, which took a second."""
    notes = noted(arrived_s, [1, 2, 3])
    roster = tuple(f"http://p:{number + 1}" for number in range(len(finish_s)))
    candidates = Candidates(roster, finishes(finish_s))
    choice = Choice("http://p:1", "prefill_queue", "", len(finish_s), 0)
    waited = Queued(0.1, 0.0, 3.0, finish_s[0], candidates)
    notes.reason = Reason(choice, choice, queued=waited)
    notes.prefill_sent_s, notes.prefill_ended_s = arrived_s + 0.5, arrived_s + 1.0
    return notes


def test_candidates_are_recorded() -> None:
    """As many as there is room for, and the record stays small."""
    recorder = FlightRecorder(1 << 20)
    recorder.add(queued(1.0, [0.75, float("inf"), 0.5]))
    n_small = recorder.n_bytes
    recorder.add(queued(2.0, [float(n) for n in range(30, 0, -1)]))
    # The roster is another one, of other workers at the same places.
    recorder.add(queued(3.0, [0.5]))
    few, many, one = recorder.last()
    assert one.candidates == (("http://p:1", 0.5),)
    assert few.candidates == (("http://p:1", 0.75), ("http://p:3", 0.5))
    assert few.request_id == "gnt-1"
    assert len(few.blocks) == 1
    assert sorted(one_s for _, one_s in many.candidates) == list(range(1, MOST + 1))
    assert (n_small, recorder.n_bytes) < (300, 900)


def test_each_request_is_judged_once() -> None:
    recorder = FlightRecorder(1 << 20)
    judge = FlightJudge(recorder)
    for number in range(3):
        recorder.add(queued(float(number), [0.5, 0.25]))
        judge.judge()
        judge.judge()
    (family,) = judge.families()
    totals = {
        (one.labels["role"], one.name.rpartition("_")[2]): one.value
        for one in family.samples
        if "le" not in one.labels
    }
    assert totals["prefill", "count"] == 3
    assert totals["prefill", "sum"] == pytest.approx(3 * 0.75)
    assert totals["decode", "count"] == 0
    # The first one teaches what decode takes.
    assert sum(judge.first_error_s.counts) == 2
