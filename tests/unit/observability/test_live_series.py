"""The last minutes by time, by phase, by worker and by failure."""

from __future__ import annotations

import pytest

from app.observability.flight_recorder import Flight, FlightRecorder
from app.observability.live_series import (
    N_CUT,
    N_STEPS,
    failures,
    phase_figures,
    time_series,
    worker_figures,
)
from app.observability.notes import CLIENT_GONE, Notes
from app.workers.worker import Role, Worker, WorkerSpec

PREFILL = Worker(WorkerSpec("http://p:1", Role.PREFILL))
DECODE = Worker(WorkerSpec("http://d:1", Role.DECODE))


def flight(
    ended_s: float,
    *,
    prefill_s: float = 0.5,
    outcome: str | None = None,
    leg: str | None = None,
    is_stream: bool = True,
    n_cached: int = 0,
) -> Flight:
    """A request: prefill, 0.1 s to the first token, ten tokens more in 1 s."""
    notes = Notes(lambda: ended_s - 1.1 - prefill_s)
    notes.is_stream, notes.model, notes.outcome, notes.leg = is_stream, "m", outcome, leg
    notes.begin_attempt()
    notes.grant(PREFILL, DECODE, 1)
    notes.send_both()
    notes.prefill_ended_s = ended_s - 1.1
    notes.first_s, notes.last_s, notes.ended_s = ended_s - 1.0, ended_s, ended_s
    notes.n_completion, notes.n_prompt, notes.n_cached = 11, 100, n_cached
    recorder = FlightRecorder(1 << 20)
    recorder.add(notes)
    (found,) = recorder.last()
    return found


def test_steps_of_time() -> None:
    """Each request counts where it ended; the last step is the one that runs."""
    flights = [
        flight(700.0),
        flight(941.0, prefill_s=0.2),
        flight(944.0, prefill_s=0.4),
        flight(999.0, outcome="worker_broken"),
        flight(1001.0, outcome=CLIENT_GONE),
    ]
    series = time_series(flights, 1002.0, 300.0)
    assert (series["step_s"], series["last_ago_s"]) == (5.0, 2.0)
    assert all(len(series[name]) == N_STEPS for name in ("requests", "failed", "tpot_p95_s"))
    assert series["requests"][-2:] == [1, 1]
    assert series["failed"][-2:] == [1, 0]
    assert (series["requests"][-13], sum(series["requests"])) == (2, 4)
    assert series["ttft_p95_s"][-13] == pytest.approx(0.5)
    assert series["tpot_p50_s"][-13] == pytest.approx(0.1)
    assert series["ttft_p50_s"][0] is None


def test_steps_stay_as_time_goes_on() -> None:
    first, later = (time_series([flight(941.0)], now_s, 300.0) for now_s in (1000.0, 1004.9))
    assert first["requests"] == later["requests"]


def test_phases_add_up() -> None:
    """Streams and whole answers apart; failures and clients that left are none of them."""
    flights = [
        flight(10.0, prefill_s=0.2),
        flight(11.0, prefill_s=0.4),
        flight(12.0, is_stream=False),
        flight(13.0, outcome="worker_broken"),
    ]
    figures = phase_figures(flights)
    assert (figures["stream"]["n"], figures["whole"]["n"]) == (2, 1)
    means = {phase["name"]: phase["mean_s"] for phase in figures["stream"]["phases"]}
    assert means["prefill"] == pytest.approx(0.3)
    assert sum(means.values()) == pytest.approx(1.4)
    assert phase_figures([flights[0]] * (N_CUT + 5))["stream"]["n"] == N_CUT


def test_workers() -> None:
    """Prefill computes what was not cached, decode makes tokens."""
    found = worker_figures([flight(10.0, n_cached=60), flight(11.0, n_cached=20)], 10.0)
    assert found == {
        "http://p:1": {"requests_per_s": 0.2, "tokens_per_s": 12.0, "cached_share": 0.4},
        "http://d:1": {"requests_per_s": 0.2, "tokens_per_s": 2.2},
    }


def test_failures_by_leg() -> None:
    broken = flight(10.0, outcome="worker_broken", leg="decode")
    assert failures([flight(9.0), broken, flight(10.0, outcome="queue_full"), broken]) == [
        {"outcome": "worker_broken", "leg": "decode", "requests": 2},
        {"outcome": "queue_full", "leg": None, "requests": 1},
    ]
