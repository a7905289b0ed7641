"""The circuit breaker."""

from __future__ import annotations

import pytest

from app.workers.breaker import TRIAL_PLACE_S, Breaker, Trial


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


def _half_open(clock: Hand) -> Breaker:
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.s += 60
    return breaker


def _trial(breaker: Breaker) -> Trial:
    trial = breaker.start_trial()
    assert trial is not None
    return trial


def test_opens_at_the_threshold(clock: Hand) -> None:
    """Closed after two failures, open after three."""
    breaker = _breaker(clock)
    _fail(breaker, 2)
    assert ("closed", True, 2) == (breaker.state, breaker.allows(), breaker.n_failures)
    _fail(breaker, 1)
    assert ("open", False) == (breaker.state, breaker.allows())


def test_many_successes_before_do_not_delay_it(clock: Hand) -> None:
    """A worker that dies after a good day is out after three failures."""
    breaker = _breaker(clock)
    for _ in range(100_000):
        breaker.record_success()
    _fail(breaker, 3)
    assert str(breaker.state) == "open"


def test_half_of_the_answers_is_enough(clock: Hand) -> None:
    """Open at the third failure though every other answer was good."""
    breaker = _breaker(clock)
    for _ in range(3):
        assert breaker.state == "closed"
        breaker.record_success()
        breaker.record_failure()
    assert str(breaker.state) == "open"


def test_less_than_half_is_not(clock: Hand) -> None:
    """Closed for ever at one failure in three; the failures are counted all the same."""
    breaker = _breaker(clock)
    for _ in range(100):
        breaker.record_failure()
        breaker.record_success()
        breaker.record_success()
    assert ("closed", 3) == (breaker.state, breaker.n_failures)


def test_share_is_the_operators(clock: Hand) -> None:
    """One failure in three opens it at a share of 0.3; at 1 only failures in a row do."""
    low = Breaker(clock, failure_threshold=3, failure_share=0.3)
    row = Breaker(clock, failure_threshold=3, failure_share=1.0)
    for _ in range(3):
        for breaker in (low, row):
            breaker.record_failure()
            breaker.record_success()
            breaker.record_success()
    assert ("open", "closed") == (low.state, row.state)
    _fail(row, 3)
    assert row.state == "open"


def test_old_failures_do_not_count(clock: Hand) -> None:
    """Still closed when the first of three failures is older than the window; then open."""
    breaker = _breaker(clock)
    _fail(breaker, 1)
    clock.s += 121
    assert breaker.n_failures == 0
    _fail(breaker, 2)
    assert str(breaker.state) == "closed"
    _fail(breaker, 1)
    assert str(breaker.state) == "open"


def test_half_open_closes_after_successful_trials(clock: Hand) -> None:
    """Half open after 60 s, closed after two successes, with nothing remembered."""
    breaker = _half_open(clock)
    assert ("half_open", True, clock.s) == (
        breaker.state,
        breaker.allows(),
        breaker.trials_from_s,
    )
    breaker.record_success(_trial(breaker))
    assert str(breaker.state) == "half_open"
    breaker.record_success(_trial(breaker))
    assert ("closed", True, 0) == (breaker.state, breaker.is_closed, breaker.n_failures)
    assert breaker.start_trial() is None


def test_half_open_reopens_at_a_failed_trial(clock: Hand) -> None:
    """Open for another 60 s."""
    breaker = _half_open(clock)
    breaker.record_success(_trial(breaker))
    breaker.record_failure(_trial(breaker))
    clock.s += 59
    assert str(breaker.state) == "open"
    clock.s += 1
    breaker.record_success(_trial(breaker))
    assert str(breaker.state) == "half_open"


def test_trials_are_few(clock: Hand) -> None:
    """Two at a time; an outcome, or an end without one, makes room."""
    breaker = _half_open(clock)
    one, other = _trial(breaker), _trial(breaker)
    assert not breaker.allows()
    breaker.record_success(one)
    assert breaker.allows()
    _trial(breaker)
    assert not breaker.allows()
    other.end()
    other.end()
    assert breaker.allows()
    _trial(breaker)
    assert not breaker.allows()


def test_long_trials_make_room_after_a_while(clock: Hand) -> None:
    """A trial that runs for an hour blocks for 10 s only, and its outcome still counts."""
    breaker = _half_open(clock)
    one, other = _trial(breaker), _trial(breaker)
    clock.s += TRIAL_PLACE_S - 1
    assert not breaker.allows()
    clock.s += 1
    assert breaker.allows()
    clock.s += 3600
    breaker.record_success(one)
    breaker.record_success(other)
    assert str(breaker.state) == "closed"


def test_requests_from_before_say_nothing(clock: Hand) -> None:
    """Neither open nor half open is moved by what was sent before it opened."""
    breaker = _breaker(clock)
    _fail(breaker, 3)
    for waited_s in (30, 30):
        clock.s += waited_s
        for _ in range(5):
            breaker.record_success()
            breaker.record_failure()
    assert (str(breaker.state), clock.s) == ("half_open", breaker.trials_from_s)


def test_trial_of_an_earlier_round_says_nothing(clock: Hand) -> None:
    """Its failure does not reopen, its success does not count, its end frees no place."""
    breaker = _half_open(clock)
    late, failed = _trial(breaker), _trial(breaker)
    breaker.record_failure(failed)
    assert breaker.start_trial() is None
    clock.s += 60
    _trial(breaker)
    _trial(breaker)
    breaker.record_failure(late)
    late.end()
    assert ("half_open", False) == (breaker.state, breaker.allows())


def test_restarted_worker_starts_anew(clock: Hand) -> None:
    """Closed at once, and the failures of the past are forgotten."""
    breaker = _breaker(clock)
    _fail(breaker, 3)
    breaker.reset()
    _fail(breaker, 2)
    assert str(breaker.state) == "closed"


def test_disabled_never_opens(clock: Hand) -> None:
    """Closed after any number of failures."""
    breaker = Breaker(clock, failure_threshold=1, is_disabled=True)
    _fail(breaker, 5)
    assert breaker.allows()


@pytest.mark.parametrize("wrong", [{"failure_threshold": 0}, {"success_threshold": 0}])
def test_thresholds_start_at_one(wrong: dict[str, int]) -> None:
    """A ValueError for 0."""
    with pytest.raises(ValueError, match="start at 1"):
        Breaker(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 1.01])
def test_share_is_a_share(share: float) -> None:
    """A ValueError for 0 and for more than 1."""
    with pytest.raises(ValueError, match="share"):
        Breaker(failure_share=share)
