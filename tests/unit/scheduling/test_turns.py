"""Classes and shares in the order of the queue."""

from __future__ import annotations

from app.scheduling.key_shares import KeyShares
from app.scheduling.standing import NO_CLASS, SloClass
from app.scheduling.wait_queue import Waiting
from app.workers.rank_load import RankLoad
from tests.unit.scheduling.test_feeder import Ranks
from tests.unit.scheduling.test_prefix_index import chain

HIGH, LOW = SloClass("high", 1), SloClass("low", -1)
SOON = SloClass("soon", ttft_s=4.0)


def add(
    ranks: Ranks, name: str, n_tokens: int, now_s: float, slo: SloClass = NO_CLASS, key: str = ""
) -> Waiting:
    hashes = chain(*(hash((name, i)) for i in range(3)))
    waiting = Waiting(hashes, n_tokens, now_s, ranks.usable.copy(), key, slo, tag=name)
    ranks.feeder.add(waiting, now_s)
    return waiting


def served(ranks: Ranks, n_turns: int, now_s: float) -> list[str]:
    """Who is fed by one rank that has always finished what it was given."""
    names = []
    for turn in range(n_turns):
        at_s = now_s + turn * 1e-3
        ranks.say(0, at_s)
        for fed in ranks.pumped(at_s):
            names.append(fed.waiting.tag)
            ranks.feeder.finish(fed, at_s, is_ok=False)
    return names


def test_higher_priority_goes_first_but_not_for_ever() -> None:
    """A level is worth ten seconds of waiting."""
    ranks = Ranks(1)
    for name, slo in (("low", LOW), ("plain", NO_CLASS), ("high", HIGH)):
        add(ranks, name, 1000, 0.0, slo)
    assert served(ranks, 3, 0.0) == ["high", "plain", "low"]
    ranks = Ranks(1)
    add(ranks, "low", 1000, 0.0, LOW)
    add(ranks, "fresh", 1000, 21.0)
    assert served(ranks, 2, 21.0) == ["low", "fresh"]


def test_a_target_that_is_near_draws_forward_and_one_that_is_missed_does_not() -> None:
    """Two seconds of work, four until the target: nothing is urgent at first."""
    for now_s, expected in ((0.0, "short"), (1.5, "soon"), (2.1, "short")):
        ranks = Ranks(1, lead_s=0.16)
        add(ranks, "soon", 2000, 0.0, SOON)
        add(ranks, "short", 200, now_s)
        assert served(ranks, 1, now_s) == [expected], now_s


def test_keys_share_within_a_priority() -> None:
    ranks = Ranks(1)
    for number in range(4):
        add(ranks, f"flood {number}", 1000, 0.0, HIGH, "flood")
    add(ranks, "other", 3000, 0.0, HIGH, "other")
    add(ranks, "low", 1000, 0.0, LOW, "third")
    names = [name.partition(" ")[0] for name in served(ranks, 6, 0.0)]
    assert names == ["flood", "other", "flood", "flood", "flood", "low"]


def test_nothing_is_told_of_a_rank_whose_rate_is_a_guess() -> None:
    ranks = Ranks(1)
    for number in range(5):
        add(ranks, f"r{number}", 10_000, 0.0, SOON)
    late = add(ranks, "late", 10_000, 0.0, SloClass("late", deadline_s=3.0))
    assert ranks.feeder.reach.predicted_s(late, 0.0, ranks.usable) == 0
    assert ranks.feeder.reach.unreachable(0.0, ranks.usable) == []
    assert ranks.feeder.reach.unreachable(3.1, ranks.usable) == [late]


def test_a_wait_is_predicted_from_what_goes_before() -> None:
    ranks = Ranks(1)
    for second in (1.0, 5.0):
        n_us = int(second * 1e6)
        ranks.feeder.take(0, RankLoad(0.0, 0, 0, n_us // 1000, n_us))
    for number in range(5):
        add(ranks, f"r{number}", 1000, 0.0)
    add(ranks, "longer", 9000, 0.0)
    late = add(ranks, "late", 3000, 0.0, SloClass("late", deadline_s=7.9))
    assert round(ranks.feeder.reach.predicted_s(late, 0.0, ranks.usable), 1) == 8.0
    assert ranks.feeder.reach.unreachable(4.8, ranks.usable) == []
    assert ranks.feeder.reach.unreachable(5.0, ranks.usable) == [late]


def test_keys_that_have_nothing_waiting_are_forgotten() -> None:
    """Anybody may make up keys; the ones that wait keep their counts."""
    shares = KeyShares()
    shares.enter("stays")
    for number in range(5000):
        shares.enter(f"made up {number}")
        shares.leave(f"made up {number}")
        shares.charge(f"made up {number}", 10.0)
    assert len(shares) < 2000
    shares.leave("stays")
    assert len(shares) == 0


def test_who_was_away_starts_level_with_those_that_wait() -> None:
    ranks = Ranks(1)
    for number in range(9):
        add(ranks, f"old {number}", 1000, 0.0, key="old")
    add(ranks, "away 0", 1000, 0.0, key="away")
    assert [name.partition(" ")[0] for name in served(ranks, 6, 0.0)].count("old") == 5
    for number in range(3):
        add(ranks, f"away {number + 1}", 1000, 1.0, key="away")
    assert [name.partition(" ")[0] for name in served(ranks, 4, 1.0)].count("away") == 2
