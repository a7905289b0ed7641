"""Listens to what workers tell of their KV caches, as long as they tell it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from app.scheduling.kv_view import Admission
from app.workers.kv_events import (
    Cleared,
    KvBatch,
    KvEventsLost,
    KvEventsUnavailable,
    Removed,
    Stored,
    pieces,
)
from app.workers.states import State
from app.workers.worker import Role

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from app.scheduling.kv_intake import KvIntake
    from app.workers.registry import Registry
    from app.workers.worker import Worker

    Stream: TypeAlias = Callable[[], AsyncGenerator[KvBatch]]

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.1, 30.0
_FRESH_STARTS = frozenset({"removed", "restarted", "spec"})


@dataclass(slots=True)
class KvCounts:
    """What was heard of one worker.

    Attributes:
        n_batches: Batches.
        n_stored: Blocks that were stored.
        n_removed: Blocks that were removed.
        n_cleared: How often a cache was emptied.
        n_gaps: How often batches were missed, so that what was known was dropped.
        n_restarts: How often the engine's count began anew.
        n_losses: How often the stream ended.
    """

    n_batches: int = 0
    n_stored: int = 0
    n_removed: int = 0
    n_cleared: int = 0
    n_gaps: int = 0
    n_restarts: int = 0
    n_losses: int = 0


class KvWatch:
    """Follows the KV events of every prefill worker that publishes some.

    A stream that ends is opened again, 0.1 s later at first and 30 s at last. A worker that
    publishes none is not asked again before it was away.

    Args:
        registry: The workers.
        intake: Gets what is heard.
        streams: The streams of a worker, one for each rank or one for all.
        on_trouble: Told once of a worker whose events are not to be had, and why.

    Attributes:
        counts: By worker id.
    """

    def __init__(
        self,
        registry: Registry,
        intake: KvIntake,
        streams: Callable[[Worker], Sequence[Stream]],
        on_trouble: Callable[[Worker, str], None],
    ) -> None:
        self._registry = registry
        self.intake = intake
        self._streams = streams
        self._on_trouble = on_trouble
        self.counts: dict[str, KvCounts] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._troubled: set[str] = set()
        self._wake = asyncio.Event()
        registry.subscribe(self._on_event)

    async def run(self) -> None:
        """Listens until cancelled."""
        self._running.clear()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                for worker in self._registry.workers():
                    is_wanted = worker.spec.role is Role.PREFILL and worker.state is State.READY
                    if is_wanted and worker.id not in self._running:
                        self._running[worker.id] = tasks.create_task(self._follow(worker))
                await self._wake.wait()

    def _on_event(self, event: str, worker: Worker) -> None:
        is_away = worker.state is State.UNHEALTHY or event in _FRESH_STARTS
        if is_away and (task := self._running.pop(worker.id, None)) is not None:
            task.cancel()
            self._show(worker)
        if event == "removed":
            self.counts.pop(worker.id, None)
            self._troubled.discard(worker.id)
        self._wake.set()

    async def _follow(self, worker: Worker) -> None:
        streams = self._streams(worker)
        if streams:
            async with asyncio.TaskGroup() as tasks:
                for stream in streams:
                    tasks.create_task(self._listen(worker, stream))

    async def _listen(self, worker: Worker, stream: Stream) -> None:
        counts = self.counts.setdefault(worker.id, KvCounts())
        pause_s = _MIN_PAUSE_S
        while True:
            n_before = counts.n_batches
            try:
                async with aclosing(stream()) as batches:
                    async for batch in batches:
                        await self._take(worker, batch, counts)
            except KvEventsUnavailable as reason:
                self._trouble(worker, str(reason))
                return
            except KvEventsLost as reason:
                self._trouble(worker, str(reason))
            finally:
                self.intake.hush(worker)
                self._show(worker)
            counts.n_losses += 1
            if counts.n_batches > n_before:
                pause_s = _MIN_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(_MAX_PAUSE_S, pause_s * 2)

    async def _take(self, worker: Worker, batch: KvBatch, counts: KvCounts) -> None:
        admission = self.intake.admit(worker, batch.rank, batch.number)
        if admission is None:
            return
        counts.n_batches += 1
        counts.n_gaps += admission is Admission.GAP
        counts.n_restarts += admission is Admission.RESTART
        if not batch.is_readable:
            counts.n_gaps += 1
            self.intake.forget(worker, batch.rank)
        for event in batch.events:
            for part in pieces(event):
                self.intake.take(worker, batch.rank, part)
                if part is not event:
                    # A long prompt: requests go first.
                    await asyncio.sleep(0)
            if isinstance(event, Stored):
                counts.n_stored += event.n_blocks
            elif isinstance(event, Removed):
                counts.n_removed += event.n_blocks
            else:
                counts.n_cleared += isinstance(event, Cleared)
        self._troubled.discard(worker.id)
        self._show(worker)

    def _show(self, worker: Worker) -> None:
        worker.prefix_view = self.intake.state(worker)

    def _trouble(self, worker: Worker, reason: str) -> None:
        if worker.id not in self._troubled:
            self._troubled.add(worker.id)
            self._on_trouble(worker, reason)
