"""Recorded requests of several processes, fetched in pieces and put together by time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from app.cluster import far_flights
from app.cluster.far_flights import gather_flights, show_piece
from app.observability.flight_pieces import put_together
from app.observability.flight_recorder import FlightRecorder
from app.observability.notes import Notes
from app.workers.worker import Role, Worker, WorkerSpec

PREFILLS = [Worker(WorkerSpec(f"http://p:{n}", Role.PREFILL)) for n in (1, 2)]
ROOMY = 1 << 20


def recorder_of(ends_s: list[float], prefill: Worker, max_bytes: int = ROOMY) -> FlightRecorder:
    """Requests that ended at these times."""
    recorder = FlightRecorder(max_bytes)
    for at_s in ends_s:
        notes = Notes(lambda at_s=at_s: at_s - 1)  # type: ignore[misc]
        notes.grant(prefill, prefill, 1)
        notes.ended_s, notes.request_id = at_s, f"r{at_s:g}"
        recorder.add(notes)
    return recorder


class Pipes:
    """Processes that are asked all at once, by their process ids."""

    def __init__(self, *recorders: FlightRecorder) -> None:
        self.by_pid = dict(enumerate(recorders, 1))
        self.n_asked = 0

    async def gather(
        self, what: str, before: Mapping[int, float] | None, since_s: float, n_most: int
    ) -> tuple[None, list[tuple[int, int, bytes | None]]]:
        assert what == far_flights.SHOWN
        self.n_asked += 1
        return None, [
            (pid, pid, show_piece(recorder, pid, before, since_s, n_most))
            for pid, recorder in self.by_pid.items()
        ]

    async def ends(self, n_most: int | None, since_s: float = 0.0) -> list[float]:
        """When the requests ended that are shown."""
        sources = await gather_flights(self.gather, n_most, since_s)
        return [flight.times[-1] for flight in put_together(sources, n_most)]


async def test_they_come_in_the_order_of_time() -> None:
    """With the names of their own recorder; the latest ones, those of a time."""
    odd, even = (recorder_of([float(n) for n in range(k, 41, 2)], PREFILLS[k % 2]) for k in (1, 2))
    pipes = Pipes(odd, even)
    sources = await gather_flights(pipes.gather, None)
    flights = list(put_together(sources, None))
    assert [one.times[-1] for one in flights] == [float(n) for n in range(1, 41)]
    assert [one.prefill for one in flights[:3]] == ["http://p:2", "http://p:1", "http://p:2"]
    assert await pipes.ends(3) == [38.0, 39.0, 40.0]
    assert await pipes.ends(None, since_s=37.5) == [38.0, 39.0, 40.0]
    assert await pipes.ends(1_000) == [float(n) for n in range(1, 41)]


async def test_they_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it takes, and no more of one whose others are old."""
    monkeypatch.setattr(far_flights, "MAX_A_PIECE", 10)
    many = recorder_of([float(n) for n in range(1, 101)], PREFILLS[0])
    pipes = Pipes(many, recorder_of([5.5, 50.5, 95.5], PREFILLS[1]))
    assert await pipes.ends(None) == sorted([*map(float, range(1, 101)), 5.5, 50.5, 95.5])
    pipes.n_asked = 0
    assert await pipes.ends(15) == [*map(float, range(87, 96)), 95.5, *map(float, range(96, 101))]
    assert pipes.n_asked == 2


async def test_it_begins_where_none_is_missing() -> None:
    """One that was busy has forgotten what another still has."""
    one = recorder_of([1.0], PREFILLS[0])
    busy = recorder_of([float(n) for n in range(1, 101)], PREFILLS[0], 10 * one.n_bytes)
    quiet = recorder_of([10.5, 50.5, 95.5], PREFILLS[1])
    first = next(iter(busy.last())).times[-1]
    assert 90 < first < 95
    assert await Pipes(busy, quiet).ends(None) == sorted(
        [*map(float, range(int(first), 101)), 95.5]
    )


async def test_one_that_is_gone_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended between two pieces: what it had said counts, from where it is whole."""
    monkeypatch.setattr(far_flights, "MAX_A_PIECE", 10)
    pipes = Pipes(*(recorder_of([float(n) for n in range(1, 31)], PREFILLS[k]) for k in (0, 1)))
    asked = pipes.gather

    async def dying(what: str, before: Mapping[int, float] | None, *words: float) -> object:
        answer = await asked(what, before, words[0], int(words[1]))
        pipes.by_pid.pop(2, None)
        return answer

    pipes.gather = dying  # type: ignore[assignment, method-assign]
    assert await pipes.ends(None) == sorted([*map(float, range(21, 31))] * 2)


def test_fewer_than_asked_for_are_all() -> None:
    recorder = recorder_of([1.0, 2.0, 3.0], PREFILLS[0])
    assert [flight.times[-1] for flight in recorder.last(5)] == [1.0, 2.0, 3.0]
