"""What may be tried again, when, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from app.dispatch.retry import Attempts, RetryRules
from app.dispatch.retry_budget import RetryBudget
from app.errors import LegBroken, LegRejected, LegTimedOut, LegUnreachable, WorkerError
from app.scheduling.scheduler import Pair
from app.workers.worker import Role, Worker, WorkerSpec

PAIR = Pair(
    Worker(WorkerSpec("http://p:1", Role.PREFILL, id="p")),
    Worker(WorkerSpec("http://d:1", Role.DECODE, id="d")),
)
GONE = LegUnreachable("gone", leg="decode", worker_id="d", is_unsent=True)


class Request:
    """The attempts of one request, with a clock that is turned by hand."""

    def __init__(self, floor_tokens: float = 1e9, **rules: Any) -> None:
        self.now_s = 0.0
        self.budget = RetryBudget(0.0, floor_tokens, lambda: self.now_s)
        self.attempts = Attempts(RetryRules(**rules), self.budget, 100, lambda: self.now_s)

    def fail(self, error: WorkerError = GONE, *, has_prefilled: bool = False) -> bool:
        """One more attempt, which fails; returns if another one may follow."""
        self.attempts.begin()
        return self.attempts.may_follow(error, PAIR, has_prefilled=has_prefilled)


def rejected(status: int, text: str = "No.") -> LegRejected:
    """A worker's own error status."""
    return LegRejected(text, leg="prefill", worker_id="p", status=status)


def test_what_was_never_sent_is_tried_elsewhere_at_once() -> None:
    """Up to the limit of attempts; the worker that failed is left out."""
    request = Request(max_attempts=2)
    assert request.fail()
    attempts = request.attempts
    assert (frozenset("d"), 0.0, "") == (attempts.tried, attempts.delay_s, attempts.refusal)
    assert not request.fail()
    assert (2, "limit") == (request.attempts.n_started, request.attempts.refusal)
    assert (b"x-tandem-attempts", b"2") == request.attempts.header


@pytest.mark.parametrize(
    "error",
    [
        LegBroken("cut", leg="prefill", worker_id="p"),
        LegTimedOut("silent", leg="decode", worker_id="d"),
        rejected(503),
        rejected(500),
        rejected(429),
    ],
    ids=["cut", "silent", "503", "500", "429"],
)
def test_what_reached_an_engine_is_not_run_twice(error: WorkerError) -> None:
    """It may have generated; the operator did not ask for more."""
    request = Request()
    assert not request.fail(error)
    assert request.attempts.refusal == ""


@pytest.mark.parametrize(
    ("error", "has_prefilled", "is_tried"),
    [
        (rejected(500), False, True),
        (rejected(503), False, True),
        (rejected(500), True, False),
        (rejected(429), False, False),
        (rejected(422), False, False),
        (rejected(500, "KVTransferError: lost connection with prefill"), False, False),
        (LegBroken("cut", leg="prefill", worker_id="p"), False, False),
        (LegTimedOut("silent", leg="decode", worker_id="d"), False, False),
    ],
)
def test_after_5xx_on_demand(error: WorkerError, has_prefilled: bool, is_tried: bool) -> None:
    """Only a worker's own 5xx, and never after a prefill that was completed."""
    request = Request(is_after_5xx=True)
    assert is_tried is request.fail(error, has_prefilled=has_prefilled)


def test_nobody_knows_which_leg_failed() -> None:
    """So neither worker is asked again."""
    request = Request()
    error = LegUnreachable("gone", leg=None, worker_id="d", is_unsent=True)
    assert request.fail(error)
    assert {"p", "d"} == request.attempts.tried


def test_the_deadline_ends_the_attempts() -> None:
    """It runs from the first attempt on: what was waited before does not count."""
    request = Request(deadline_s=30.0)
    request.now_s = 100.0
    assert request.fail()
    request.now_s = 129.9
    assert request.fail()
    request.now_s = 130.0
    assert not request.fail()
    assert request.attempts.refusal == "deadline"


def test_a_pause_that_ends_after_the_deadline_is_not_begun() -> None:
    """The client has its error at once."""
    request = Request(is_after_5xx=True, deadline_s=1.0, initial_backoff_s=2.0)
    assert not request.fail(rejected(500))
    assert request.attempts.refusal == "deadline"


def test_pauses_grow_and_end_with_the_next_cause() -> None:
    """By SMG's formula after a 5xx, none after a worker that could not be reached."""
    request = Request(is_after_5xx=True, initial_backoff_s=0.1, backoff_multiplier=2.0, jitter=0.5)
    for most_s in (0.15, 0.3, 0.6):
        assert request.fail(rejected(500))
        assert most_s / 3 <= request.attempts.delay_s <= most_s
    assert request.fail()
    assert request.attempts.delay_s == 0.0


@pytest.mark.parametrize(
    ("n_retries", "spread", "expected_s"),
    [(0, 0.0, 0.05), (1, 0.0, 0.075), (2, 1.0, 0.135), (1, -1.0, 0.06), (99, 0.0, 30.0)],
)
def test_backoff_of_smg(n_retries: int, spread: float, expected_s: float) -> None:
    """Its defaults give 50, 75, 112 ms, up or down by a fifth, at most 30 s."""
    assert pytest.approx(expected_s) == RetryRules().backoff_s(n_retries, spread)


def test_backoff_of_very_many_retries() -> None:
    """No number is too large for the formula."""
    assert RetryRules().backoff_s(1_000_000, 0.0) == 30.0


def test_the_budget_ends_the_attempts() -> None:
    """250 tokens are two retries of 100; the third waits until some of them have leaked."""
    request = Request(floor_tokens=250.0)
    assert [True, True, False] == [request.fail() for _ in range(3)]
    assert ("budget", 1) == (request.attempts.refusal, request.budget.n_refused)
    request.now_s = 10.0
    assert request.fail()


def test_a_refusal_takes_nothing_from_the_budget() -> None:
    """Neither the limit of attempts nor the deadline costs a token."""
    request = Request(floor_tokens=100.0, max_attempts=1)
    assert not request.fail()
    assert request.budget.take(100)
