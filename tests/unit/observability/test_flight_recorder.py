"""The flight recorder: what comes out is what went in, within its memory."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from app.observability.flight_export import as_lines, as_trace
from app.observability.flight_recorder import FlightRecorder
from app.observability.notes import Notes
from app.observability.phases import TIMES
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.scheduling.prompt_sketch import sketch
from app.twin.trace import read_trace, token_ids
from app.workers.worker import Role, Worker, WorkerSpec

PREFILL = Worker(WorkerSpec("http://p:1", Role.PREFILL))
DECODE = Worker(WorkerSpec("http://d:1", Role.DECODE))


def facts_of(ids: list[int]) -> RequestFacts:
    return peek(Route.GENERATE, orjson.dumps({"input_ids": ids}))


def noted(arrived_s: float, ids: list[int], *, is_known: bool = True) -> Notes:
    notes = Notes(lambda: arrived_s)
    facts = facts_of(ids)
    notes.route, notes.model, notes.is_stream = "/generate", "m", True
    notes.request_id, notes.status = f"gnt-{arrived_s:g}", 200
    notes.n_estimated, notes.sketch = facts.n_prompt_tokens, sketch(facts)
    notes.begin_attempt()
    notes.grant(PREFILL, DECODE, 2)
    notes.first_s, notes.last_s, notes.ended_s = arrived_s + 1, arrived_s + 3, arrived_s + 3.5
    if is_known:
        notes.n_prompt, notes.n_cached, notes.n_completion = len(ids), 7, 40
    return notes


def test_what_comes_out_is_what_went_in() -> None:
    recorder = FlightRecorder(1 << 20)
    ids = list(range(1200))
    notes = noted(5.0, ids)
    notes.outcome, notes.leg = "worker_broken", "decode"
    recorder.add(notes)
    (flight,) = recorder.last()
    assert dict(zip(TIMES, flight.times, strict=True)) == {n: getattr(notes, n) for n in TIMES}
    assert (flight.prefill, flight.decode, flight.model) == ("http://p:1", "http://d:1", "m")
    assert (flight.n_prompt, flight.n_cached, flight.n_completion) == (1200, 7, 40)
    assert (flight.n_estimated, flight.n_attempts, flight.status) == (1200, 2, 200)
    assert (flight.outcome, flight.leg, flight.is_stream) == ("worker_broken", "decode", True)
    assert flight.request_id == "gnt-5"
    assert len(flight.blocks) == 3


def test_what_is_too_much_is_cut_off() -> None:
    """The blocks of the longest prompts, and a number of attempts that nobody makes."""
    recorder = FlightRecorder(1 << 20)
    notes = noted(5.0, [1])
    notes.sketch, notes.n_attempts = bytes(range(256)) * 400, 70_000
    recorder.add(notes)
    (flight,) = recorder.last()
    assert (len(flight.blocks), flight.n_attempts) == (512, 65_535)
    assert flight.request_id == "gnt-5"


def test_what_is_not_known_stays_unknown() -> None:
    """A request that was refused: no pair, no tokens, no times of legs."""
    recorder = FlightRecorder(1 << 20)
    notes = Notes(lambda: 1.0)
    notes.outcome = "invalid_json"
    recorder.add(notes)
    (line,) = as_lines(recorder.last(), 0.0)
    fields = json.loads(line)
    assert (fields["outcome"], fields["prefill"], fields["leg"]) == ("invalid_json", "", None)
    assert not {"n_prompt", "n_cached", "n_completion", "first_s", "granted_s"} & fields.keys()
    assert list(as_trace(recorder.last())) == []


def test_the_oldest_make_room() -> None:
    """The budget holds, and a request is about 200 bytes."""
    recorder = FlightRecorder(20_000)
    for number in range(500):
        recorder.add(noted(float(number), [number]))
        assert recorder.n_bytes <= 20_000
    kept = [flight.arrived_s for flight in recorder.last()]
    assert kept == [float(n) for n in range(500 - len(kept), 500)]
    assert 150 < 20_000 / len(kept) < 250
    assert [flight.arrived_s for flight in recorder.last(2)] == [498.0, 499.0]
    assert (recorder.n_recorded, len(recorder)) == (500, len(kept))


def test_names_are_bounded() -> None:
    """Models are what clients write; the 4,096th name on is other."""
    recorder = FlightRecorder(10 << 20)
    for number in range(4200):
        notes = noted(1.0, [1])
        notes.model = f"invented-{number}"
        recorder.add(notes)
    found = [flight.model for flight in recorder.last()]
    assert found[0] == "invented-0"
    assert found[-1] == "other"


def test_equal_prefixes_are_equal_blocks(tmp_path: Path) -> None:
    """In the trace too, which the replay reads; lengths are right and blocks need not be full."""
    recorder = FlightRecorder(1 << 20)
    shared = list(range(1024))
    recorder.add(noted(11.0, [*shared, *range(5000, 5100)]))
    recorder.add(noted(10.0, [*shared, *range(7000, 7600)]))
    recorder.add(noted(12.5, [9, *shared]))
    path = tmp_path / "trace"
    path.write_bytes(b"".join(as_trace(recorder.last())))
    early, late, other = read_trace(path)
    assert (early.at_s, late.at_s, other.at_s) == (0.0, 1.0, 2.5)
    assert [len(row.blocks) for row in (early, late, other)] == [4, 3, 3]
    assert early.blocks[:2] == late.blocks[:2]
    assert len({*early.blocks, *late.blocks, *other.blocks}) == 4 + 1 + 3
    assert [len(token_ids(row)) for row in (early, late, other)] == [1624, 1124, 1025]
    assert early.n_output == 40


@pytest.mark.parametrize("n_prompt", [100, 513, 3000])
def test_a_length_that_was_estimated_wrongly(n_prompt: int) -> None:
    """The engine's length counts; blocks nobody hashed are shared with nobody."""
    recorder = FlightRecorder(1 << 20)
    for arrived_s in (1.0, 2.0):
        notes = noted(arrived_s, list(range(1000)))
        notes.n_prompt = n_prompt
        recorder.add(notes)
    first, second = map(json.loads, as_trace(recorder.last()))
    n_blocks = -(-n_prompt // 512)
    assert first["input_length"] == second["input_length"] == n_prompt
    assert len(first["hash_ids"]) == len(second["hash_ids"]) == n_blocks
    n_shared = len({*first["hash_ids"]} & {*second["hash_ids"]})
    assert n_shared == min(2, n_blocks)


def test_salt_and_model_tell_prompts_apart() -> None:
    """As for the engines, whose caches they tell apart too."""

    def sketch_of(**more: str) -> bytes:
        return sketch(peek(Route.GENERATE, orjson.dumps({"input_ids": [1, 2], **more})))

    assert sketch_of() == sketch_of()
    assert sketch_of(model="a") != sketch_of(model="b")
    assert sketch_of(lora_path="a") != sketch_of(lora_path="b")
