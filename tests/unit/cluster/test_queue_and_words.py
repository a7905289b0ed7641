"""The queue behind the brain, and what of a request is said to it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace

from app.cluster.ask_words import Wants, read_ask, read_reason, reason_words, words_of
from app.policies.least_load import LeastLoad
from app.scheduling.grant import Ask, Outcome
from app.scheduling.prompt_blocks import block_hashes
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.reason import Choice, Queued, Reason
from app.scheduling.scheduler import LocalScheduler
from app.scheduling.standing import SloClass, Standing
from app.workers.rank_load import RankLoad
from tests.unit.cluster.rig import FACTS, Rig, until

LONG = replace(FACTS, model="m", prompt_key=b"word " * 1000, prefix_salt=b"s", n_prompt_tokens=1250)


def test_hashes_are_sent_in_place_of_the_prompt() -> None:
    """The brain finds the same blocks, and no more of the text than a policy reads."""
    standing = Standing("key", SloClass("fast", priority=3, ttft_s=0.5))
    ask = Ask(replace(LONG, max_tokens=7, batch=2, routing_key=b"r"), frozenset({"w"}), standing)
    read = read_ask(words_of(ask, Wants(10, has_index=True)))
    assert block_hashes(read.facts).tolist() == block_hashes(ask.facts).tolist()
    assert len(block_hashes(read.facts)) == 9
    assert read.facts.prompt_key == b"word word "
    assert (read.facts.model, read.facts.batch, read.facts.max_tokens) == ("m", 2, 7)
    assert (read.facts.n_prompt_tokens, read.facts.routing_key) == (1250, b"r")
    assert (read.excluded, read.standing) == (frozenset({"w"}), standing)
    assert read_ask(words_of(ask, Wants())).facts.prompt_key == b""


def test_reasons_come_back_as_they_were() -> None:
    choice = Choice("http://p", "cache_aware", "hit", 2, 1, "http://q")
    for queued in (None, Queued(0.1, 0.2, 3.0, 0.4)):
        reason = Reason(choice, choice, 1, 0, queued)
        assert read_reason(reason_words(reason)) == reason


async def test_who_leaves_the_far_queue_is_gone_at_once(rig: Rig, stack: AsyncExitStack) -> None:
    """And a request that waits is granted once the rank can start it."""
    brain = rig.brain()
    early = LocalScheduler(brain.registry, LeastLoad(), LeastLoad())
    queue = QueueScheduler(early, brain.registry, time.monotonic, QueueLimits(poll_s=5.0))
    brain.scheduler = queue  # type: ignore[assignment]
    brain.seat.wants = lambda: Wants(0, has_index=True)
    stack.callback(queue.close)
    await stack.enter_async_context(brain.running())
    pipe = await stack.enter_async_context(rig.pipe())

    def say_empty() -> None:
        queue.take(brain.worker("http://p"), {0: RankLoad(time.monotonic(), 0)})

    say_empty()
    facts = {"n_prompt_tokens": 500_000, "prompt_key": LONG.prompt_key}
    first = await pipe.ask(**facts)
    async with asyncio.TaskGroup() as tasks:
        second, third = tasks.create_task(pipe.ask(**facts)), tasks.create_task(pipe.ask(**facts))
        await until(lambda: queue.n_waiting == 2)
        third.cancel()
        await until(lambda: queue.n_waiting == 1)
        pipe.scheduler.prefill_ended(first)
        pipe.scheduler.done(first, Outcome.OK)
        await until(lambda: brain.n_leases == 2 or queue.n_waiting == 0)
        say_empty()
        granted = await second
    assert granted.reason.queued is not None
    assert granted.reason.queued.n_uncached_tokens < 500_000
    pipe.scheduler.done(granted, Outcome.OK)
    await until(lambda: brain.n_leases == 0)
