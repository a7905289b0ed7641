"""An event loop whose clock jumps to the next thing that is due."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import Any

_TIEBREAK_S = 1e-10
"""A million timers are a tenth of a millisecond."""


class Stalled(RuntimeError):
    """Everything waits and nothing is due: the simulated fleet is stuck."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits by moving the clock on; files are looked at, never waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Returns at once, later by the time that was to be waited."""
        if timeout is None:
            raise Stalled("nothing is due any more")
        if timeout > 0:
            self.now_s += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs a program of sleeps and timers as fast as it can be computed.

    The clock starts at 0 and stands still while anything is ready to run.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self._n_timers = 0
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Sets a timer; of two that are due together the one set first rings first.

        On a real clock no two are due together; here all that happens in one moment is, and the
        loop's own order of equal times is arbitrary.
        """
        self._n_timers += 1
        when += self._n_timers * _TIEBREAK_S
        return super().call_at(when, callback, *args, context=context)
