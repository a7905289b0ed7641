"""One DP rank of a simulated vLLM engine: a queue, a step loop, chunked prefill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from app.sim.kv_log import kv_log
from app.sim.prefix_cache import PrefixCache
from app.sim.vllm_config import VllmConfig
from app.sim.vllm_connector import Connector
from app.sim.vllm_counters import VllmCounters
from app.sim.vllm_job import VllmJob


class VllmRank:
    """Steps like vLLM's scheduler.

    Every step gives each decoding sequence one token and the rest of ``chunk_tokens`` to
    prompts, first come, first served. A sequence is admitted when there is a slot and room for
    its prompt; one whose KV is loaded holds only the room while it waits for it. If it is aborted
    meanwhile, the room is held until the load has ended: somebody may be writing to it.

    Args:
        number: Which rank.
        config: The worker.
        counters: Where it counts.
        connector: Knows which jobs load their KV.
        start_load: Begins to load a job's KV; ``loaded`` or ``load_failed`` must follow.
        plan: Decides what a job says, once its KV is there.
    """

    def __init__(
        self,
        number: int,
        config: VllmConfig,
        counters: VllmCounters,
        connector: Connector,
        start_load: Callable[[VllmJob, int], None],
        plan: Callable[[VllmJob], None],
    ) -> None:
        self.waiting: deque[VllmJob] = deque()
        self.receiving: set[VllmJob] = set()
        """Loads that are under way, also those of requests that are over."""
        self.arrived: deque[VllmJob] = deque()
        self.running: list[VllmJob] = []
        self.cache = PrefixCache(
            config.block_size, config.max_total_tokens, kv_log(config.has_kv_events)
        )
        self.n_held = 0
        self.n_cached = 0
        self.n_asked = 0
        self.bell = asyncio.Event()
        self._number = number
        self._config = config
        self._counters = counters
        self._connector = connector
        self._start_load = start_load
        self._plan = plan

    def enqueue(self, job: VllmJob) -> None:
        """A job waits for its first step."""
        if not job.is_over:
            self.waiting.append(job)
            self.bell.set()

    async def run(self) -> None:
        """Step for ever."""
        while True:
            batch = self._form()
            if not batch:
                self.bell.clear()
                await self.bell.wait()
                continue
            n_prefill = sum(n for job, n in batch if job.n_left)
            step_s = n_prefill / self._config.prefill_tokens_per_s
            if any(not job.n_left for job, _ in batch):
                step_s += self._config.decode_step_s
            self._counters.n_steps += 1
            self._counters.prefill_busy_us += int(step_s * 1e6)
            await asyncio.sleep(self._config.scaled(step_s))
            for job, n_tokens in batch:
                if not job.is_over:
                    self._conclude(job, n_tokens)

    def loaded(self, job: VllmJob) -> None:
        """A job's KV is there: only its last position is left to compute."""
        if not self._is_orphan(job):
            job.n_left = 1
            self._arrive(job)

    def load_failed(self, job: VllmJob) -> None:
        """No KV came."""
        self._counters.n_load_failures += 1
        if self._is_orphan(job):
            return
        if self._config.load_failure_policy == "fail":
            job.end("error")
            return
        self._compute(job)

    def release(self, job: VllmJob) -> None:
        """The job is over: its KV is free, or pinned and counted there, or still being loaded."""
        if job not in self.receiving:
            self.n_held -= job.n_held
            job.n_held = 0
            self.bell.set()

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        for queue in (self.waiting, self.arrived, self.receiving, self.running):
            queue.clear()
        self.n_held = 0

    @property
    def n_orphaned(self) -> int:
        """Tokens of KV cache that requests hold which are over: what they load may yet come."""
        return sum(job.n_held for job in self.receiving if job.is_over)

    @property
    def n_room(self) -> int:
        """Tokens of KV cache that are neither held nor pinned."""
        pinned = self._connector.pins.n_tokens(self._number)
        return self._config.max_total_tokens - self.n_held - pinned

    def _form(self) -> list[tuple[VllmJob, int]]:
        self.running = [job for job in self.running if not job.is_over]
        self._admit()
        batch = [(job, 1) for job in self.running if not job.n_left]
        budget = self._config.chunk_tokens - len(batch)
        for job in self.running:
            if budget <= 0:
                break
            if job.n_left:
                n_tokens = min(job.n_left, budget)
                budget -= n_tokens
                batch.append((job, n_tokens))
        return batch

    def _admit(self) -> None:
        while len(self.running) < self._config.max_num_seqs and (self.arrived or self.waiting):
            if self.arrived:
                # What holds room already comes first.
                job = self.arrived.popleft()
                if not job.is_over:
                    self._run(job)
                continue
            job = self.waiting[0]
            if not job.is_over and job.n_prompt > self.n_room:
                return
            self.waiting.popleft()
            if job.is_over:
                continue
            job.n_held = job.n_prompt
            self.n_held += job.n_prompt
            if self._connector.loads(job):
                self.receiving.add(job)
                self._start_load(job, self.cache.match(job.prompt_ids))
            else:
                self._compute(job)

    def _is_orphan(self, job: VllmJob) -> bool:
        """A load ended; whether its request did before, so that only its room is left."""
        self.receiving.discard(job)
        if job.is_over:
            self._counters.n_orphaned_loads += 1
            self.release(job)
        return job.is_over

    def _arrive(self, job: VllmJob) -> None:
        self.arrived.append(job)
        self.bell.set()

    def _compute(self, job: VllmJob) -> None:
        """Have a job's prompt computed here."""
        # Prompt logprobs need every position computed, so vLLM does not read the cache then.
        n_cached = 0 if job.params.HasField("prompt_logprobs") else self.cache.match(job.prompt_ids)
        job.n_cached = n_cached
        job.n_left = job.n_prompt - n_cached
        self._counters.cached_prompt_tokens += n_cached
        self._arrive(job)

    def _run(self, job: VllmJob) -> None:
        self.n_asked += job.n_prompt
        self.n_cached += job.n_cached
        self.running.append(job)

    def _conclude(self, job: VllmJob, n_tokens: int) -> None:
        if job.n_left:
            job.n_left -= n_tokens
            self._counters.computed_prompt_tokens += n_tokens
            if job.n_left:
                return
            self.cache.insert(job.prompt_ids)
            self._plan(job)
        if job.plan is None:
            raise RuntimeError("a sequence decodes without a plan")
        job.n_said += 1
        job.n_held += 1
        self.n_held += 1
        self._counters.generated_tokens += 1
        if job.n_said >= len(job.plan.ids):
            job.end(job.plan.finish_reason)
        else:
            job.bell.set()
