"""The account of a prefill rank."""

from __future__ import annotations

import pytest

from app.scheduling.rank_ledger import RankLedger
from app.workers.rank_load import RankLoad, read_loads


def load(asked_s: float, n_waiting: int = 0, **more: int) -> RankLoad:
    return RankLoad(asked_s, n_waiting, **more)


def test_credit_until_a_snapshot_can_contain_it() -> None:
    """A snapshot asked for before the request can have arrived says nothing about it."""
    ledger = RankLedger(lead_s=0.1)
    ledger.send(3000, 10.0)
    ledger.take(load(10.05))
    assert ledger.unstarted_tokens(10.05) == 3000
    ledger.take(load(10.2, 3000))
    assert ledger.unstarted_tokens(10.2) == 3000
    ledger.take(load(10.3))
    assert ledger.unstarted_tokens(10.3) == 0


def test_what_still_bootstraps_stays_credit() -> None:
    ledger = RankLedger(lead_s=0.1)
    ledger.send(3000, 10.0)
    ledger.send(500, 10.1)
    ledger.take(load(20.0, n_bootstrapping=1))
    assert ledger.unstarted_tokens(20.0) == 500


def test_waiting_tokens_are_started_at_the_rate() -> None:
    ledger = RankLedger(rate_tokens_per_s=1000.0)
    ledger.take(load(1.0, 600))
    assert ledger.unstarted_tokens(1.1) == pytest.approx(500)
    assert ledger.unstarted_tokens(9.0) == 0


def test_an_older_snapshot_is_passed_over() -> None:
    ledger = RankLedger()
    ledger.take(load(2.0, 10))
    ledger.take(load(1.0, 9999))
    assert ledger.unstarted_tokens(2.0) == 10


def test_a_word_counts_for_a_while_only() -> None:
    ledger = RankLedger(stale_s=1.0)
    assert ledger.is_fresh(0.0)
    ledger.finish(ledger.send(1, 1.0), 1.5, is_ok=True)
    assert ledger.is_fresh(2.0)
    assert not ledger.is_fresh(2.1)
    ledger.take(load(5.0))
    assert ledger.is_fresh(99.0)
    ledger.send(100, 100.0)
    assert ledger.is_fresh(101.0)
    assert not ledger.is_fresh(102.0)
    ledger.take(load(102.2))
    assert ledger.is_fresh(103.0)


def test_backlog_holds_what_runs_and_never_more_than_is_unanswered() -> None:
    ledger = RankLedger(rate_tokens_per_s=1000.0)
    first, second = ledger.send(1000, 0.0), ledger.send(400, 0.0)
    ledger.take(load(1.0))
    assert ledger.unstarted_tokens(1.0) == 0
    assert ledger.backlog_tokens(1.0) == pytest.approx(400)
    ledger.finish(first, 1.0, is_ok=True)
    assert ledger.backlog_tokens(1.0) == pytest.approx(400)
    ledger.finish(second, 1.0, is_ok=False)
    assert ledger.backlog_tokens(1.0) == 0
    ledger.finish(second, 1.0, is_ok=False)
    assert ledger.backlog_tokens(1.0) == 0


def test_learns_the_rate_from_counters() -> None:
    """Of tokens and microseconds, over several seconds of work; a restart starts anew."""
    ledger = RankLedger(rate_tokens_per_s=99.0)
    for step in range(8):
        ledger.take(load(step, n_total_tokens=1 + 5000 * step, busy_us=1 + 1_000_000 * step))
    assert ledger.rate_tokens_per_s == pytest.approx(5000)
    for step in range(30):
        ledger.take(load(9.0 + step, n_total_tokens=1 + 50 * step, busy_us=1 + 1_000_000 * step))
    assert ledger.rate_tokens_per_s < 1000


def test_learns_the_rate_by_its_own_clock_from_engines_without_counters() -> None:
    ledger = RankLedger(rate_tokens_per_s=99.0, lead_s=0.0)
    now_s = 0.0
    for _ in range(20):
        sent = ledger.send(2000, now_s)
        now_s += 1.0
        ledger.finish(sent, now_s, is_ok=True)
        now_s += 5.0
    assert ledger.rate_tokens_per_s == pytest.approx(2000, rel=0.02)


def test_learns_the_lead_from_the_quickest() -> None:
    ledger = RankLedger(rate_tokens_per_s=1000.0)
    for extra_s in (0.9, 0.2, 0.5):
        sent = ledger.send(500, 0.0)
        ledger.finish(sent, 0.5 + extra_s, is_ok=True)
    assert ledger.lead_s == pytest.approx(0.2)
    assert ledger.window_tokens == pytest.approx(0.2 * 1000 + 2048)
    assert ledger.ahead_tokens == pytest.approx(0.2 * 1000 + 8192)


def test_a_cancelled_request_teaches_nothing_and_frees_its_credit() -> None:
    ledger = RankLedger(lead_s=0.05)
    sent = ledger.send(500, 0.0)
    ledger.finish(sent, 0.001, is_ok=False)
    assert ledger.lead_s == 0.05
    assert ledger.unstarted_tokens(0.001) == 0


def test_reads_rows_of_both_engines() -> None:
    rows = [
        {
            "dp_rank": 1,
            "num_waiting_uncached_tokens": 7,
            "total_prefill_uncached_tokens": 11,
            "total_prefill_busy_us": 13,
            "num_used_tokens": 17,
            "max_total_num_tokens": 19,
            "disaggregation": {"prefill_bootstrap_queue_reqs": 3},
        },
        {"num_waiting_uncached_tokens": 2, "disaggregation": None},
        {"dp_rank": 5, "num_running_reqs": 1},
        "row",
    ]
    assert read_loads(rows, 4.0) == {
        1: RankLoad(4.0, 7, 3, 11, 13, 17, 19),
        0: RankLoad(4.0, 2),
    }


@pytest.mark.parametrize("rows", [None, "text", 5, {}, [[]], [{"num_waiting_uncached_tokens": -1}]])
def test_nonsense_is_no_load(rows: object) -> None:
    assert all(found.n_waiting_tokens == 0 for found in read_loads(rows, 0.0).values())


def test_the_pace_ends_with_what_it_is_kept_for() -> None:
    ledger = RankLedger(rate_tokens_per_s=1000.0, lead_s=0.16)
    sent = ledger.send(500, 5.0)
    assert ledger.paced_until_s == pytest.approx(5.02)
    ledger.finish(sent, 5.01, is_ok=False)
    assert ledger.paced_until_s == 0
