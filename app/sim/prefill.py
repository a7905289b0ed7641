"""The simulated prefill engine: queue and bootstrap before the ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from app.clock import Clock
from app.sim.config import FAKE_HOST, SimConfig
from app.sim.counters import Counters
from app.sim.engine import JobTable, end_queued, kv_failure
from app.sim.jobs import Job
from app.sim.prefill_rank import PrefillRank
from app.sim.rendezvous import KILLED, Rendezvous

LOST_KV = "Failed to get kvcache from prefill instance, it might be dead"
"""What SGLang's decode says when prefill gave a room up."""


class PrefillEngine:
    """All ranks of a prefill worker, and the queue before them."""

    def __init__(
        self, config: SimConfig, counters: Counters, rendezvous: Rendezvous, now_s: Clock
    ) -> None:
        self.table = JobTable(config, counters)
        self.ranks = [
            PrefillRank(config, counters, rendezvous, now_s) for _ in range(config.dp_size)
        ]
        self._config = config
        self._rendezvous = rendezvous
        self._bootstrapping: set[Job] = set()
        self._group: asyncio.TaskGroup | None = None

    @property
    def n_held(self) -> int:
        """Tokens of KV cache in use."""
        return sum(rank.n_held for rank in self.ranks)

    @property
    def is_dry(self) -> bool:
        """It computes nothing and nothing has arrived."""
        return not self._bootstrapping and not any(rank.has_work for rank in self.ranks)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Step every rank until cancelled."""
        self._group = group
        async with asyncio.TaskGroup() as steps:
            for rank in self.ranks:
                steps.create_task(rank.run())

    def submit(self, jobs: Sequence[Job]) -> None:
        """See ``Engine``."""
        group = self._running_group()
        waiting = len(self._bootstrapping) + sum(len(rank.queue) for rank in self.ranks)
        for job in self.table.admit(jobs, waiting):
            implied = job.room % self._config.dp_size
            job.rank = implied if job.rank_wanted is None else job.rank_wanted
            self.table.enter(job, self._release)
            if job.rank != implied:
                # As SGLang's prefill does it by default (``follow_bootstrap_room``).
                why = (
                    f"follow_bootstrap_room conflict: dispatched to dp_rank {job.rank} but "
                    f"bootstrap_room {job.room} implies dp_rank {implied}."
                )
                job.fail(500, kv_failure("Prefill bootstrap", job, why))
                continue
            self._bootstrapping.add(job)
            job.task = group.create_task(self._bootstrap(job))

    async def _bootstrap(self, job: Job) -> None:
        if self._config.lead_s:
            await asyncio.sleep(self._config.scaled(self._config.lead_s))
        if job.host != FAKE_HOST:
            room = self._rendezvous.room(job.room)
            room.on_left = lambda was_abort: self._peer_left(job, was_abort)
            try:
                async with asyncio.timeout(self._config.bootstrap_timeout_s):
                    await room.arrived.wait()
            except TimeoutError:
                waited_s = self._config.bootstrap_timeout_s
                why = f"Request {job.room} timed out after {waited_s:.1f}s in KVPoll.Bootstrapping"
                job.fail(500, kv_failure("Prefill bootstrap", job, why))
                return
        self._bootstrapping.discard(job)
        if not job.is_over:
            self.ranks[job.rank].enqueue(job)

    def _peer_left(self, job: Job, was_abort: bool) -> None:
        job.is_widowed = True
        why = "Aborted by AbortReq."
        if not was_abort:
            why = f"Decode instance could be dead, remote mooncake session {job.host} is not alive"
        asyncio.get_running_loop().call_later(
            0.0 if was_abort else self._config.peer_death_s,
            job.fail,
            500,
            kv_failure("Prefill transfer", job, why),
        )

    def _running_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("the engine does not run yet")
        return self._group

    def abort(self, rid: str, is_all: bool) -> None:
        """See ``Engine``; the texts depend on where the job is."""
        for job in self.table.matches(rid, is_all):
            if job in self._bootstrapping:
                job.fail(500, kv_failure("Prefill bootstrap", job, "Aborted by AbortReq."))
            elif job in self.ranks[job.rank].queue:
                end_queued(job)
            else:
                job.fail(500, kv_failure("Prefill transfer", job, "Aborted by AbortReq."))

    def _release(self, job: Job) -> None:
        self._bootstrapping.discard(job)
        if job.task is not None and job.task is not asyncio.current_task():
            job.task.cancel()
        self.ranks[job.rank].release(job)
        room = self._rendezvous.rooms.get(job.room)
        if room is not None:
            room.on_left = None
            if room.arrived.is_set():
                room.settle({"error": LOST_KV})
            self._rendezvous.forget(job.room)

    def flush(self) -> bool:
        """See ``Engine``."""
        if self.table.jobs:
            return False
        for rank in self.ranks:
            rank.cache.clear()
        return True

    def reset(self) -> None:
        """See ``Engine``."""
        for job in tuple(self.table.jobs.values()):
            if job.task is not None:
                job.task.cancel(KILLED)
                job.task = None
            job.fail(500, "The worker was killed.")
        for rank in self.ranks:
            rank.cache.restart()

    def load(self, rank: int) -> dict[str, Any]:
        """See ``Engine``."""
        one = self.ranks[rank]
        n_bootstrapping = sum(job.rank == rank for job in self._bootstrapping)
        return {
            "num_running_reqs": len(one.running),
            "num_waiting_reqs": len(one.queue),
            "num_waiting_uncached_tokens": sum(job.n_uncached for job in one.queue),
            "num_used_tokens": one.n_held,
            "total_prefill_uncached_tokens": one.n_computed,
            "total_prefill_busy_us": one.busy_us,
            "prefill_bootstrap_queue_reqs": n_bootstrapping,
            "prefill_inflight_queue_reqs": len(one.sending),
        }
