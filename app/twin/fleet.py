"""The twin of a fleet: simulated engines without their sockets, behind the real scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.errors import GatewayError
from app.policies.catalog import POLICIES
from app.scheduling.load_watch import LoadWatch
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import Ask, Grant, LocalScheduler, Outcome, Scheduler
from app.sim.config import SimConfig
from app.sim.counters import Counters
from app.sim.decode import DecodeEngine
from app.sim.prefill import PrefillEngine
from app.sim.rendezvous import Rendezvous
from app.twin.report import Figures
from app.twin.shapes import facts_of, job, load_row
from app.twin.trace import Row, token_ids
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

QUEUE = "queue"
"""Stands among the names of policies for the prefill queue."""
EARLY, _NEVER_ASKED_S = "early", 1e-6
"""The same without a word of the engines: each request goes at once where it should end first."""
_WATCH_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetShape:
    """How many workers there are and what they can do.

    Attributes:
        n_prefill: Prefill workers.
        n_decode: Decode workers.
        tokens_per_s: Prefill rate of a worker.
        slow: Rates of the first workers as shares of that.
        chunk_tokens: Most tokens of a prefill step.
        lead_s: From arrival until a prefill worker can start a request.
        transfer_s_per_token: KV transfer.
        decode_step_s: Time of a decode step.
        prefill_kv_tokens: KV cache of a prefill worker.
        decode_kv_tokens: The same of a decode worker.
        poll_s: How often workers are asked for their load.
        engine_order: The prefill engines' own, a value of SGLang's ``--schedule-policy``.
        shrink: Tokens of the trace that one simulated token stands for, 1, 2, 4, 8 or 16: less
            to compute, all times as they are.
    """

    n_prefill: int = 4
    n_decode: int = 4
    tokens_per_s: float = 10_000.0
    slow: tuple[float, ...] = ()
    chunk_tokens: int = 8192
    lead_s: float = 0.15
    transfer_s_per_token: float = 1e-5
    decode_step_s: float = 0.02
    prefill_kv_tokens: int = 2_048_000
    decode_kv_tokens: int = 4_000_000
    poll_s: float = 0.1
    engine_order: str = "fcfs"
    shrink: int = 4

    def config(self, role: Role, number: int) -> SimConfig:
        """The simulated engine's own configuration."""
        share = self.slow[number] if number < len(self.slow) else 1.0
        is_prefill = role is Role.PREFILL
        n_kv_tokens = self.prefill_kv_tokens if is_prefill else self.decode_kv_tokens
        return SimConfig(
            role="prefill" if is_prefill else "decode",
            page_size=max(1, 512 // self.shrink),
            chunk_tokens=self.chunk_tokens // self.shrink,
            schedule_policy=self.engine_order,
            prefill_tokens_per_s=self.tokens_per_s * share / self.shrink,
            lead_s=self.lead_s,
            transfer_s_per_token=self.transfer_s_per_token * self.shrink,
            decode_step_s=self.decode_step_s * self.shrink,
            max_total_tokens=n_kv_tokens // self.shrink,
            context_length=n_kv_tokens // self.shrink,
            bootstrap_timeout_s=1e6,
        )


@dataclass(slots=True)
class _Run:
    """What is counted while a trace is played."""

    ttft_s: list[float] = field(default_factory=list)
    n_lost: int = 0
    idle_s: float = 0.0


class TwinFleet:
    """Plays traces; to be used inside a :class:`~app.twin.virtual_time.VirtualTimeLoop`.

    Args:
        shape: The workers.
        router: A policy's name, ``queue`` or ``early``.
    """

    def __init__(self, shape: FleetShape, router: str) -> None:
        self._shape = shape
        self._now_s = asyncio.get_running_loop().time
        self._registry = Registry(now_s=self._now_s)
        self._prefills: dict[str, PrefillEngine] = {}
        self._decodes: dict[str, DecodeEngine] = {}
        self._rooms: dict[int, Rendezvous] = {}
        self._counters: dict[str, Counters] = {}
        for number in range(shape.n_prefill):
            self._add(Role.PREFILL, number)
        for number in range(shape.n_decode):
            self._add(Role.DECODE, number)
        is_queue = router in (QUEUE, EARLY)
        self._asks_loads = router == QUEUE
        policy = POLICIES["cache_aware" if is_queue else router]
        early = LocalScheduler(
            self._registry, policy(now_s=self._now_s), POLICIES["least_load"](), self._now_s
        )
        self._scheduler: Scheduler = early
        self._queue: QueueScheduler | None = None
        if is_queue:
            # What an engine says counts for some polls.
            poll_s = shape.poll_s if self._asks_loads else _NEVER_ASKED_S
            limits = QueueLimits(deadline_s=1e6, n_waiting=10**6, poll_s=poll_s)
            self._queue = QueueScheduler(early, self._registry, self._now_s, limits)
            self._scheduler = self._queue

    def _add(self, role: Role, number: int) -> None:
        spec = WorkerSpec(f"http://{role}-{number}:1", role)
        config = self._shape.config(role, number)
        counters = self._counters[spec.id] = Counters()
        if role is Role.PREFILL:
            rendezvous = Rendezvous(dict)
            self._prefills[spec.id] = PrefillEngine(config, counters, rendezvous, self._now_s)
            self._rooms[number] = rendezvous
        else:
            self._decodes[spec.id] = DecodeEngine(config, counters, self._now_s, self._fetch_kv)
        worker = self._registry.add(spec)
        info = WorkerInfo(
            ("model",),
            schedule_policy=config.schedule_policy,
            chunked_prefill_size=config.chunk_tokens,
            max_total_tokens=config.max_total_tokens,
        )
        self._registry.set_info(worker, info)
        self._registry.set_state(worker, State.READY)

    async def _fetch_kv(self, host: str, port: int, room: int) -> dict[str, Any]:  # noqa: ARG002
        meeting = self._rooms[port].room(room)
        meeting.arrived.set()
        await meeting.settled.wait()
        return meeting.answer or {}

    async def play(self, rows: list[Row], on_progress: Callable[[float], None]) -> Figures:
        """Sends every row at its moment and waits for the last answer.

        Args:
            rows: The trace.
            on_progress: Told now and then how much of it is answered, 0 to 1.
        """
        run = _Run()
        async with self._running(run), asyncio.TaskGroup() as requests:
            for number, row in enumerate(rows):
                requests.create_task(self._request(number, row, run))
                if not number % 50:
                    on_progress(number / len(rows))
                if number + 1 < len(rows):
                    await asyncio.sleep(max(0.0, rows[number + 1].at_s - self._now_s()))
        n_computed = sum(self._counters[key].computed_prompt_tokens for key in self._prefills)
        busy_us = sum(self._counters[key].prefill_busy_us for key in self._prefills)
        n_all = sum(row.n_prompt // self._shape.shrink for row in rows)
        return Figures(
            run.ttft_s,
            busy_us / 1e6,
            1 - n_computed / max(1, n_all),
            run.idle_s if self._queue is not None else None,
            run.n_lost,
            max(self._counters[key].longest_room_wait_s for key in self._decodes),
        )

    @asynccontextmanager
    async def _running(self, run: _Run) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as engines:
            tasks = [engines.create_task(p.run(engines)) for p in self._prefills.values()]
            tasks += [engines.create_task(d.run(engines)) for d in self._decodes.values()]
            if self._queue is not None and self._asks_loads:
                tasks.append(engines.create_task(self._watch_loads(self._queue).run()))
                tasks.append(engines.create_task(self._watch_idleness(self._queue, run)))
            try:
                yield
            finally:
                self._scheduler.close()
                for task in tasks:
                    task.cancel()

    def _watch_loads(self, queue: QueueScheduler) -> LoadWatch:
        async def read(worker: Worker) -> object:
            if worker.spec.role is Role.DECODE:
                return [self._decodes[worker.id].load(0)]
            return [load_row(self._prefills[worker.id].load(0))]

        return LoadWatch(
            self._registry,
            read=read,
            take=queue.take,
            take_used=queue.take_used,
            n_waiting=lambda: queue.n_waiting,
            now_s=self._now_s,
            interval_s=self._shape.poll_s,
            on_trouble=lambda _worker, _reason: None,
            errors=(),
        )

    async def _watch_idleness(self, queue: QueueScheduler, run: _Run) -> None:
        """Adds up the time in which a worker is idle although a request waits that it could have.

        One that waits for the holder of its prefix waits by choice. Dry is who has nothing to do
        and nothing on the way, by the engine itself: what is believed of it may be wrong.
        """
        while True:
            await asyncio.sleep(_WATCH_S)
            if queue.n_waiting:
                wanted = queue.view.wanted()
                run.idle_s += _WATCH_S * sum(self._prefills[w.id].is_dry for w in wanted)

    async def _request(self, number: int, row: Row, run: _Run) -> None:
        began_s = self._now_s() - row.before_s
        ids = token_ids(row, self._shape.shrink)
        n_output = max(1, row.n_output // self._shape.shrink)
        try:
            grant = await self._scheduler.ask(Ask(facts_of(ids, n_output)))
        except GatewayError:
            run.n_lost += 1
            return
        try:
            if row.connect_s:
                await asyncio.sleep(row.connect_s)
            await self._legs(grant, number, ids, n_output, run, began_s)
        finally:
            self._scheduler.done(grant, Outcome.OK)

    async def _legs(
        self,
        grant: Grant,
        room: int,
        ids: tuple[int, ...],
        n_output: int,
        run: _Run,
        began_s: float,
    ) -> None:
        prefill, decode = grant.pair.prefill, grant.pair.decode
        place = int(prefill.spec.url.rsplit("-", 1)[1].split(":")[0])
        self._prefills[prefill.id].submit([job(room, place, ids, 1)])
        answer = job(room, place, ids, n_output)
        self._decodes[decode.id].submit([answer])
        bell = answer.bell
        while not answer.pieces and not answer.is_over:
            bell.clear()
            await bell.wait()
        if answer.failure is not None:
            run.n_lost += 1
            return
        run.ttft_s.append(self._now_s() - began_s)
        self._scheduler.prefill_ended(grant)
        while not answer.is_over:
            bell.clear()
            await bell.wait()
