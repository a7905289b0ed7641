"""How the process itself fares: the loop's lag, and the pauses of the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.clock import Clock
from app.observability.histogram import PAUSE_S, Histogram

TICK_S = 0.25
"""How often the loop is looked at: four wake-ups a second."""
STUCK_S = 30.0
"""A loop that has not ticked for so long does not live."""


class ProcessWatch:
    """Measures lag and pauses.

    Args:
        now_s: The loop's clock.

    Attributes:
        lag_s: By how much the loop woke up too late.
        pause_s: Pauses of the collector.
    """

    def __init__(self, now_s: Clock) -> None:
        self._now_s = now_s
        self.lag_s = Histogram(PAUSE_S)
        self.pause_s = Histogram(PAUSE_S)
        self._ticked_s: float | None = None
        self._pause_began_s = 0.0

    def is_stuck(self) -> bool:
        """Whether the loop runs no more; for other threads."""
        return self._ticked_s is not None and self._now_s() - self._ticked_s > STUCK_S

    async def run(self) -> None:
        """Ticks until cancelled."""
        try:
            while True:
                self._ticked_s = due_s = self._now_s()
                await asyncio.sleep(TICK_S)
                self.lag_s.add(max(0.0, self._now_s() - due_s - TICK_S))
        finally:
            self._ticked_s = None

    @contextmanager
    def timing_collector(self) -> Iterator[None]:
        """While it lasts the collector's pauses are measured."""
        gc.callbacks.append(self._on_collection)
        try:
            yield
        finally:
            gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._pause_began_s = self._now_s()
        else:
            self.pause_s.add(self._now_s() - self._pause_began_s)
