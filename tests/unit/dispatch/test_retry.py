"""What may be tried again."""

from app.dispatch.retry import Attempts
from app.errors import LegBroken, LegUnreachable


def test_an_unsent_leg_may_be_tried_elsewhere_until_the_limit() -> None:
    """Two attempts are two, and the failed workers are remembered."""
    attempts = Attempts(2, 30.0, lambda: 0.0)
    error = LegUnreachable("gone", leg="decode", worker_id="d1", is_unsent=True)

    attempts.n_started = 1
    assert attempts.may_follow(error)
    attempts.n_started = 2
    assert not attempts.may_follow(error)
    assert attempts.tried == {"d1"}


def test_what_reached_an_engine_is_never_run_twice() -> None:
    """A broken leg may have generated."""
    attempts = Attempts(5, 30.0, lambda: 0.0)
    attempts.n_started = 1

    assert not attempts.may_follow(LegBroken("cut", leg="prefill", worker_id="p1"))


def test_the_deadline_ends_the_attempts() -> None:
    """One clock for all attempts of a request."""
    now_s = 0.0
    attempts = Attempts(5, 30.0, lambda: now_s)
    attempts.n_started = 1
    error = LegUnreachable("gone", leg="decode", worker_id="d1", is_unsent=True)
    now_s = 31.0

    assert not attempts.may_follow(error)
