"""Comments in a stream that is silent, so that nobody on the way takes it for dead.

Load balancers close connections on which nothing moves (60 s are usual). A comment is a line that
every reader of server-sent events has to pass over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

COMMENT = b": keep-alive\n\n"
_LOOKS = 4


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When a silent stream gets a comment.

    Attributes:
        interval_s: After so many seconds, up to a quarter more; 0: never.
        is_early: Before its first event too.
    """

    interval_s: float = 0.0
    is_early: bool = False


class Silence:
    """Watches one stream without a hand on its events: it looks at a count, four times a period.

    Args:
        interval_s: Length of a silence.
        count: Grows whenever something was sent.
        say: Sends a comment.
        request: The request's task group; owns what sends.
    """

    __slots__ = ("_count", "_handle", "_n_looks", "_n_seen", "_request", "_say", "_task", "_wait_s")

    def __init__(
        self,
        interval_s: float,
        count: Callable[[], int],
        say: Callable[[], Coroutine[Any, Any, None]],
        request: asyncio.TaskGroup,
    ) -> None:
        self._wait_s = interval_s / _LOOKS
        self._count = count
        self._say = say
        self._request = request
        self._n_looks = 0
        self._n_seen = count()
        self._task: asyncio.Task[None] | None = None
        self._handle = asyncio.get_running_loop().call_later(self._wait_s, self._look)

    def end(self) -> None:
        """Watches no more, and takes back a comment that is not out yet."""
        self._handle.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._wait_s, self._look)
        n_sent = self._count()
        if n_sent != self._n_seen:
            self._n_seen = n_sent
            self._n_looks = 0
            return
        self._n_looks += 1
        # A comment that cannot be sent waits for a client that does not read: one will do.
        if self._n_looks >= _LOOKS and (self._task is None or self._task.done()):
            self._n_looks = 0
            self._speak()

    def _speak(self) -> None:
        saying = self._say()
        try:
            self._task = self._request.create_task(saying)
        except RuntimeError:
            # The request is ending.
            saying.close()
