"""What both simulated engines share: the table of requests, refusals, aborts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from app.sim.config import SimConfig
from app.sim.counters import Counters
from app.sim.jobs import Job, Refused, abort_reason


class Engine(Protocol):
    """What the HTTP side asks of an engine."""

    table: JobTable

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all or none.

        Raises:
            Refused: With the status and text of SGLang.
        """

    def abort(self, rid: str, is_all: bool) -> None:
        """End what matches."""

    def flush(self) -> bool:
        """Empty the prefix cache; False while requests run."""

    def load(self, rank: int) -> dict[str, Any]:
        """The numbers of one rank for ``/v1/loads``."""

    def reset(self) -> None:
        """Forget every request and the cache, as a new process would."""

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Step until cancelled."""


class JobTable:
    """Every request of a worker, by its id.

    Aborts are two-staged as in SGLang: the front wants an exact id in use,
    the scheduler then matches by prefix.
    """

    def __init__(self, config: SimConfig, counters: Counters) -> None:
        self.jobs: dict[str, Job] = {}
        self.stuck: set[str] = set()
        """Ids of requests that a fault keeps from the engine."""
        self._config = config
        self._counters = counters

    def check(self, jobs: Sequence[Job], n_queued: int) -> None:
        """Refuse what SGLang refuses.

        Raises:
            Refused: 400 for a duplicate id or an over-long prompt, 503 when full.
        """
        fresh: set[str] = set()
        for job in jobs:
            if job.rid in self.jobs or job.rid in fresh or job.rid in self.stuck:
                raise Refused(400, f"Duplicate request ID detected: {job.rid}")
            fresh.add(job.rid)
            limit = min(self._config.context_length, self._config.max_total_tokens)
            n_tokens = len(job.prompt.ids)
            if n_tokens >= limit:
                raise Refused(
                    400,
                    f"The input ({n_tokens} tokens) is longer than the model's context "
                    f"length ({limit} tokens).",
                )
        limit_queued = self._config.max_queued_requests
        if limit_queued is not None and n_queued + len(jobs) > limit_queued:
            raise Refused(503, "The request queue is full.")

    def enter(self, job: Job, on_over: Callable[[Job], None]) -> None:
        """The job is now in use until it is over."""
        self.jobs[job.rid] = job

        def leave(over: Job) -> None:
            self.jobs.pop(over.rid, None)
            on_over(over)

        job.on_over = leave

    def matches(self, rid: str, is_all: bool) -> list[Job]:
        """The jobs that an abort order hits; counted as aborted."""
        if is_all:
            hit = list(self.jobs.values())
            stuck = set(self.stuck)
        else:
            is_known = rid in self.jobs
            hit = [job for key, job in self.jobs.items() if key.startswith(rid)] if is_known else []
            stuck = {rid} & self.stuck
        self._counters.aborted.extend([*(job.rid for job in hit), *sorted(stuck)])
        return hit


def end_aborted(job: Job, message: str) -> None:
    """An abort that is no error: 200 with what there is."""
    job.end(abort_reason(message))


def kv_failure(subject: str, job: Job, reason: str) -> str:
    """SGLang's text of a failed transfer, as seen with 0.5.23."""
    name = "decode_req.req" if subject.startswith("Decode") else "req"
    return (
        f"{subject} failed for request rank=0 {name}.rid={job.rid!r} "
        f"{name}.bootstrap_room={job.room} with exception "
        f"KVTransferError(bootstrap_room={job.room}): {reason}"
    )
