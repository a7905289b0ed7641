"""What a process does with the store as long as it is there; and its coming and going."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog

from app.state.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.state.store import Store

    Part = Callable[[], Awaitable[None]]

BEAT_S, LIFE_S = 1.0, 5.0
"""How often a process says that it lives, and how long each word counts."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class Sharing:
    """Keeps the connection, and runs the parts of this process that need it.

    Args:
        store: The store.
        member: This process among those that divide limits; empty: it is none of them.

    Attributes:
        parts: Each runs until the store goes away, and is started anew when it is back.
        is_up: The store is there.
        n_losses: How often it went away.
        n_members: Processes that divide limits, as last known; 1 or more.
    """

    def __init__(self, store: Store, member: str) -> None:
        self._store = store
        self._member = member
        self.parts: list[Part] = [self._beat] if member else []
        self.is_up = False
        self.n_losses = 0
        self.n_members = 1
        self._log = structlog.get_logger("tandem.state")
        self._has_warned = False

    async def run(self) -> None:
        """Keeps it up until cancelled."""
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                # In a group of its own: one that is cancelled while a child fails tells only
                # of the failure (Python 3.11).
                async with asyncio.TaskGroup() as tasks:
                    session = tasks.create_task(self._session())
                pause_s = FIRST_PAUSE_S if session.result() else min(2 * pause_s, LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
        finally:
            self.is_up = False
            await self._store.aclose()

    async def _session(self) -> bool:
        """Runs the parts until the store goes away; returns whether it was there at all."""
        was_there = False
        try:
            await self._store.ping()
            was_there = True
            self._come()
            async with asyncio.TaskGroup() as tasks:
                for part in self.parts:
                    tasks.create_task(_whole(part))
        except* StoreAway as group:
            self._go(group)
        return was_there

    async def _beat(self) -> None:
        while True:
            self.n_members = max(1, await self._store.beat(self._member, int(LIFE_S * 1000)))
            await asyncio.sleep(BEAT_S)

    def _come(self) -> None:
        self.is_up = True
        self._has_warned = False
        self._log.info("shared state is there", losses=self.n_losses)

    def _go(self, group: BaseExceptionGroup[StoreAway]) -> None:
        self.n_losses += self.is_up
        self.is_up = False
        if not self._has_warned:
            # Once, not at each attempt.
            self._has_warned = True
            reason = str(_first(group))
            self._log.warning("shared state is away; going on without", reason=reason)


async def _whole(part: Part) -> None:
    await part()


def _first(group: BaseExceptionGroup[StoreAway]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
