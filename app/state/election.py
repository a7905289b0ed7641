"""Which of several replicas' brains decides for all."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from app.state.store import StoreAway

if TYPE_CHECKING:
    from app.state.store import Store

SEAT_S = 3.0
"""How long the seat is kept for who has it; so long nobody takes it from a brain that hangs."""
MARGIN_S = 0.5
"""A brain stops to decide so much earlier: clocks run unevenly, and words take a while."""
RENEW_S = 0.5
LOOK_S = 0.25
RESIGN_S = 0.3


class Seat(NamedTuple):
    """Who decides.

    Attributes:
        epoch: A number that no earlier one had.
        holder: Which replica.
        address: HOST:PORT of its brain.
    """

    epoch: int
    holder: str
    address: str


class Candidate(Protocol):
    """A brain that can decide for all."""

    def lead(self, epoch: int) -> None:
        """Begins to."""

    def may_until(self, end_s: float) -> None:
        """May do so until then, on the loop's clock."""

    def follow(self, seat: Seat | None) -> None:
        """Ends to, if it did; somebody else does, or nobody."""


class Election:
    """Stands for the seat.

    Args:
        store: Where the seat is.
        holder: This replica, the same after its brain began anew; without a bar.
        address: Where its brain is reached.
        candidate: The brain.
    """

    def __init__(self, store: Store, holder: str, address: str, candidate: Candidate) -> None:
        self._store = store
        self._holder = holder
        self._address = address
        self._candidate = candidate
        self._epoch = 0
        self._log = structlog.get_logger("tandem.state")

    async def run(self) -> None:
        """Stands until cancelled.

        Raises:
            StoreAway: The store is; then this brain decides for its own replica only.
        """
        loop, known = asyncio.get_running_loop(), None
        try:
            while True:
                asked_s = loop.time()
                told = await self._store.elect(
                    self._holder, self._address, self._epoch, round(SEAT_S * 1000)
                )
                epoch, holder, address = told.split("|", 2)
                seat = Seat(int(epoch), holder, address)
                self._epoch = max(self._epoch, seat.epoch)
                if holder == self._holder:
                    await self._hold(told, seat, asked_s)
                    known = None
                elif seat != known:
                    self._candidate.follow(seat)
                    known = seat
                await asyncio.sleep(LOOK_S)
        finally:
            self._candidate.follow(None)

    async def _hold(self, told: str, seat: Seat, asked_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._candidate.may_until(asked_s + SEAT_S - MARGIN_S)
        self._candidate.lead(seat.epoch)
        self._log.info("decides for all replicas", epoch=seat.epoch)
        try:
            while True:
                await asyncio.sleep(RENEW_S)
                asked_s = loop.time()
                if not await self._store.renew(told, round(SEAT_S * 1000)):
                    return
                self._candidate.may_until(asked_s + SEAT_S - MARGIN_S)
        except asyncio.CancelledError:
            # So that nobody has to wait for the end of its time.
            with suppress(StoreAway, TimeoutError):
                async with asyncio.timeout(RESIGN_S):
                    await self._store.resign(told)
            raise
        finally:
            self._candidate.follow(None)
            self._log.info("decides for its own replica only", epoch=seat.epoch)
