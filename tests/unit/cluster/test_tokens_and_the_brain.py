"""A brain is told no tokens, and decides by them as one process does."""

from __future__ import annotations

import time
from array import array
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from app.cluster import ask_words
from app.cluster.ask_words import Wants, read_ask, words_of
from app.gateway.wants import wants_of
from app.policies.least_load import LeastLoad
from app.scheduling.grant import Ask, Outcome
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.running_policies import NamedPolicy, RunningPolicies
from app.scheduling.scheduler import LocalScheduler
from app.scheduling.token_prompt import TokenPrompt, token_prompt
from app.workers.kv_events import Stored
from app.workers.rank_load import RankLoad
from app.workers.states import State
from app.workers.worker import Role, WorkerSpec
from tests.unit.cluster.rig import FACTS, Rig, until

SIZE = 16
N_BLOCKS = 8
HELD = [list(range(first, first + N_BLOCKS * SIZE)) for first in (1000, 2000)]
"""What each prefill worker tells that it has."""
URLS = ["http://p", "http://p2"]


async def test_a_shared_prefix_finds_its_worker_through_the_brain(
    rig: Rig, stack: AsyncExitStack
) -> None:
    """The worker that holds the tokens, with as much of them cached as one process expects."""
    brain = rig.brain()
    early = LocalScheduler(brain.registry, LeastLoad(), LeastLoad())
    limits = QueueLimits(poll_s=60.0, kv_bytes=1 << 20)
    queue = QueueScheduler(early, brain.registry, time.monotonic, limits)
    stack.callback(queue.close)
    named = {role: NamedPolicy("least_load", {}) for role in early.slots}
    policies = RunningPolicies(early.slots, named, {}, time.monotonic, lambda *_: None)
    brain.scheduler = queue  # type: ignore[assignment]
    brain.seat.wants = lambda: wants_of(policies, queue)
    await stack.enter_async_context(brain.running())
    brain.registry.add(WorkerSpec(URLS[1], Role.PREFILL))
    workers = [brain.worker(url) for url in URLS]
    await until(lambda: workers[1].state is State.READY)
    assert queue.kv is not None
    for worker, ids in zip(workers, HELD, strict=True):
        queue.take(worker, {0: RankLoad(time.monotonic(), 0)})
        queue.kv.admit(worker, 0, 0)
        stored = Stored(range(ids[0], ids[0] + N_BLOCKS), None, array("I", ids).tobytes(), SIZE)
        queue.kv.take(worker, 0, stored)
    pipe = await stack.enter_async_context(rig.pipe())
    # The same text, and an estimate that is wrong: only the tokens tell them apart.
    facts = replace(FACTS, model="m", prompt_key=b"word " * 1000, n_prompt_tokens=1250)
    for url, ids in zip(URLS, HELD, strict=True):
        seen = []
        for scheduler in (queue, pipe.scheduler):
            ask = Ask(facts, token_ids=[*ids, 7, 8, 9])
            grant = await scheduler.ask(ask)
            queued = grant.reason.queued
            assert queued is not None
            seen.append((grant.pair.prefill.spec.url, queued.n_uncached_tokens))
            scheduler.done(grant, Outcome.OK)
            await until(lambda: brain.n_leases == 0)
        assert seen == [(url, 3.0)] * 2


def test_only_so_many_blocks_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each size that is looked up; without one the number of tokens alone."""
    monkeypatch.setattr(ask_words, "MAX_BLOCKS", 3)
    ids = HELD[0]
    whole = TokenPrompt(array("I", ids).tobytes(), len(ids))
    ask = Ask(FACTS, token_ids=ids)
    read = token_prompt(read_ask(words_of(ask, Wants(block_sizes=(SIZE, 32)))))
    assert read is not None
    assert read.n_tokens == len(ids)
    assert list(read.chains(SIZE)) == whole.chains(SIZE)[:3]
    assert list(read.chains(32)) == whole.chains(32)[:3]
    assert len(whole.chains(64)) == 1
    assert list(read.chains(64)) == []
    for wants in (Wants(), Wants(block_sizes=())):
        prompt = read_ask(words_of(ask, wants)).prompt
        assert (prompt is None) is (wants.block_sizes is None)
