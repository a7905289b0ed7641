"""Predictions of cached tokens against what engines report, and what a flush does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.scheduling.hit_checks import HitChecks
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.scheduler import Grant, Outcome
from tests.unit.scheduling import test_queue_scheduler
from tests.unit.scheduling.test_feeder import Ranks
from tests.unit.scheduling.test_queue_scheduler import Fleet


def test_an_engine_that_has_never_told_of_a_hit_is_left_alone() -> None:
    checks = HitChecks()
    assert not any(checks.note(0, 10_000, 0) for _ in range(20))
    assert not checks.note(1, 10_000, 9000)
    assert [checks.note(1, 10_000, 0) for _ in range(8)].index(True) == 2


def test_few_misses_and_hits_that_nobody_predicted_change_nothing() -> None:
    checks = HitChecks()
    assert not any(checks.note(0, 1000, 0 if turn % 2 else 1000) for turn in range(200))
    assert not any(checks.note(1, 0, 5000) for _ in range(20))
    checks.note(0, 60_000, 0)
    checks.restart(0)
    assert not checks.note(0, 10_000, 0)
    checks.restart(1, is_new=True)
    assert not any(checks.note(1, 10_000, 0) for _ in range(20))


def test_a_rank_whose_hits_do_not_come_is_taken_for_empty() -> None:
    ranks = Ranks(1)
    blocks = tuple(range(100))
    predicted = []
    for turn, n_cached in enumerate((0, 9999, 0, 0, 0, 0, 0)):
        now_s = 100.0 * turn
        ranks.say(0, now_s)
        ranks.add(f"r{turn}", 10_000, now_s, "", *blocks)
        (fed,) = ranks.pumped(now_s)
        predicted.append(round(fed.waiting.n_tokens - fed.n_uncached))
        ranks.feeder.finish(fed, now_s + 1, is_ok=True, n_cached=n_cached)
    assert predicted == [0, 9999, 9999, 9999, 9999, 9999, 0]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet(QueueLimits(poll_s=100.0))
    yield made
    made.scheduler.close()
    assert made.is_clean()


async def predicted_hit(fleet: Fleet) -> int:
    """Tokens that the index takes for cached of the one prompt that is asked here."""
    fleet.say_empty()
    grant: Grant = await fleet.ask(100)
    await asyncio.sleep(0)
    n_uncached = fleet.scheduler.view.rank_states()[0].n_unstarted_tokens
    fleet.scheduler.done(grant, Outcome.OK)
    return round(100 - n_uncached)


@pytest.mark.parametrize("event", ["flushed", "restarted"])
async def test_a_flush_or_a_restart_empties_what_is_known(
    fleet: Fleet, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(test_queue_scheduler.FACTS, prompt_key=b"x" * 512)
    monkeypatch.setattr(test_queue_scheduler, "FACTS", facts)
    assert await predicted_hit(fleet) == 0
    assert await predicted_hit(fleet) == 99
    fleet.registry.announce(event, fleet.prefill)
    assert await predicted_hit(fleet) == 0
