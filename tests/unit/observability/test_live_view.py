"""What a page is told of the last minutes."""

from __future__ import annotations

import json

import pytest

from app.observability.flight_recorder import FlightRecorder
from app.observability.live_view import N_RECENT, live_view, worker_row
from app.observability.notes import Notes
from app.workers.worker import Role, Worker, WorkerSpec

PREFILLS = [Worker(WorkerSpec(f"http://p:{n}", Role.PREFILL)) for n in (1, 2)]
DECODE = Worker(WorkerSpec("http://d:1", Role.DECODE))


class Turned:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(at_s: float, ttft_s: float, prefill: Worker, *, outcome: str | None = None) -> Notes:
    """A stream of 11 tokens, one every 0.1 s, that ended at a time."""
    clock = Turned()
    clock.now = at_s - 1.0 - ttft_s
    notes = Notes(clock)
    notes.is_stream, notes.model, notes.request_id = True, "m", f"r{at_s:g}"
    notes.begin_attempt()
    notes.grant(prefill, DECODE, 1)
    notes.send_both()
    notes.first_s, notes.last_s, notes.ended_s = at_s - 1.0, at_s, at_s
    notes.n_completion = 11
    if outcome:
        notes.outcome, notes.leg = outcome, "decode"
    return notes


def test_the_last_minutes() -> None:
    recorder = FlightRecorder(1 << 20)
    recorder.add(ended(10.0, 9.0, PREFILLS[0]))  # long ago
    for number in range(100):
        recorder.add(ended(900.0 + number, 0.01 * (number + 1), PREFILLS[number % 2]))
    recorder.add(ended(1000.0, 0.5, PREFILLS[0], outcome="worker_broken"))
    rows = map(worker_row, (*PREFILLS, DECODE))
    view = live_view(rows, recorder.last(), 1000.0, 300.0)
    assert view["outcomes"] == {"ok": 100, "worker_broken": 1}
    assert view["failed_legs"] == {"decode": 1}
    assert view["percentiles"]["ttft_s"] == {
        "n": 101,
        "p50": pytest.approx(0.5),
        "p90": pytest.approx(0.9),
        "p95": pytest.approx(0.95),
        "p99": pytest.approx(0.99),
    }
    assert view["percentiles"]["tpot_s"]["n"] == 100
    assert view["percentiles"]["tpot_s"]["p50"] == pytest.approx(0.1)
    flows = {(flow["prefill"], flow["decode"]): flow["requests"] for flow in view["flows"]}
    assert flows == {("http://p:1", "http://d:1"): 51, ("http://p:2", "http://d:1"): 50}
    assert view["requests_per_s"] == pytest.approx(1.0, abs=0.02)
    assert len(view["recent"]) == N_RECENT
    last = view["recent"][0]
    assert (last["id"], last["outcome"], last["leg"]) == ("r1000", "worker_broken", "decode")
    assert sum(spent_s for _, spent_s in last["phases"]) == pytest.approx(1.5)
    assert [worker["role"] for worker in view["workers"]] == ["prefill", "prefill", "decode"]
    json.dumps(view)


def test_nothing_yet() -> None:
    view = live_view([], [], 5.0, 300.0)
    assert (view["recent"], view["flows"], view["requests_per_s"]) == ([], [], 0.0)
    assert view["percentiles"]["ttft_s"] == {"n": 0}
