"""The simulated decode engine: receives KV, then one token a step for every request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.clock import Clock
from app.sim.config import FAKE_HOST, SimConfig
from app.sim.counters import Counters
from app.sim.engine import JobTable, end_aborted, kv_failure
from app.sim.jobs import Job
from app.sim.rendezvous import KILLED, PeerLost, fetch_kv
from app.sim.text import EOS_ID, answer_pieces, cut_at_stop

RECONNECT_S = 0.05


class KVFailed(Exception):
    """No KV came; carries SGLang's subject and reason."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(reason)
        self.subject = subject
        self.reason = reason


class DecodeEngine:
    """One decode (or regular) worker; DP ranks share its step.

    Args:
        config: Limits and speed.
        counters: What it counts.
        now_s: Its clock.
        fetch: How it meets prefill: host, port, room.
    """

    def __init__(
        self,
        config: SimConfig,
        counters: Counters,
        now_s: Clock,
        fetch: Callable[[str, int, int], Awaitable[dict[str, Any]]] = fetch_kv,
    ) -> None:
        self.table = JobTable(config, counters)
        self.running: list[tuple[Job, list[str], dict[str, Any]]] = []
        self.n_held = 0
        self._preallocating: set[Job] = set()
        self._receiving: set[Job] = set()
        self._known: set[tuple[str, int]] = set()
        self._held: dict[Job, int] = {}
        self._config = config
        self._counters = counters
        self._now_s = now_s
        self._fetch_kv = fetch
        self._bell = asyncio.Event()
        self._room_bell = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Step until cancelled."""
        self._group = group
        while True:
            if not self.running:
                self._bell.clear()
                await self._bell.wait()
            await asyncio.sleep(self._config.scaled(self._config.decode_step_s))
            self._counters.n_steps += 1
            self.running = [entry for entry in self.running if not entry[0].is_over]
            for job, pieces, finish in self.running[: self._config.max_running_requests]:
                self._step(job, pieces, finish)

    def _step(self, job: Job, pieces: list[str], finish: dict[str, Any]) -> None:
        if len(job.pieces) < len(pieces):
            self._counters.generated_tokens += 1
            job.emit(pieces[len(job.pieces)])
        if len(job.pieces) >= len(pieces):
            job.end(finish)

    def submit(self, jobs: Sequence[Job]) -> None:
        """See ``Engine``."""
        group = self._running_group()
        for job in self.table.admit(jobs, len(self._preallocating)):
            wanted = job.rank_wanted
            job.rank = job.room % self._config.dp_size if wanted is None else wanted
            self.table.enter(job, self._release)
            self._preallocating.add(job)
            job.task = group.create_task(self._receive(job))

    async def _receive(self, job: Job) -> None:
        n_tokens = len(job.prompt.ids) + min(job.n_max, 512)
        began_s = self._now_s()
        try:
            while self.n_held + n_tokens > self._config.max_total_tokens and self.n_held:
                self._room_bell.clear()
                await self._room_bell.wait()
        finally:
            waited_s = self._now_s() - began_s
            counters = self._counters
            counters.longest_room_wait_s = max(counters.longest_room_wait_s, waited_s)
        self.n_held += n_tokens
        self._held[job] = n_tokens
        self._preallocating.discard(job)
        self._receiving.add(job)
        try:
            kv = await self._kv_of(job)
        except KVFailed as failed:
            job.fail(500, kv_failure(failed.subject, job, failed.reason))
            return
        if job.n_samples > 1 and self._config.role != "regular":
            # Every sample waits in the room that the warm-up used up: seen with 0.5.23.
            await asyncio.Event().wait()
        self._receiving.discard(job)
        job.n_cached = kv["cached"]
        self._start(job, kv)

    def _start(self, job: Job, kv: dict[str, Any]) -> None:
        pieces = answer_pieces(job.prompt, kv["mark"], job.n_max, job.ignore_eos)
        pieces[0] = kv["first"]
        kept, stop = cut_at_stop(pieces, job.stops)
        finish: dict[str, Any] = {"type": "length", "length": len(kept)}
        if stop is not None:
            finish = {"type": "stop", "matched": stop}
        elif not kept[-1]:
            finish = {"type": "stop", "matched": EOS_ID}
        self._counters.n_transfers += 1
        self._step(job, kept, finish)
        if not job.is_over:
            self.running.append((job, kept, finish))
            self._bell.set()

    async def _kv_of(self, job: Job) -> dict[str, Any]:
        if self._config.role == "regular":
            n_tokens = len(job.prompt.ids)
            await asyncio.sleep(self._config.scaled(n_tokens / self._config.prefill_tokens_per_s))
            self._counters.computed_prompt_tokens += n_tokens
            return {"mark": job.prompt.mark, "first": "Simulated", "cached": 0}
        if job.host == FAKE_HOST:
            return {"mark": "garbage", "first": "?", "cached": 0}
        try:
            async with asyncio.timeout(self._config.bootstrap_timeout_s):
                kv = await self._meet(job)
        except TimeoutError:
            waited_s = self._config.bootstrap_timeout_s
            why = f"Request {job.room} timed out after {waited_s:.1f}s in KVPoll.WaitingForInput"
            raise KVFailed("Decode transfer", why) from None
        if "error" in kv:
            raise KVFailed("Decode transfer", kv["error"])
        return kv

    async def _meet(self, job: Job) -> dict[str, Any]:
        address = (job.host, job.port)
        until_s = self._now_s() + self._config.handshake_timeout_s
        while True:
            try:
                kv = await self._fetch_kv(job.host, job.port, job.room)
            except PeerLost:
                break
            except OSError:
                if address in self._known:
                    break
                if self._now_s() >= until_s:
                    raise KVFailed("Decode handshake", "Aborted by AbortReq.") from None
                await asyncio.sleep(RECONNECT_S)
            else:
                self._known.add(address)
                return kv
        await asyncio.sleep(self._config.peer_death_s)
        lost = f"Lost connection with prefill instance (bootstrap_addr: {job.host}:{job.port})"
        raise KVFailed("Decode transfer", lost)

    def _running_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("the engine does not run yet")
        return self._group

    def abort(self, rid: str, is_all: bool) -> None:
        """See ``Engine``; a job without KV fails, one with it ends with what there is."""
        for job in self.table.matches(rid, is_all):
            if job in self._preallocating or job in self._receiving:
                job.fail(500, kv_failure("Decode transfer", job, "Aborted by AbortReq."))
            else:
                end_aborted(job)

    def _release(self, job: Job) -> None:
        self._preallocating.discard(job)
        self._receiving.discard(job)
        self.n_held -= self._held.pop(job, 0)
        self._room_bell.set()
        if job.task is not None and job.task is not asyncio.current_task():
            job.task.cancel()

    def flush(self) -> bool:
        """See ``Engine``."""
        return not self.table.jobs

    def reset(self) -> None:
        """See ``Engine``."""
        for job in tuple(self.table.jobs.values()):
            if job.task is not None:
                job.task.cancel(KILLED)
                job.task = None
            job.fail(500, "The worker was killed.")
        self._known.clear()

    def load(self, rank: int) -> dict[str, Any]:
        """See ``Engine``."""
        running = [entry for entry in self.running if entry[0].rank == rank]
        n_limit = self._config.max_running_requests
        return {
            "num_running_reqs": min(len(running), n_limit),
            "num_waiting_reqs": max(0, len(running) - n_limit),
            "num_used_tokens": sum(n for job, n in self._held.items() if job.rank == rank),
            "decode_prealloc_queue_reqs": sum(j.rank == rank for j in self._preallocating),
            "decode_transfer_queue_reqs": sum(j.rank == rank for j in self._receiving),
        }
