"""The table of a worker's states, and a registry that is driven by it with any events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.workers.registry import Registry
from app.workers.states import TABLE, Event, State, WrongMove, check_move, step
from app.workers.worker import Role, WorkerSpec

_EVENTS = st.lists(st.sampled_from(Event), max_size=40)


def _after(events: list[Event]) -> list[State]:
    states = [State.JOINING]
    for event in events:
        move = step(states[-1], event)
        states.append(states[-1] if move is None else move.state)
    return states


@given(_EVENTS)
def test_gone_is_the_end(events: list[Event]) -> None:
    """After the first GONE there is nothing else."""
    states = _after(events)
    if State.GONE in states:
        assert {State.GONE} == set(states[states.index(State.GONE) :])


@given(_EVENTS)
def test_draining_leads_to_gone_only(events: list[Event]) -> None:
    """Nothing brings a draining worker back."""
    states = _after(events)
    if State.DRAINING in states:
        assert {State.DRAINING, State.GONE} >= set(states[states.index(State.DRAINING) :])


@given(_EVENTS)
def test_ready_only_after_an_answer(events: list[Event]) -> None:
    """A worker becomes ready by joining or by recovering, and by nothing else."""
    states = _after(events)
    for old, event, new in zip(states, events, states[1:], strict=False):
        if old is not State.READY and new is State.READY:
            assert event in (Event.JOINED, Event.RECOVERED)


@given(_EVENTS)
def test_removal_is_never_ignored_before_its_end(events: list[Event]) -> None:
    """Whatever happened: asked to go, a worker is draining or gone."""
    assert _after([*events, Event.REMOVAL])[-1] in (State.DRAINING, State.GONE)


@given(_EVENTS)
def test_nothing_is_cut_short(events: list[Event]) -> None:
    """A worker that was ready is gone only by having drained."""
    states = _after(events)
    if State.READY in states and State.GONE in states:
        assert states[states.index(State.GONE) - 1] is State.DRAINING


@given(_EVENTS)
def test_registry_follows_the_table(events: list[Event]) -> None:
    """State, reason and membership are the table's after each event; GONE is out of the list."""
    registry = Registry()
    worker = registry.add(WorkerSpec("http://a", Role.PREFILL))
    for event in events:
        before, reason = worker.state, worker.state_reason
        has_changed = registry.apply(worker, event, "detail")
        move = step(before, event)
        if move is None:
            assert (before, reason, False) == (worker.state, worker.state_reason, has_changed)
        else:
            assert (move.state, f"{move.reason}: detail") == (worker.state, worker.state_reason)
            assert has_changed is (move.state is not before)
        assert (worker in registry.workers()) is (worker.state is not State.GONE)


def test_every_state_can_be_left_but_one() -> None:
    """No dead end before GONE, every event means something somewhere, every move has a reason."""
    assert {state for state, _ in TABLE} == set(State) - {State.GONE}
    assert {event for _, event in TABLE} == set(Event)
    assert all(move.reason for move in TABLE.values())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (State.GONE, State.READY),
        (State.DRAINING, State.READY),
        (State.JOINING, State.UNHEALTHY),
        (State.READY, State.GONE),
    ],
)
def test_moves_that_no_event_makes(old: State, new: State) -> None:
    """Refused; staying never is."""
    with pytest.raises(WrongMove):
        check_move(old, new)
    check_move(old, old)
