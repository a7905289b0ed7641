"""The retry budget under any sequence of dispatches and retries."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.retry_budget import WINDOW_S, RetryBudget

Step = tuple[float, bool, int]
STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 0.2), st.floats(0.0, 100.0)),
        st.booleans(),
        st.integers(1, 200_000),
    ),
    max_size=60,
)
SHARES = st.floats(0.0, 2.0)
FLOORS = st.floats(0.0, 300_000.0)
STEP_S = 0.1
"""How late the budget may look at the clock."""


class Book:
    """Remembers every token with its time, where the budget keeps two sums."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, int]] = []

    def add(self, now_s: float, n_tokens: int) -> None:
        """Counts tokens."""
        self.entries.append((now_s, n_tokens))

    def left(self, now_s: float) -> float:
        """What is left of all of them."""
        return sum(n * math.exp((at_s - now_s) / WINDOW_S) for at_s, n in self.entries)


@given(STEPS, SHARES, FLOORS)
def test_bound_holds_at_every_moment(steps: list[Step], share: float, floor: float) -> None:
    """What was retried never exceeds the share and the floor; what is refused would have.

    The budget may count a dispatch as up to a tenth of a second older than it is.
    """
    now_s = 50.0
    budget = RetryBudget(share, floor, lambda: now_s)
    dispatched, retried = Book(), Book()
    n_refused = 0
    for pause_s, is_retry, n_tokens in steps:
        now_s += pause_s
        if not is_retry:
            budget.note_dispatch(n_tokens, now_s)
            dispatched.add(now_s, n_tokens)
            continue
        least = share * dispatched.left(now_s) * math.exp(-STEP_S / WINDOW_S) + floor
        most = share * dispatched.left(now_s) + floor
        wanted = retried.left(now_s) + n_tokens
        if budget.take(n_tokens):
            assert wanted <= most * (1 + 1e-9) + 1e-6
            retried.add(now_s, n_tokens)
        else:
            assert wanted >= least * (1 - 1e-9) - 1e-6
            n_refused += 1
    assert n_refused == budget.n_refused


@given(STEPS, SHARES, FLOORS, st.integers(1, 300_000))
def test_idle_hours_give_the_floor_back(
    steps: list[Step], share: float, floor: float, n_tokens: int
) -> None:
    """Whatever happened before: after a long pause exactly the floor may be retried."""
    now_s = 0.0
    budget = RetryBudget(share, floor, lambda: now_s)
    for pause_s, is_retry, n in steps:
        now_s += pause_s
        if is_retry:
            budget.take(n)
        else:
            budget.note_dispatch(n, now_s)
    now_s += 3600.0
    assert (n_tokens <= floor) is budget.take(n_tokens)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200))
def test_an_outage_adds_a_share_and_no_more(prompts: list[int]) -> None:
    """Every request fails and wants to be retried: a fifth of the tokens are sent again."""
    budget = RetryBudget(0.2, 0.0, lambda: 0.0)
    n_retried = 0
    for n_tokens in prompts:
        budget.note_dispatch(n_tokens, 0.0)
        n_retried += n_tokens * budget.take(n_tokens)
    assert n_retried <= 0.2 * sum(prompts) + 1e-6


def test_nothing_is_ever_retried_without_share_and_floor() -> None:
    """Zero and zero mean none."""
    budget = RetryBudget(0.0, 0.0, lambda: 0.0)
    budget.note_dispatch(1_000_000, 0.0)
    assert not budget.take(1)
