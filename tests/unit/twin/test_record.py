"""A recorded run: what it was like is learned, and replayed it comes out as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.__main__ import main
from app.observability.flight_export import as_lines
from app.observability.flight_recorder import FlightRecorder
from app.twin.fleet import QUEUE, FleetShape
from app.twin.learned import Learned, learn
from app.twin.record import read_record
from app.twin.replay import replay, replay_often
from app.twin.steps import Work, computed_until
from app.twin.trace import BadTrace, Row
from tests.unit.observability.test_flight_recorder import noted
from tests.unit.twin.recording import record
from tests.unit.twin.test_replay import rows_of

SHAPE = FleetShape(
    n_prefill=2,
    n_decode=2,
    tokens_per_s=8_000.0,
    slow=(0.5,),
    lead_s=0.09,
    transfer_s_per_token=2e-5,
    decode_step_s=0.03,
)


def bursts(n_rows: int) -> list[Row]:
    """Requests that come ten at a time, as those of the published traces do."""
    return [replace(row, at_s=row.at_s // 8 * 8) for row in rows_of(n_rows)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a run."""
    path = tmp_path_factory.mktemp("record") / "flights.jsonl"
    record(path, bursts(150), SHAPE, QUEUE)
    return path


def work(
    sent_s: float, n_prompt: int, blocks: tuple[int, ...] = (), n_cached: int | None = None
) -> Work:
    return Work(sent_s, n_prompt, n_cached, blocks, 0.0, True)


def learned_of(path: Path) -> Learned:
    learned = learn(read_record(path), SHAPE.chunk_tokens)
    assert learned is not None
    return learned


def test_engines_are_learned(path: Path) -> None:
    """Rates by worker, lead, transfer and step of what the simulated engines were given."""
    learned = learned_of(path)
    assert list(learned.rates.values()) == pytest.approx([4_000, 8_000], rel=0.03)
    assert learned.lead_s == pytest.approx(0.09, abs=0.01)
    assert learned.transfer_s_per_token == pytest.approx(2e-5, rel=0.1)
    # The twin makes a quarter of the tokens in steps of four times the time.
    assert learned.step_s == pytest.approx(0.03, rel=0.25)
    assert (learned.n_fitted, learned.error_s < 0.02) == (150, True)
    shape = learned.shape(FleetShape(n_prefill=3, n_decode=2))
    rates = [shape.tokens_per_s * share for share in (*shape.slow, 1.0)]
    assert rates == pytest.approx([*learned.rates.values(), 6_000], rel=0.03)


def test_the_same_again_is_as_it_was(path: Path) -> None:
    learned = learned_of(path)
    truth = learned.recorded
    again = replay(read_record(path).rows, learned.shape(SHAPE), QUEUE)
    assert again.mean_s == pytest.approx(truth.mean_s, rel=0.01)
    assert again.at(0.99) == pytest.approx(truth.at(0.99), rel=0.03)
    assert again.busy_s == pytest.approx(truth.busy_s, rel=0.05)


def test_one_worker_more_is_as_it_would_be(path: Path, tmp_path: Path) -> None:
    learned = learned_of(path)
    larger = replace(learned.shape(SHAPE), n_prefill=3, n_decode=3)
    truth = record(tmp_path / "more", bursts(150), larger, QUEUE)
    foretold = replay_often(read_record(path).rows, larger, QUEUE, 2)
    assert foretold.mean_s == pytest.approx(truth.mean_s, rel=0.10)


def test_the_order_of_asking_counts(tmp_path: Path) -> None:
    """Not that of arrival; and what came before the asking is part of the time."""
    path = tmp_path / "record"
    record(path, bursts(20), SHAPE, "least_load")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    asked = sorted(lines, key=lambda one: one["arrived_unix_s"] + one["first_asked_s"])
    arrived = sorted(lines, key=lambda one: one["arrived_unix_s"])
    assert asked != arrived
    rows = read_record(path).rows
    assert [row.before_s for row in rows] == [one["first_asked_s"] for one in asked]
    assert [row.n_prompt for row in rows] == [one["n_estimated"] for one in asked]
    doubled = read_record(path, first=5, last=8, speed=2.0).rows
    assert doubled[-1].at_s == pytest.approx(2 * (rows[7].at_s - rows[5].at_s))


