"""How long connecting may take, by a clock that does not blame the worker for this process."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

_ANOTHER_TURN_S = 0.01


class ConnectLimit:
    """``asyncio.timeout`` whose timer, once due, gives the sockets another turn of the loop.

    A loop that is late by seconds finds the timer and the finished connection at the same time, and
    timers go first. A worker would then be taken for dead, and out of use, because the gateway is
    busy. So the limit is longer by as much as the loop was late, and by 10 ms at least.

    Args:
        limit_s: Seconds; ``inf`` for none.

    Raises:
        TimeoutError: From the ``async with``, when the limit has passed.
    """

    __slots__ = ("_limit_s", "_timeout", "_timer")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        # Loops differ in what an infinite delay does to them.
        if not math.isinf(self._limit_s):
            loop = asyncio.get_running_loop()
            due_s = loop.time() + self._limit_s
            self._timer = loop.call_at(due_s, self._look_again, due_s)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, exc, traceback)

    def end(self) -> None:
        """Ends what is awaited now, as if the time were over."""
        if not self._timeout.expired():
            # In the past of every clock.
            self._timeout.reschedule(0.0)

    def _look_again(self, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        late_s = loop.time() - due_s
        self._timer = loop.call_later(max(late_s, _ANOTHER_TURN_S), self.end)
