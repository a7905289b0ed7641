"""One DP rank of the simulated prefill engine: chunked steps, two batches in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from app.clock import Clock
from app.sim.config import FAKE_HOST, SimConfig
from app.sim.counters import Counters
from app.sim.jobs import Job
from app.sim.kv_log import kv_log
from app.sim.prefix_cache import PrefixCache
from app.sim.queue_order import chunk_limit, next_job
from app.sim.rendezvous import Rendezvous
from app.sim.text import answer_pieces


class Slice(NamedTuple):
    """What one step computes of one job."""

    job: Job
    n_tokens: int
    is_last: bool


class PrefillRank:
    """One DP rank: its queue, its cache, its steps.

    A step computes at most ``chunk_tokens``; the next one is launched before
    the last one's result is looked at, and finished transfers are looked at
    once a step, so an answer comes up to a whole step after its transfer.
    """

    def __init__(
        self, config: SimConfig, counters: Counters, rendezvous: Rendezvous, now_s: Clock
    ) -> None:
        self.queue: deque[Job] = deque()
        self.running: list[Job] = []
        self.sending: list[tuple[float, Job, dict[str, Any]]] = []
        self.cache = PrefixCache(
            config.page_size, config.max_total_tokens, kv_log(config.has_kv_events)
        )
        self.n_held = 0
        self.n_computed = 0
        self.busy_us = 0
        self.bell = asyncio.Event()
        self._config = config
        self._counters = counters
        self._rendezvous = rendezvous
        self._now_s = now_s
        self._gpu_free_s = 0.0

    @property
    def has_work(self) -> bool:
        """Something waits or is computed."""
        return bool(self.queue) or self._gpu_free_s > self._now_s()

    def enqueue(self, job: Job) -> None:
        """A bootstrapped job waits for its first step."""
        job.n_uncached = len(job.prompt.ids) - self.cache.match(job.prompt.ids)
        job.n_computed_before = self.n_computed
        self.queue.append(job)
        self.bell.set()

    async def run(self) -> None:
        """Step for ever."""
        flying: tuple[float, list[Slice]] | None = None
        while True:
            batch = self._form()
            launched = self._launch(batch) if batch else None
            if flying is not None:
                ends_s, work = flying
                await asyncio.sleep(max(0.0, ends_s - self._now_s()))
                self._answer_sent()
                self._conclude(work)
            elif launched is None:
                await self._rest()
            flying = launched

    async def _rest(self) -> None:
        self.bell.clear()
        if not self.sending:
            await self.bell.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, self.sending[0][0] - self._now_s())):
                await self.bell.wait()
        except TimeoutError:
            self._answer_sent()

    def _form(self) -> list[Slice]:
        budget, policy = self._config.chunk_tokens, self._config.schedule_policy
        batch: list[Slice] = []
        self.running = [job for job in self.running if not job.is_over and job.n_left]
        unfinished = iter(tuple(self.running))
        while budget > 0:
            if (job := next(unfinished, None)) is not None:
                page = self._config.page_size
                most = chunk_limit(policy, job.n_left, self.queue, budget, page)
            else:
                is_one_split = any(not part.is_last for part in batch)
                job, most = self._admit(budget if is_one_split else None), budget
            if job is None:
                break
            n_tokens = min(most, job.n_left)
            job.n_left -= n_tokens
            budget -= n_tokens
            batch.append(Slice(job, n_tokens, is_last=job.n_left == 0))
        return batch

    def _admit(self, n_most: int | None) -> Job | None:
        """Takes the next request on; with another one under way only one that needs no more."""
        while self.queue and self.queue[0].is_over:
            self.queue.popleft()
        job = next_job(self._config.schedule_policy, self.queue, self.n_computed)
        if job is None or (n_most is not None and job.n_uncached > n_most):
            return None
        n_tokens = len(job.prompt.ids)
        if self.n_held + n_tokens > self._config.max_total_tokens:
            return None
        if len(self.running) >= self._config.max_running_requests:
            return None
        self.queue.remove(job)
        job.n_cached = self.cache.match(job.prompt.ids)
        job.n_uncached = job.n_left = n_tokens - job.n_cached
        self.n_held += n_tokens
        job.holds_kv = True
        self.running.append(job)
        return job

    def _launch(self, batch: list[Slice]) -> tuple[float, list[Slice]]:
        n_tokens = sum(part.n_tokens for part in batch)
        step_s = self._config.scaled(n_tokens / self._config.prefill_tokens_per_s)
        self._gpu_free_s = max(self._now_s(), self._gpu_free_s) + step_s
        # By its own clock, like everything that a worker tells: whoever divides tokens by it gets
        # the rate that is seen from outside.
        step_us = int(step_s * 1e6)
        self.busy_us += step_us
        self._counters.prefill_busy_us += step_us
        self._counters.n_steps += 1
        return self._gpu_free_s, batch

    def _conclude(self, work: list[Slice]) -> None:
        for part in work:
            job = part.job
            self.n_computed += part.n_tokens
            self._counters.computed_prompt_tokens += part.n_tokens
            if not part.is_last or job.is_over:
                continue
            self._counters.cached_prompt_tokens += job.n_cached
            self.cache.insert(job.prompt.ids)
            self._send(job)

    def _send(self, job: Job) -> None:
        transfer_s = self._config.scaled(len(job.prompt.ids) * self._config.transfer_s_per_token)
        first = answer_pieces(job.prompt, job.prompt.mark, 1, job.ignore_eos)[0]
        kv = {"mark": job.prompt.mark, "first": first, "cached": job.n_cached}
        if job.host == FAKE_HOST:
            transfer_s = 0.0
        elif transfer_s:
            room = self._rendezvous.room(job.room)
            asyncio.get_running_loop().call_later(transfer_s, room.settle, kv)
        else:
            self._rendezvous.room(job.room).settle(kv)
        job.emit(first)
        self.sending.append((self._now_s() + transfer_s, job, kv))
        self.sending.sort(key=lambda item: item[0])

    def _answer_sent(self) -> None:
        now_s = self._now_s()
        while self.sending and self.sending[0][0] <= now_s:
            _, job, kv = self.sending.pop(0)
            if not job.is_over and not job.is_widowed:
                if job.host != FAKE_HOST:
                    self._rendezvous.room(job.room).settle(kv)
                self._counters.n_transfers += 1
                self._counters.generated_tokens += 1
                job.end({"type": "length", "length": 0})

    def release(self, job: Job) -> None:
        """The job is over: its KV is free."""
        if job.holds_kv:
            job.holds_kv = False
            self.n_held -= len(job.prompt.ids)
        self.bell.set()