def test_steps_are_of_the_engine() -> None:
    """Two batches in flight: what comes while one is computed waits for the next but one."""
    works = [work(at_s, n) for at_s, n in ((0, 1000), (0.1, 500), (0.2, 300), (9, 5))]
    ends = computed_until(works, 1000.0, 0.0, 2000)
    assert ends == [(0, 1000, 1000), (0, 1800, 500), (0, 1800, 300), (9, 5, 5)]
    split = [work(0.0, 3000), work(0.0, 500)]
    assert computed_until(split, 1000.0, 0.0, 2000) == [(0.0, 3500, 3000), (0.0, 3500, 500)]


def test_what_was_computed_is_cached() -> None:
    """Not what is only under way; and what the engine says of it counts."""
    both = [work(0.0, 1024, blocks=(1, 2)), work(0.0, 1024, blocks=(1, 3))]
    later = [*both, work(5.0, 1030, blocks=(1, 3, 4)), work(9.0, 1024, blocks=(1, 3), n_cached=7)]
    ends = computed_until(later, 1000.0, 0.0, 2000)
    assert [one.n_own for one in ends] == [1024, 1024, 6, 1017]


def test_the_command_says_what_it_learned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And plays with it, with the workers of the record; flags overrule it."""
    words = ["replay", str(path), "--policy", "least_load", "--plays", "1"]
    assert main(words) == 0
    first, learned, _, recorded, line = capsys.readouterr().out.splitlines()
    assert first.endswith("2P2D; seconds")
    assert learned.startswith(("learned: prefill 4,0", "learned: prefill 3,9"))
    assert recorded.startswith("as recorded")
    assert main([*words, "--tokens-per-s", "40000", "--workers", "3P2D"]) == 0
    first, _, _, again, faster = capsys.readouterr().out.splitlines()
    assert "3P2D" in first
    assert again == recorded
    assert float(faster.split()[1]) < 0.5 * float(line.split()[1])


def test_what_the_recorder_writes_is_a_record(tmp_path: Path) -> None:
    """Equal beginnings are equal blocks; requests without a pair are left out."""
    recorder = FlightRecorder(1 << 20)
    recorder.add(noted(5.0, list(range(1200))))
    recorder.add(noted(4.0, [*range(1024), 7]))
    lost = noted(6.0, [1])
    lost.prefill = lost.decode = None
    recorder.add(lost)
    path = tmp_path / "flights"
    path.write_bytes(b"".join(as_lines(recorder.last(), 1e9)))
    found = read_record(path)
    assert [(row.at_s, row.n_prompt, row.n_output) for row in found.rows] == [
        (0.0, 1025, 40),
        (1.0, 1200, 40),
    ]
    assert [row.blocks for row in found.rows] == [(0, 1, 2), (0, 1, 3)]
    assert [one.n_cached for one in found.seen] == [7, 7]
    assert learn(found, 8192) is None


@pytest.mark.parametrize("line", ["[]", '{"arrived_unix_s": 1, "prefill": "x", "granted_s": 1}'])
def test_what_is_no_record_is_said(tmp_path: Path, line: str) -> None:
    path = tmp_path / "flights"
    path.write_text(line)
    with pytest.raises(BadTrace, match="line 1"):
        read_record(path)


def test_who_is_sent_first_is_computed_first() -> None:
    """Of two that are granted together, the one whose sending took longer comes behind."""
    long = Row(0.0, 8192, 8, tuple(range(16)), connect_s=0.1)
    short = Row(0.0, 1024, 8, (20, 21), before_s=0.05)
    figures = replay([long, short], FleetShape(n_prefill=1, n_decode=1), "least_load")
    assert min(figures.ttft_s) == pytest.approx(0.05 + 0.15 + 0.1024 + 0.01024, abs=1e-3)
