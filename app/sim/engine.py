"""What both simulated engines share: the table of requests, refusals, aborts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from app.sim.config import SimConfig
from app.sim.counters import Counters
from app.sim.jobs import Job, abort_reason
from app.sim.refusals import Refused
from app.sim.text import prompt_of_ids


class Engine(Protocol):
    """What the HTTP side asks of an engine."""

    table: JobTable

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take them, and fail those that the scheduler does not take.

        Raises:
            Refused: One of their ids is in use; none is taken.
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

    def admit(self, jobs: Sequence[Job], n_queued: int) -> list[Job]:
        """The jobs that the scheduler takes; the others have failed, one by one.

        SGLang 0.5.23 limits its queue without disaggregation only (scheduler.py,
        ``_add_request_to_queue``). Here ``max_queued_requests`` holds for every
        role, so that what a full worker says can be had from either leg.

        Raises:
            Refused: 400 for an id in use, before the scheduler sees any of them.
        """
        for job in jobs:
            if job.rid in self.jobs or job.rid in self.stuck:
                raise Refused(400, f"Duplicate request ID detected: {job.rid}")
        taken: list[Job] = []
        limit = self._config.max_queued_requests
        for job in jobs:
            n_tokens, n_most = len(job.prompt.ids), self._config.max_input_tokens
            if not job.has_room and self._config.role != "regular":
                job.fail(
                    400,
                    "Invalid request: Disaggregated request received without bootstrap room id. "
                    f"req.rid={job.rid!r}",
                )
            elif n_tokens >= n_most:
                job.fail(
                    400,
                    f"Input length ({n_tokens} tokens) exceeds the maximum allowed length "
                    f"({n_most} tokens). Use a shorter input or enable --allow-auto-truncate.",
                    "BadRequestError",
                )
                # Of such a prompt the scheduler keeps, and reports, one token.
                job.prompt = prompt_of_ids(job.prompt.ids[:1])
            elif limit is not None and n_queued + len(taken) >= limit:
                job.never_started = True
                job.fail(503, "The request queue is full.")
            else:
                taken.append(job)
        return taken

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
            is_known = rid in self.jobs or rid in self.stuck
            hit = [job for key, job in self.jobs.items() if is_known and key.startswith(rid)]
            stuck = {key for key in self.stuck if is_known and key.startswith(rid)}
        self._counters.aborted.extend([*(job.rid for job in hit), *sorted(stuck)])
        return hit


def end_aborted(job: Job) -> None:
    """An abort that is no error: 200 with what there is."""
    job.end(abort_reason("Aborted"))


def end_queued(job: Job) -> None:
    """An abort in the waiting queue: 200 with nothing, in the words of 0.5.23."""
    job.never_started = True
    job.end({"type": "abort", "message": "Abort in waiting queue"})


def kv_failure(subject: str, job: Job, reason: str) -> str:
    """SGLang's text of a failed transfer, as seen with 0.5.23."""
    name = "decode_req.req" if subject.startswith("Decode") else "req"
    return (
        f"{subject} failed for request rank=0 {name}.rid={job.rid!r} "
        f"{name}.bootstrap_room={job.room} with exception "
        f"KVTransferError(bootstrap_room={job.room}): {reason}"
    )
