"""Asks prefill workers what waits there, and decode workers what they hold, while that matters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.workers.rank_load import n_used_tokens, read_loads
from app.workers.states import State
from app.workers.worker import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.clock import Clock
    from app.workers.rank_load import RankLoad
    from app.workers.registry import Registry
    from app.workers.worker import Worker

_CALM_INTERVALS = 5
"""A worker with one request, while none waits here, is asked each so many intervals."""
_DECODE_INTERVALS = 10
"""So is every decode worker: answers grow slowly."""


class LoadWatch:
    """Polls every prefill worker that has requests of ours; an idle one is left alone.

    A worker that does not answer is asked again at its next turn; until it does, its ranks are
    fed without restraint, and ``on_trouble`` is told once. A decode worker that does not tell what
    it holds is taken to hold what it was given.

    Args:
        registry: The workers.
        read: Asks one worker; returns the rows of its loads.
        take: Gets what was read.
        take_used: Gets the KV tokens that a decode worker holds; ``None``: none is asked.
        n_waiting: Requests that wait in the gateway.
        now_s: The clock of the snapshots.
        interval_s: Time between two questions to one worker.
        timeout_s: Longest wait for an answer.
        on_trouble: Told of a worker whose loads cannot be had, and why.
        errors: What ``read`` raises where a worker does not answer as it should.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        read: Callable[[Worker], Awaitable[object]],
        take: Callable[[Worker, dict[int, RankLoad]], None],
        n_waiting: Callable[[], int],
        now_s: Clock,
        interval_s: float,
        on_trouble: Callable[[Worker, str], None],
        errors: tuple[type[Exception], ...],
        timeout_s: float = 1.0,
        take_used: Callable[[Worker, int], None] | None = None,
    ) -> None:
        self._registry = registry
        self._read = read
        self._take = take
        self._n_waiting = n_waiting
        self._now_s = now_s
        self._interval_s = interval_s
        self._on_trouble = on_trouble
        self._errors = errors
        self._timeout_s = timeout_s
        self._take_used = take_used
        self._roles = {Role.PREFILL} if take_used is None else {Role.PREFILL, Role.DECODE}
        self._next_s: dict[str, float] = {}
        self._asking: set[str] = set()
        self._troubled: set[str] = set()

    async def run(self) -> None:
        """Polls until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                now_s = self._now_s()
                for worker in self._due(now_s):
                    self._asking.add(worker.id)
                    tasks.create_task(self._ask(worker))
                await asyncio.sleep(self._interval_s)

    def _due(self, now_s: float) -> list[Worker]:
        workers = [
            worker
            for worker in self._registry.workers()
            if worker.spec.role in self._roles and worker.state is State.READY
        ]
        if len(self._next_s) > len(workers):
            known = {worker.id for worker in workers}
            self._next_s = {key: at_s for key, at_s in self._next_s.items() if key in known}
            self._troubled &= known
        is_crowded = self._n_waiting() > 0
        due = []
        for worker in workers:
            if worker.id in self._asking or not worker.n_leases:
                continue
            is_decode = worker.spec.role is Role.DECODE
            may_rest = is_decode or (not is_crowded and worker.n_leases == 1)
            if may_rest and now_s < self._next_s.get(worker.id, 0.0):
                continue
            n_intervals = _DECODE_INTERVALS if is_decode else _CALM_INTERVALS
            self._next_s[worker.id] = now_s + self._interval_s * n_intervals
            due.append(worker)
        return due

    async def _ask(self, worker: Worker) -> None:
        try:
            asked_s = self._now_s()
            async with asyncio.timeout(self._timeout_s):
                rows = await self._read(worker)
            if worker.spec.role is Role.DECODE:
                if self._take_used is not None and (n_used := n_used_tokens(rows)) is not None:
                    self._take_used(worker, n_used)
                return
            loads = read_loads(rows, asked_s)
            if loads:
                self._troubled.discard(worker.id)
                self._take(worker, loads)
            else:
                self._trouble(worker, "it does not tell its waiting tokens")
        except TimeoutError:
            self._trouble(worker, f"no answer within {self._timeout_s:g} s")
        except self._errors as error:
            self._trouble(worker, str(error))
        finally:
            self._asking.discard(worker.id)

    def _trouble(self, worker: Worker, reason: str) -> None:
        if worker.spec.role is Role.PREFILL and worker.id not in self._troubled:
            self._troubled.add(worker.id)
            self._on_trouble(worker, reason)
