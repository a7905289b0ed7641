"""Finds out that a peer went without a word, by pings (RFC 9113, section 6.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# vLLM's servicer allows a ping every 10 s, with no call open too. A peer that went without a word
# is found within 20 s; until then every call would go to it.
PING_EVERY_S = 10.0
PING_TIMEOUT_S = 10.0
_LATE_S = 0.5


class Keepalive:
    """Pings a peer that has said nothing for a while, and gives up on one that stays silent.

    One timer, which costs nothing for each frame: it looks when it fires how long ago the peer
    was heard.

    Args:
        every_s: Silence after which a ping is sent.
        timeout_s: Longest wait for any word after it.
        ping: Sends a ping.
        give_up: Ends the connection.

    Attributes:
        heard_s: When the peer was heard last, on the loop's clock; set by the connection.
    """

    def __init__(
        self,
        every_s: float,
        timeout_s: float,
        ping: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._ping = ping
        self._give_up = give_up
        self._pinged_s: float | None = None
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0
        self.heard_s = self._loop.time()

    def start(self) -> None:
        """Begins to watch."""
        self.heard_s = self._loop.time()
        self._look_at(self.heard_s + self._every_s)

    def stop(self) -> None:
        """Ends the watch, and lets the connection go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ping = self._give_up = _nothing

    def _look_at(self, due_s: float) -> None:
        # uvloop's handle of a time that is (nearly) now does not tell its time.
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        now_s = self._loop.time()
        if now_s - self._due_s > _LATE_S:
            # This process was held up: what came meanwhile is read before the peer is judged.
            self._look_at(now_s + _LATE_S / 2)
            return
        if self._pinged_s is not None and self.heard_s >= self._pinged_s:
            self._pinged_s = None
        if self._pinged_s is None and now_s >= self.heard_s + self._every_s:
            self._pinged_s = now_s
            self._ping()
        if self._pinged_s is None:
            self._look_at(self.heard_s + self._every_s)
        elif now_s < self._pinged_s + self._timeout_s:
            self._look_at(self._pinged_s + self._timeout_s)
        else:
            self._timer = None
            self._give_up()


def _nothing() -> None:
    """The callback of a watch that ended."""
