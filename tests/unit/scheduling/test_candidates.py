"""What the queue knew of all ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.scheduling.feeder import Feeder
from app.scheduling.prefix_index import PrefixIndex
from app.scheduling.rank_ledger import RankLedger
from app.scheduling.wait_queue import Waiting

N_PLACES = 64


def finishes(seconds: list[float]) -> NDArray[np.float64]:
    """By place; nothing is at the others."""
    return np.array(seconds + [np.inf] * (N_PLACES - len(seconds)))


def test_the_feeder_tells_what_it_expected_of_each() -> None:
    """Wait, work and lead of each rank; of the chosen one what it says it expects."""
    feeder = Feeder(PrefixIndex(1 << 16, N_PLACES), 128)
    for place, rate in ((0, 1000.0), (1, 500.0), (2, 1000.0)):
        feeder.add_rank(place, RankLedger(rate_tokens_per_s=rate, lead_s=0.1), 1000)
    allowed = np.zeros(N_PLACES, bool)
    allowed[[0, 1]] = True
    usable = np.ones(N_PLACES, bool)
    for n_tokens in (1000, 3000, 600):
        feeder.add(Waiting(np.array([], np.uint64), n_tokens, 0.0, allowed), 0.0)
    first, *_ = feeder.pump(0.0, usable)
    assert first.waiting.n_tokens == 600
    assert first.finish_s[:3].tolist() == [0.7, 1.3, np.inf]
    assert first.expected_s == first.finish_s[first.place]
