"""The simulated vLLM engine: its ranks, its requests by id, aborts and load numbers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from app.clock import Clock
from app.sim.vllm_config import VllmConfig
from app.sim.vllm_connector import Connector
from app.sim.vllm_counters import VllmCounters
from app.sim.vllm_job import LoadFailure, VllmJob
from app.sim.vllm_pins import Pins
from app.sim.vllm_rank import VllmRank
from app.sim.vllm_tokens import SimTokenizer, make_plan, prompt_mark
from app.upstream.generated import vllm_engine_pb2 as pb


class VllmEngine:
    """Made once for a worker; ``reset`` makes it as good as a new process.

    Args:
        config: The worker.
        counters: Where it counts.
        tokenizer: Makes its output.
        script: Returns what to say instead of the usual, or None.
        now_s: Clock in seconds.
    """

    def __init__(
        self,
        config: VllmConfig,
        counters: VllmCounters,
        tokenizer: SimTokenizer,
        script: Callable[[], str | None],
        now_s: Clock,
    ) -> None:
        self.pins = Pins(config, counters, self._freed, now_s)
        self.connector = Connector(config, counters, self.pins, now_s)
        self.ranks = [
            VllmRank(number, config, counters, self.connector, self._start_load, self._plan)
            for number in range(config.dp_size)
        ]
        self.jobs: dict[str, list[VllmJob]] = {}
        self.number = 0
        """Another one for each process that it stands for."""
        self._config = config
        self._counters = counters
        self._tokenizer = tokenizer
        self._script = script
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._new_identity()

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Step every rank until cancelled."""
        self._group = group
        async with asyncio.TaskGroup() as steps:
            steps.create_task(self.connector.beat())
            for rank in self.ranks:
                steps.create_task(rank.run())

    def submit(self, job: VllmJob, rank: int | None) -> None:
        """Take a job in.

        Raises:
            EngineCrash: It breaks what the connector asserts.
        """
        self.connector.check(job)
        job.rank = self._least_loaded() if rank is None else rank
        job.on_over = self._over
        self.jobs.setdefault(job.external_id, []).append(job)
        if self.connector.loads(job):
            self.connector.queued(job)
        enqueue = self.ranks[job.rank].enqueue
        if self._config.lead_s:
            lead_s = self._config.scaled(self._config.lead_s)
            asyncio.get_running_loop().call_later(lead_s, enqueue, job)
        else:
            enqueue(job)

    def abort(self, external_id: str) -> None:
        """End every request of this id; an unknown one is ignored."""
        for job in tuple(self.jobs.get(external_id, ())):
            self._counters.aborted.append(external_id)
            self.drop(job)

    def drop(self, job: VllmJob) -> None:
        """A job is aborted. One whose KV was never used lets prefill know."""
        was_loading = job in self.ranks[job.rank].receiving
        is_unused = job.n_said == 0
        job.end("abort")
        # A load that is under way ends by itself, and tells prefill then.
        if is_unused and not was_loading:
            self.release(job)

    def release(self, job: VllmJob) -> None:
        """Have prefill told that a job will not read its blocks."""
        if self.connector.loads(job) and not job.is_dead:
            self._start(self.connector.release(job))

    def unread(self, external_id: str, kv: dict[str, Any]) -> None:
        """The servicer says that a request ended before its first output.

        It may never have come here, so a request that is aborted at once is made of it, whose
        only effect is that prefill is told (``notify_kv_transfer_request_rejected``). With
        Mooncake that is one more ask, and where the blocks are gone already it waits in vain.
        """
        job = VllmJob(
            external_id=external_id,
            internal_id="",
            prompt_ids=(),
            params=pb.SamplingParams(),
            is_stream=False,
            kv=kv,
        )
        self.release(job)

    def flush(self) -> bool:
        """Empty the prefix caches; False while requests run."""
        if self.jobs:
            return False
        for rank in self.ranks:
            rank.cache.clear()
        return True

    def reset(self) -> None:
        """Forget every request, every pin and the cache, as a new process would."""
        for jobs in tuple(self.jobs.values()):
            for job in tuple(jobs):
                job.is_dead = True
                job.end("abort")
        for task in tuple(self._tasks):
            task.cancel()
        self.connector.clear()
        for rank in self.ranks:
            rank.clear()
            rank.cache.restart()
        self._new_identity()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None:
            raise RuntimeError("the engine does not run yet")
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _new_identity(self) -> None:
        self.number += 1
        self.connector.engine_id = self._config.engine_id or str(uuid.uuid4())

    def _least_loaded(self) -> int:
        sizes = [
            len(r.waiting) + len(r.receiving) + len(r.arrived) + len(r.running) for r in self.ranks
        ]
        return sizes.index(min(sizes))

    def _start_load(self, job: VllmJob, n_local: int) -> None:
        self._start(self._load(job, n_local))

    async def _load(self, job: VllmJob, n_local: int) -> None:
        rank = self.ranks[job.rank]
        try:
            await self.connector.load(job, n_local)
        except LoadFailure:
            # Prefill is not told: its blocks wait for another reader or the end of their lease.
            job.is_released = True
            self.connector.forget(job)
            rank.load_failed(job)
        else:
            self.connector.forget(job)
            rank.loaded(job)

    def _plan(self, job: VllmJob) -> None:
        job.mark = job.mark or prompt_mark(self._tokenizer, job.prompt_ids)
        n_room = self._config.context_length - job.n_prompt
        job.plan = make_plan(
            self._tokenizer, job.prompt_ids, job.mark, job.params, n_room, self._script()
        )

    def _over(self, job: VllmJob) -> None:
        jobs = self.jobs[job.external_id]
        jobs.remove(job)
        if not jobs:
            del self.jobs[job.external_id]
        self.connector.forget(job)
        if not job.is_dead:
            self.connector.keep(job)
        self.ranks[job.rank].release(job)

    def _freed(self, rank: int) -> None:
        self.ranks[rank].bell.set()
