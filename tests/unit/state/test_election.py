"""Who decides for all, by a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.state import election
from app.state.election import Election, Seat
from app.state.sharing import Sharing
from app.state.store import Store
from tests.flow.fleet import until
from tests.redis_server import RedisServer


class Brain:
    """Notes what it is told."""

    def __init__(self, redis: RedisServer, holder: str, address: str) -> None:
        self.epoch = 0
        self.end_s = 0.0
        self.seat: Seat | None = None
        self.store = Store(redis.url, "test")
        self.sharing = Sharing(self.store, "")
        self.sharing.parts.append(Election(self.store, holder, address, self).run)

    def lead(self, epoch: int) -> None:
        self.epoch, self.seat = epoch, None

    def may_until(self, end_s: float) -> None:
        self.end_s = end_s

    def follow(self, seat: Seat | None) -> None:
        self.epoch, self.seat = 0, seat


@asynccontextmanager
async def standing(redis: RedisServer, holder: str, address: str = "h:1") -> AsyncIterator[Brain]:
    """Runs one."""
    brain = Brain(redis, holder, address)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(brain.sharing.run())
        try:
            yield brain
        finally:
            running.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seat that is kept for a shorter time."""
    monkeypatch.setattr(election, "SEAT_S", 0.5)
    monkeypatch.setattr(election, "MARGIN_S", 0.1)
    monkeypatch.setattr(election, "RENEW_S", 0.05)
    monkeypatch.setattr(election, "LOOK_S", 0.02)


async def test_there_is_one_and_the_next_has_a_greater_number(redis: RedisServer) -> None:
    """Its end is noticed, and the other takes the seat once it is free."""
    async with AsyncExitStack() as first:
        one = await first.enter_async_context(standing(redis, "one", "one:1"))
        await until(lambda: one.epoch)
        async with standing(redis, "two", "two:1") as two:
            await until(lambda: two.seat == Seat(1, "one", "one:1"))
            assert (one.epoch, two.epoch) == (1, 0)
            await first.aclose()
            assert one.epoch == 0
            # It gave the seat up: nobody waits for the end of its time.
            assert await two.store._client.get("{test}:brain") in (None, "2|two|two:1")
            await until(lambda: two.epoch == 2)


async def test_who_was_displaced_steps_down_at_once(redis: RedisServer) -> None:
    """It hung for longer than the seat is kept; somebody else has it."""
    async with standing(redis, "one") as one:
        await until(lambda: one.epoch == 1)
        client = one.store._client
        await client.set("{test}:brain", "9|two|two:1", px=60_000)
        await until(lambda: one.seat == Seat(9, "two", "two:1"))
        assert one.epoch == 0
        # And after that one it is not number 2.
        await client.delete("{test}:brain")
        await until(lambda: one.epoch == 10)


async def test_a_brain_that_began_anew_takes_its_own_seat(redis: RedisServer) -> None:
    """Without waiting for the end of the old one's time, and with another number."""
    async with standing(redis, "one") as old:
        await until(lambda: old.epoch == 1)
        async with standing(redis, "one") as new:
            await until(lambda: new.epoch > 1)
            assert new.end_s > old.end_s


async def test_without_the_store_nobody_decides_for_all(redis: RedisServer) -> None:
    """And after it has lost everything, numbers go on."""
    async with standing(redis, "one") as one:
        await until(lambda: one.epoch == 1)
        await redis.kill()
        await until(lambda: one.epoch == 0)
        assert one.seat is None
        await redis.start()
        await until(lambda: one.epoch == 2)
