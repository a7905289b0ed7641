"""Token buckets against the naive ones: same answers, whatever comes when."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from app.middleware.rate_limit import RateLimit

# Steps and rates that floats hold exactly, so that the two may be compared exactly.
STEPS = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.integers(0, 4096), st.integers(1, 5), st.booleans()
)
RATES = st.sampled_from([0.125, 0.5, 1.0, 2.0, 16.0, 256.0])


class NaiveBucket:
    """A level that is filled up at every look."""

    def __init__(self, rate: Fraction, burst: Fraction) -> None:
        self._rate, self._burst = rate, burst
        self._level, self._seen_s = burst, Fraction(0)

    def wait_s(self, now_s: Fraction) -> Fraction:
        """Seconds until a whole token is there."""
        self._level = min(self._burst, self._level + self._rate * (now_s - self._seen_s))
        self._seen_s = now_s
        return max(Fraction(0), (1 - self._level) / self._rate)

    def take(self, n: int) -> None:
        """Takes tokens that may not be there."""
        self._level -= n


@given(RATES, st.integers(1, 64), st.lists(STEPS, max_size=60))
@settings(max_examples=300, deadline=None)
def test_as_naive_buckets(rate: float, burst: int, steps: list[tuple[str, int, int, bool]]) -> None:
    """Each key waits as long as by the naive rule, in debt too, and takes from nobody else."""
    now = Fraction(0)
    limit = RateLimit(rate, burst, max_buckets=3, now_s=lambda: float(now))
    naive = {key: NaiveBucket(Fraction(rate), Fraction(burst)) for key in "abc"}
    for key, delay, n, is_forced in steps:
        now += Fraction(delay, 1024)
        assert Fraction(limit.wait_s(key)) == naive[key].wait_s(now)
        if is_forced or not limit.wait_s(key):
            limit.take(key, n)
            naive[key].take(n)


@given(st.integers(1, 5), st.lists(st.sampled_from("abcdefgh"), max_size=60))
@settings(max_examples=200, deadline=None)
def test_never_more_buckets_than_allowed(max_buckets: int, keys: list[str]) -> None:
    """The one least lately used is forgotten; those used since keep what they took."""
    limit = RateLimit(1.0, 1.0, max_buckets=max_buckets, now_s=lambda: 0.0)
    recent: list[str] = []
    for key in keys:
        limit.take(key)
        recent = [*(other for other in recent if other != key), key][-max_buckets:]
        assert len(limit) == len(recent)
        assert {key for key in "abcdefgh" if limit.wait_s(key)} == set(recent)


def test_a_rate_holds_over_time() -> None:
    """At ten times the rate, what passes is the burst and the rate."""
    now_s = 0.0
    limit = RateLimit(10.0, 5.0, max_buckets=1, now_s=lambda: now_s)
    n_passed = 0
    for i in range(1000):
        now_s = i / 100
        if not limit.wait_s("a"):
            limit.take("a")
            n_passed += 1
    assert n_passed in (104, 105)
