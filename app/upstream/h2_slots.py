"""How many streams a connection may have open at once (RFC 9113, section 5.1.2)."""

from __future__ import annotations

import asyncio
from collections import deque

from app.upstream.h2_frames import MAX_STREAM_ID


class StreamSlots:
    """Handed out in the order they were asked for.

    Attributes:
        n_taken: Slots that are held.
    """

    def __init__(self) -> None:
        self.n_taken = 0
        self._limit = MAX_STREAM_ID
        self._is_closed = False
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def take_now(self) -> bool:
        """Takes a slot if one is free and nobody waits for it."""
        if self.n_taken >= self._limit or self._waiting or self._is_closed:
            return False
        self.n_taken += 1
        return True

    async def take(self) -> bool:
        """Waits for a slot; False: the connection takes no more calls."""
        if self.take_now():
            return True
        if self._is_closed:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Frees a slot."""
        self.n_taken -= 1
        self._hand_out()

    def set_limit(self, limit: int) -> None:
        """The peer's SETTINGS_MAX_CONCURRENT_STREAMS; open streams stay, if they are more."""
        self._limit = limit
        self._hand_out()

    def close(self) -> None:
        """No more are handed out."""
        self._is_closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)

    def _hand_out(self) -> None:
        while self._waiting and self.n_taken < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.n_taken += 1
                turn.set_result(True)
