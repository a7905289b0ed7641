"""What is fed, where to, and what is kept back."""

from __future__ import annotations

import numpy as np

from app.scheduling.fed import Fed
from app.scheduling.feeder import Feeder
from app.scheduling.prefix_index import PrefixIndex
from app.scheduling.rank_ledger import RankLedger
from app.scheduling.wait_queue import Waiting
from app.workers.rank_load import RankLoad
from tests.unit.scheduling.test_prefix_index import chain

BLOCK = 100
STEP = 2000
"""So a rank is fed while it has not started 500 tokens and not finished 2000."""


class Ranks:
    """A feeder before ranks of 1000 tokens a second, fresh words of all of them at hand."""

    def __init__(self, n_ranks: int = 2, *, is_told: bool = True, lead_s: float = 0.0) -> None:
        self.feeder = Feeder(PrefixIndex(1 << 20, 64), BLOCK)
        self.usable = np.zeros(64, bool)
        for place in range(n_ranks):
            self.feeder.add_rank(place, RankLedger(STEP, 1000.0, lead_s, stale_s=1000.0), 10_000)
            self.usable[place] = True
            if is_told:
                self.say(place, 0.0)

    def say(self, place: int, now_s: float, n_waiting: int = 0) -> None:
        self.feeder.take(place, RankLoad(now_s, n_waiting))

    def add(
        self, name: str, n_tokens: int, now_s: float = 0.0, key: str = "", *blocks: int
    ) -> Waiting:
        hashes = chain(*blocks) if blocks else chain(*(hash((name, i)) for i in range(3)))
        waiting = Waiting(hashes, n_tokens, now_s, self.usable.copy(), key, tag=name)
        self.feeder.add(waiting, now_s)
        return waiting

    def pump(self, now_s: float = 0.0) -> list[tuple[str, int]]:
        return [(fed.waiting.tag, fed.place) for fed in self.pumped(now_s)]

    def pumped(self, now_s: float = 0.0) -> list[Fed]:
        return list(self.feeder.pump(now_s, self.usable))


def test_each_rank_is_fed_until_it_has_enough() -> None:
    ranks = Ranks()
    for number in range(6):
        ranks.add(f"r{number}", 1000)
    assert [place for _, place in ranks.pump()] == [0, 1]
    assert len(ranks.feeder.queue) == 4
    ranks.say(0, 0.5)
    assert ranks.pump(0.5) == [("r1", 0)] or len(ranks.feeder.queue) == 3


def test_a_rank_with_two_steps_in_flight_gets_no_third() -> None:
    """It has started all it has, and has work for longer than the next one takes to arrive."""
    ranks = Ranks(1)
    ranks.add("long", 4000)
    assert ranks.pump() == [("long", 0)]
    ranks.add("next", 500, 0.1)
    ranks.say(0, 1.9)
    assert ranks.pump(1.9) == []
    ranks.say(0, 2.1)
    assert ranks.pump(2.1) == [("next", 0)]


def test_what_is_fed_together_goes_apart() -> None:
    """Arriving together, both would end with the step in which they are computed."""
    ranks = Ranks(1, lead_s=0.16)
    ranks.add("short", 100)
    ranks.add("other", 150)
    assert ranks.pump(0.0) == [("short", 0)]
    assert ranks.pump(0.019) == []
    assert ranks.pump(0.021) == [("other", 0)]


def test_what_is_shorter_than_the_pace_does_not_let_a_rank_run_dry() -> None:
    ranks = Ranks(1, lead_s=0.16)
    for number in range(4):
        ranks.add(f"tiny {number}", 15)
    assert len(ranks.pump(0.0)) == 4


def test_shortest_goes_first_and_waiting_makes_shorter() -> None:
    ranks = Ranks(1)
    ranks.add("long", 5000)
    ranks.add("short", 1100)
    assert ranks.pump() == [("short", 0)]
    ranks.add("short 2", 1100, 20.0)
    ranks.say(0, 20.0)
    assert ranks.pump(20.0) == [("long", 0)]


def test_goes_where_its_prefix_is_even_if_that_is_busy() -> None:
    """Nine tenths of it are known there: half a second's wait is cheaper than the work."""
    ranks = Ranks()
    ranks.add("first", 1000, 0.0, "", *range(10))
    ((_, holder),) = ranks.pump()
    ranks.add("again", 1000, 0.0, "", *range(10))
    assert ranks.pump() == []
    ranks.say(holder, 0.6)
    assert ranks.pump(0.6) == [("again", holder)]


def test_only_where_it_may_go_and_who_is_usable() -> None:
    ranks = Ranks()
    waiting = ranks.add("picky", 100)
    waiting.places[0] = False
    ranks.feeder.remove(waiting)
    ranks.feeder.add(waiting, 0.0)
    ranks.usable[1] = False
    assert ranks.pump() == []
    ranks.usable[1] = True
    assert ranks.pump() == [("picky", 1)]


def test_without_a_fresh_word_nothing_is_held_back() -> None:
    """A rank that never speaks is waited for once, no longer than a word counts."""
    ranks = Ranks(1, is_told=False)
    for number in range(5):
        ranks.add(f"r{number}", 1000)
    assert len(ranks.pump()) == 1
    assert ranks.pump(1000.0) == []
    assert len(ranks.pump(1000.1)) == 4


def test_keys_share_by_tokens() -> None:
    """One key floods; of two equal ones the shorter goes, then the one that was given less."""
    ranks = Ranks(1)
    for number in range(10):
        ranks.add(f"flood {number}", 1000, key="flood")
    ranks.add("other", 3000, key="other")
    turns = []
    for second in range(6):
        ranks.say(0, float(second))
        for fed in ranks.pumped(float(second)):
            turns.append(fed.waiting.tag.partition(" ")[0])
            ranks.feeder.finish(fed, float(second), is_ok=False)
    assert turns == ["flood", "other", "flood", "flood", "flood", "flood"]


def test_one_without_room_is_passed_over() -> None:
    ranks = Ranks(1)
    ranks.add("first", 200)
    ranks.add("second", 300)
    fed = list(ranks.feeder.pump(0.0, ranks.usable, lambda waiting: waiting.tag != "first"))
    assert [one.waiting.tag for one in fed] == ["second"]
    ranks.say(0, 1.0)
    assert ranks.pump(1.0) == [("first", 0)]


def test_removed_requests_are_never_fed_and_rows_stay_right() -> None:
    ranks = Ranks(1, is_told=False)
    waiting = [ranks.add(f"r{number}", 100 + number) for number in range(200)]
    for number in range(0, 200, 2):
        assert ranks.feeder.remove(waiting[number])
        assert not ranks.feeder.remove(waiting[number])
    fed = [name for now_s in (0.0, 5000.0) for name, _ in ranks.pump(now_s)]
    assert sorted(fed) == sorted(f"r{number}" for number in range(1, 200, 2))


def test_what_was_fed_says_why() -> None:
    ranks = Ranks(1)
    ranks.add("first", 600, 1.0)
    (fed,) = ranks.pumped(3.0)
    assert (fed.waited_s, fed.wait_ahead_s, fed.n_uncached) == (2.0, 0.0, 600.0)
