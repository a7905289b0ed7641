"""What the brain asks of all pipes at once: their metrics, their last requests."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.cluster.pipe_desk import PipeDesk

ANSWER_S = 2.0
"""Longest wait for a pipe; one that is busy for longer is left out."""
_Said = tuple[int, int, Any]


class Gathering:
    """Questions that wait for the pipes' answers."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[PipeDesk, int], asyncio.Future[_Said]] = {}
        self._numbers = itertools.count(1)

    async def ask(self, desks: Iterable[PipeDesk], what: str, *words: Any) -> list[_Said]:
        """Returns number, process id and answer of all pipes that answer in time.

        Args:
            desks: Theirs.
            what: One of the things that pipes show.
            words: Which of it.
        """
        no, loop = next(self._numbers), asyncio.get_running_loop()
        asked: dict[tuple[PipeDesk, int], asyncio.Future[_Said]] = {}
        for desk in desks:
            asked[desk, no] = loop.create_future()
            desk.wire.tell("show", no, what, *words)
        self._waiting |= asked
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=ANSWER_S)
            return [
                said.result() for said in asked.values() if said.done() and not said.cancelled()
            ]
        finally:
            for key in asked:
                del self._waiting[key]

    def take(self, desk: PipeDesk, no: int, pid: int, said: Any) -> None:
        """Takes an answer, unless it comes too late."""
        waiting = self._waiting.get((desk, no))
        if waiting is not None and not waiting.done():
            waiting.set_result((desk.number, pid, said))

    def lose(self, desk: PipeDesk) -> None:
        """Waits no longer for a pipe that has left."""
        for key, waiting in self._waiting.items():
            if key[0] is desk and not waiting.done():
                waiting.cancel()
