"""Rate limits that several processes share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.middleware.shared_rate import SharedRateLimit
from app.state.rates import SharedRate
from app.state.sharing import Sharing
from app.state.store import Store
from tests.flow.fleet import until
from tests.redis_server import RedisServer

KEY = "team"


class Process:
    """One that lets requests in; its clock stands unless it is moved."""

    def __init__(self, redis: RedisServer, who: str, rate: float, burst: float) -> None:
        self.now_s = 100.0
        self.limit = SharedRateLimit(rate, burst, max_buckets=10, now_s=lambda: self.now_s)
        store = Store(redis.url, "test")
        self.sharing = Sharing(store, who)
        rate_ = SharedRate(store, "key", self.limit, lambda: self.sharing.n_members)
        self.sharing.parts.append(rate_.run)

    def let_in(self) -> bool:
        """One request comes."""
        if self.limit.wait_s(KEY):
            return False
        self.limit.take(KEY)
        return True


@asynccontextmanager
async def sharing(
    redis: RedisServer, who: str, rate: float, burst: float
) -> AsyncIterator[Process]:
    """Runs one."""
    process = Process(redis, who, rate, burst)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(process.sharing.run())
        await until(lambda: process.limit._is_shared)
        try:
            yield process
        finally:
            running.cancel()


async def test_what_one_let_in_counts_at_the_other(
    redis: RedisServer, stack: AsyncExitStack
) -> None:
    """Ten at once and one in ten seconds: ten in all, and the one that told the other so."""
    one, other = [
        await stack.enter_async_context(sharing(redis, who, 0.1, 10)) for who in ("p1", "p2")
    ]
    assert sum(one.let_in() for _ in range(12)) == 10
    await until(lambda: not one.limit._taken)
    await asyncio.sleep(0.1)
    n = 0
    for _ in range(20):
        n += other.let_in()
        await asyncio.sleep(0.01)
    # It learns what the other did with its first.
    assert 1 <= n <= 3
    wait_s = other.limit.wait_s(KEY)
    assert 10 * n - 10 < wait_s <= 10 * n + 10


async def test_each_has_its_part_while_the_store_is_away(
    redis: RedisServer, stack: AsyncExitStack
) -> None:
    """Divided by how many there were; whole again afterwards."""
    one, other = [
        await stack.enter_async_context(sharing(redis, who, 10.0, 10)) for who in ("p1", "p2")
    ]
    await until(lambda: one.sharing.n_members == other.sharing.n_members == 2)
    await redis.kill()
    await until(lambda: not one.sharing.is_up and not other.sharing.is_up)
    assert [sum(p.let_in() for _ in range(20)) for p in (one, other)] == [5, 5]
    one.now_s += 1.0
    assert sum(one.let_in() for _ in range(20)) == 5
    await redis.start()
    await until(lambda: one.limit._is_shared)
    one.now_s += 1.0
    assert sum(one.let_in() for _ in range(20)) == 10


def test_nothing_is_noted_for_nobody() -> None:
    """By itself it is a limit like any other, and nothing piles up."""
    now_s = [0.0]
    limit = SharedRateLimit(2.0, 3, max_buckets=10, now_s=lambda: now_s[0])
    for _ in range(3):
        assert limit.wait_s(KEY) == 0
        limit.take(KEY)
    assert math.isclose(limit.wait_s(KEY), 0.5)
    assert limit.told() == {}
    assert not limit.has_taken.is_set()


def test_what_was_taken_meanwhile_is_not_forgotten() -> None:
    """An answer tells of what was told; what came in since is put on top."""
    limit = SharedRateLimit(1.0, 5, max_buckets=10, now_s=lambda: 0.0)
    limit.share()
    limit.take(KEY, 2)
    assert limit.told() == {KEY: 2}
    limit.take(KEY)
    limit.follow(KEY, 4_000_000)
    assert math.isclose(limit.wait_s(KEY), 1.0)
    limit.told()
    limit.follow(KEY, 0)
    assert limit.wait_s(KEY) == 0
    assert len(limit) == 0
