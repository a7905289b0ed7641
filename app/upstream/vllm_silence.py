"""A clock for silence that costs next to nothing for each message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class SilenceClock:
    """Calls ``on_silence`` when a wait took too long.

    One timer serves all waits: it is not set anew for each, but looks when it fires whether the
    present wait is really over its limit. Between waits the clock stands still, so that a slow
    reader does not make the worker look silent.
    """

    __slots__ = ("_due_s", "_loop", "_on_silence", "_timer", "_timer_s", "has_struck")

    def __init__(self, on_silence: Callable[[], object]) -> None:
        self.has_struck = False
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._timer_s = 0.0
        self._due_s: float | None = None

    def start(self, limit_s: float | None) -> None:
        """A wait begins; None waits for ever."""
        if limit_s is None:
            self._due_s = None
            return
        due_s = self._due_s = self._loop.time() + limit_s
        timer = self._timer
        if timer is None:
            self._look_at(due_s)
        elif self._timer_s > due_s:
            timer.cancel()
            self._look_at(due_s)

    def rest(self) -> None:
        """The wait is over."""
        self._due_s = None

    def stop(self) -> None:
        """No wait will follow.

        The callback is let go: it holds its call, and the call holds this clock. Such a circle
        kept each request's tokens until Python next looked for circles, tens of thousands of
        objects later.
        """
        self._due_s = None
        self._on_silence = _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, due_s: float) -> None:
        # uvloop's handle of a time that is (nearly) now does not tell its time.
        self._timer_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self._loop.time() < self._due_s:
            self._look_at(self._due_s)
            return
        self.has_struck = True
        self._on_silence()


def _nothing() -> None:
    """The callback of a clock that was stopped."""
