"""What the prefill queue costs: a grant, a choice among many that wait, the prefix index.

Times are CPU time of the process, so that what else runs on the machine counts little. Run it by
``make bench-scheduling``.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.policies.catalog import POLICIES
from app.policies.least_load import LeastLoad
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling import entering
from app.scheduling.prefix_index import PrefixIndex
from app.scheduling.prompt_blocks import BLOCK_TOKENS
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import Ask, Grant, LocalScheduler, Outcome, Scheduler
from app.workers.rank_load import RankLoad
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

N_TOKENS = 32_768
N_BLOCKS = N_TOKENS // BLOCK_TOKENS
N_DECISIONS = 1000
FACTS = replace(peek(Route.GENERATE, b'{"text":"x"}'), n_prompt_tokens=N_TOKENS, max_tokens=10)


def line(what: str, times_s: list[float], limit: str = "") -> None:
    """Prints the middle, the tail and the longest of some times."""
    ordered = sorted(times_s)
    shown = (ordered[int(share * (len(ordered) - 1))] * 1e6 for share in (0.5, 0.99, 1.0))
    print(f"{what:<44} {' '.join(f'{us:10.0f}' for us in shown)}   {limit}", flush=True)


class Fleet:
    """A scheduler with a queue before many idle pairs, each just heard of."""

    def __init__(self, n_pairs: int, n_places: int = 192) -> None:
        registry, self._prefills = _workers(n_pairs)
        early = LocalScheduler(registry, LeastLoad(), LeastLoad(), time.monotonic)
        limits = QueueLimits(poll_s=100.0, n_places=n_places)
        self.scheduler = QueueScheduler(early, registry, time.monotonic, limits)

    def say_idle(self) -> None:
        """Every prefill worker tells that nothing waits there."""
        now_s = time.monotonic()
        for worker in self._prefills:
            self.scheduler.take(worker, {0: RankLoad(now_s, 0)})

    async def grants(self, prompts: list[NDArray[np.uint64]]) -> list[float]:
        """The time of each grant, hashes at hand and nothing waiting."""
        times_s = []
        for prompt in prompts:
            setattr(entering, "block_hashes", lambda _facts, found=prompt: found)  # noqa: B010
            began_s = time.thread_time()
            grant = await self.scheduler.ask(Ask(FACTS))
            times_s.append(time.thread_time() - began_s)
            self.scheduler.done(grant, Outcome.OK)
            await asyncio.sleep(0)
        return times_s

    async def waiting(self, n_waiting: int) -> list[float]:
        """The time that it takes to feed one of many that wait, when a prefill has ended."""
        numbers = np.random.default_rng(2)
        hashes = partial(numbers.integers, 1, 2**63, N_BLOCKS, np.uint64)
        setattr(entering, "block_hashes", lambda _facts: hashes())  # noqa: B010
        n_asked = n_waiting + len(self._prefills)
        times_s = []
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self.scheduler.ask(Ask(FACTS))) for _ in range(n_asked)]
            # Until what was sent counts as arrived.
            await asyncio.sleep(0.2)
            for grant in [task.result() for task in asked if task.done()]:
                n_before = self.scheduler.n_waiting
                began_s = time.thread_time()
                self.scheduler.prefill_ended(grant)
                if n_fed := n_before - self.scheduler.n_waiting:
                    times_s.append((time.thread_time() - began_s) / n_fed)
                await asyncio.sleep(0)
            for task in asked:
                task.cancel()
        for task in asked:
            if not task.cancelled():
                self.scheduler.done(task.result(), Outcome.OK)
        return times_s


def _workers(n_pairs: int) -> tuple[Registry, list[Worker]]:
    """A registry of ready pairs, and the prefill workers among them."""
    registry, prefills = Registry(now_s=time.monotonic), []
    info = WorkerInfo(("m",), chunked_prefill_size=8192, max_total_tokens=4_000_000)
    for role in (Role.PREFILL, Role.DECODE):
        for number in range(n_pairs):
            worker = registry.add(WorkerSpec(f"http://{role}-{number}", role))
            registry.set_info(worker, info)
            registry.set_state(worker, State.READY)
            if role is Role.PREFILL:
                prefills.append(worker)
    return registry, prefills


async def decisions(n_pairs: int) -> None:
    """Prints how many requests a second one core decides on, by the queue and by each policy.

    From asking to giving back, half as many requests under way as there are pairs. Nobody waits.
    """
    where = f"{n_pairs} pairs, {n_pairs // 2} requests under way"
    print(f"{where:<44} {'a second':>10}", flush=True)
    numbers = np.random.default_rng(1)
    # A prompt comes again once it has been given back: its holder is free then.
    texts = [numbers.bytes(4 * N_TOKENS) for _ in range(n_pairs // 2 + 1)]
    asks = [Ask(replace(FACTS, model="m", prompt_key=text)) for text in texts]
    fleet = Fleet(n_pairs, n_places=n_pairs)
    fleet.say_idle()
    hashes = {id(ask.facts): entering.block_hashes(ask.facts) for ask in asks}
    setattr(entering, "block_hashes", lambda facts: hashes[id(facts)])  # noqa: B010
    print(f"{'queue, hashes at hand':<44} {await _rate(fleet.scheduler, asks, n_pairs):10,.0f}")
    registry, _ = _workers(n_pairs)
    for name in ("least_load", "round_robin", "power_of_two", "cache_aware", "prefix_hash"):
        scheduler = LocalScheduler(registry, POLICIES[name](), LeastLoad(), time.monotonic)
        print(f"{name:<44} {await _rate(scheduler, asks, n_pairs):10,.0f}", flush=True)


async def _rate(scheduler: Scheduler, asks: list[Ask], n_pairs: int) -> float:
    under_way: deque[Grant] = deque()
    began_s = time.thread_time()
    for number in range(n_pairs // 2 + N_DECISIONS):
        if number == n_pairs // 2:
            began_s = time.thread_time()
        under_way.append(await scheduler.ask(asks[number % len(asks)]))
        if number >= n_pairs // 2:
            grant = under_way.popleft()
            scheduler.prefill_ended(grant)
            scheduler.done(grant, Outcome.OK)
        # What the queue does after its answer is part of it.
        await asyncio.sleep(0)
    took_s = time.thread_time() - began_s
    scheduler.close()
    for grant in under_way:
        scheduler.done(grant, Outcome.OK)
    return N_DECISIONS / took_s


def fill(index: PrefixIndex, n_blocks: int, n_ranks: int) -> list[float]:
    """The time of each look-up and entry of a prompt while an index is filled."""
    numbers = np.random.default_rng(1)
    times_s = []
    for turn in range(n_blocks // N_BLOCKS):
        prompt = numbers.integers(1, 2**63, N_BLOCKS).astype(np.uint64)
        began_s = time.thread_time()
        index.known(prompt)
        index.add(turn % n_ranks, prompt)
        times_s.append(time.thread_time() - began_s)
    return times_s


async def grants(n_pairs: int) -> None:
    """Prints what grants and choices cost."""
    fleet = Fleet(n_pairs)
    numbers = np.random.default_rng(1)
    prompts = [numbers.integers(1, 2**63, N_BLOCKS).astype(np.uint64) for _ in range(300)]
    where = f"{n_pairs} pairs, {N_TOKENS} tokens"
    fleet.say_idle()
    line(f"grant, new prompt, {where}", await fleet.grants(prompts), "100 us")
    fleet.say_idle()
    line(f"grant, known prompt, {where}", await fleet.grants(prompts), "100 us")
    fleet.scheduler.close()
    for n_waiting in (100, 1000):
        fleet = Fleet(n_pairs)
        fleet.say_idle()
        line(f"one fed of {n_waiting} that wait", await fleet.waiting(n_waiting))
        fleet.scheduler.close()


def index(n_mb: int, n_blocks: int) -> None:
    """Prints what an index of many blocks costs."""
    made = _timed(lambda: PrefixIndex(n_mb * 1_000_000, 192))
    line(f"index of {n_mb} MB: made, at start", [made[1]])
    for rank in range(192):
        made[0].add_rank(rank, n_blocks // 192)
    line(f"prompt of {N_BLOCKS} blocks looked up and added", fill(made[0], n_blocks, 192), "10 ms")
    n_held = made[0].n_held
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{n_held / 1e6:.1f} million blocks held, {n_mb * 1e6 / n_held:.1f} bytes a block (limit "
        f"40); most memory of this process {resident} MiB"
    )


def _timed(make: Callable[[], PrefixIndex]) -> tuple[PrefixIndex, float]:
    began_s = time.thread_time()
    made = make()
    return made, time.thread_time() - began_s


def main() -> None:
    """Prints everything."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--pairs", type=int, default=100)
    words.add_argument("--index-mb", type=int, default=400)
    words.add_argument("--blocks", type=int, default=15_000_000)
    words.add_argument("--decisions", type=int, metavar="PAIRS", help="only decisions a second")
    asked = words.parse_args()
    if asked.decisions:
        asyncio.run(decisions(asked.decisions))
        return
    print(f"{'microseconds of CPU':<44} {'p50':>10} {'p99':>10} {'longest':>10}   limit")
    asyncio.run(grants(asked.pairs))
    index(asked.index_mb, asked.blocks)


if __name__ == "__main__":
    main()
