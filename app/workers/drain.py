"""Takes workers out of the registry once their running requests have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.clock import Clock
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Worker

POLL_S = 0.05


class Drain:
    """Owns the workers that are on their way out.

    Args:
        registry: Where they are registered.
        close: Ends the connections to a worker that was removed.
        limit_s: A worker still busy after this long is removed all the same.
        now_s: Clock of the limit.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        close: Callable[[Worker], Awaitable[None]],
        limit_s: float,
        now_s: Clock,
    ) -> None:
        self._registry = registry
        self._close = close
        self._limit_s = limit_s
        self._now_s = now_s
        self._deadlines_s: dict[str, float] = {}
        self._has_work = asyncio.Event()

    def start(self, worker: Worker, reason: str) -> None:
        """Gives a worker no new request from now on; a second call keeps the first deadline."""
        self._registry.set_state(worker, State.DRAINING, reason)
        self._deadlines_s.setdefault(worker.spec.id, self._now_s() + self._limit_s)
        self._has_work.set()

    async def run(self) -> None:
        """Removes each drained worker when it is idle or late; runs until cancelled."""
        while True:
            await self._has_work.wait()
            for worker_id, deadline_s in list(self._deadlines_s.items()):
                worker = self._registry.get(worker_id)
                if worker is None:
                    del self._deadlines_s[worker_id]
                elif worker.n_leases <= 0 or self._now_s() >= deadline_s:
                    del self._deadlines_s[worker_id]
                    self._registry.remove(worker_id)
                    await self._close(worker)
            if self._deadlines_s:
                await asyncio.sleep(POLL_S)
            else:
                self._has_work.clear()
