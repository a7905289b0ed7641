"""The table of all ranks says what each rank's own account says."""

from __future__ import annotations

import random

import numpy as np
import pytest

from app.scheduling.rank_ledger import RankLedger
from app.scheduling.rank_table import RankTable
from app.workers.rank_load import RankLoad

N_PLACES = 32


def may_be_fed(ledger: RankLedger, now_s: float) -> bool:
    """As the account itself has it."""
    return not ledger.is_fresh(now_s) or (
        ledger.unstarted_tokens(now_s) < ledger.window_tokens
        and ledger.backlog_tokens(now_s) < ledger.ahead_tokens
        and ledger.paced_until_s <= now_s
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_table_says_what_the_accounts_say(seed: int) -> None:
    luck, now_s, n_fed = random.Random(seed), 0.0, 0
    table, ledger = RankTable(N_PLACES), RankLedger(2000, 1000.0, 0.2, stale_s=1.5)
    usable = np.zeros(N_PLACES, bool)
    usable[3] = True
    table.note(3, ledger)
    sent = []
    for _ in range(300):
        now_s += luck.choice((0.01, 0.1, 0.4))
        what = luck.random()
        if what < 0.4:
            sent.append(ledger.send(luck.choice((10.0, 300.0, 3000.0)), now_s))
        elif what < 0.6 and sent:
            ledger.finish(sent.pop(0), now_s, is_ok=True)
        else:
            ledger.take(RankLoad(now_s - 0.01, luck.choice((0, 0, 400, 5000)), luck.choice((0, 1))))
        table.note(3, ledger)
        for ahead_s in (0.0, 0.05, 0.3, 2.0):
            at_s = now_s + ahead_s
            wait_s, rate, is_hungry = table.state(at_s, usable)
            assert rate[3] == ledger.rate_tokens_per_s
            expected_s = ledger.backlog_tokens(at_s) / ledger.rate_tokens_per_s
            assert wait_s[3] == pytest.approx(expected_s, abs=1e-6)
            assert is_hungry[3] == may_be_fed(ledger, at_s)
            n_fed += bool(is_hungry[3])
    assert 100 < n_fed < 1150


def test_only_what_is_open_and_usable_is_fed() -> None:
    table = RankTable(N_PLACES)
    usable = np.ones(N_PLACES, bool)
    usable[1] = False
    usable.flags.writeable = False
    for place in (0, 1):
        table.note(place, RankLedger())
    assert fed(table, usable) == [0]
    table.note(2, RankLedger())
    assert fed(table, usable) == [0, 2]
    table.close(0)
    assert fed(table, usable) == [2]


def fed(table: RankTable, usable: np.ndarray) -> list[int]:
    wait_s, _, is_hungry = table.state(0.0, usable)
    assert np.isfinite(wait_s).tolist() == is_hungry.tolist()
    return np.flatnonzero(is_hungry).tolist()
