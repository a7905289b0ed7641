"""The circuit breaker."""

from __future__ import annotations

import pytest

from app.workers.breaker import Breaker


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Hand:
    """A clock at 100 s."""
    return Hand()


def _breaker(clock: Hand) -> Breaker:
    return Breaker(clock, failure_threshold=3, success_threshold=2, open_s=60, window_s=120)


def _fail(breaker: Breaker, n: int) -> None:
    for _ in range(n):
        breaker.record_failure()


def test_opens_at_the_threshold(clock: Hand) -> None:
    """Closed after two failures, open after three."""
    breaker = _breaker(clock)
    _fail(breaker, 2)
    assert ("closed", True) == (breaker.state, breaker.allows())
    _fail(breaker, 1)
    assert ("open", False) == (breaker.state, breaker.allows())


def test_success_forgets_failures(clock: Hand) -> None:
    """Still closed: the failures were not in a row."""
    breaker = _breaker(clock)
    _fail(breaker, 2)
    breaker.record_success()
    _fail(breaker, 2)
    assert str(breaker.state) == "closed"


def test_old_failures_do_not_count(clock: Hand) -> None:
    """Still closed when the first of three failures is older than the window; then open."""
    breaker = _breaker(clock)
    _fail(breaker, 1)
    clock.s += 121
    _fail(breaker, 2)
    assert str(breaker.state) == "closed"
    _fail(breaker, 1)
    assert str(breaker.state) == "open"


def test_half_open_closes_after_successes(clock: Hand) -> None:
    """Half open after 60 s, closed after two successes."""
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.s += 60
    assert ("half_open", True) == (breaker.state, breaker.allows())
    breaker.record_success()
    assert str(breaker.state) == "half_open"
    breaker.record_success()
    assert ("closed", True) == (breaker.state, breaker.is_closed)


def test_half_open_reopens_at_a_failure(clock: Hand) -> None:
    """Open for another 60 s."""
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.s += 60
    _fail(breaker, 1)
    clock.s += 59
    assert str(breaker.state) == "open"
    clock.s += 1
    assert str(breaker.state) == "half_open"


def test_trials_are_few(clock: Hand) -> None:
    """Two at a time; a place is free again after an outcome, or when none came for 10 s."""
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.s += 60
    breaker.note_dispatch()
    breaker.note_dispatch()
    assert not breaker.allows()
    breaker.record_success()
    assert breaker.allows()
    breaker.note_dispatch()
    assert not breaker.allows()
    clock.s += 10
    assert breaker.allows()


def test_late_results_while_open(clock: Hand) -> None:
    """Neither a success closes it nor a failure prolongs it."""
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.s += 30
    breaker.record_success()
    breaker.record_failure()
    assert str(breaker.state) == "open"
    clock.s += 30
    assert str(breaker.state) == "half_open"


def test_disabled_never_opens(clock: Hand) -> None:
    """Closed after any number of failures."""
    breaker = Breaker(clock, failure_threshold=1, is_disabled=True)
    _fail(breaker, 5)
    assert breaker.allows()


def test_thresholds_start_at_one() -> None:
    """A ValueError for 0."""
    with pytest.raises(ValueError, match="start at 1"):
        Breaker(failure_threshold=0)
