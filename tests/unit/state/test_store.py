"""The connection to the store."""

from __future__ import annotations

import asyncio

import pytest

from app.state.sharing import Sharing
from app.state.store import Store, StoreAway
from tests.redis_server import PASSWORD, RedisServer


async def test_a_store_that_refuses_is_away(redis: RedisServer) -> None:
    store = Store(redis.url.replace(PASSWORD, "wrong"), "test")
    with pytest.raises(StoreAway) as refused:
        await store.ping()
    assert "wrong" not in str(refused.value).lower().replace("wrongpass", "")
    await store.aclose()


async def test_no_error_holds_the_password(redis: RedisServer) -> None:
    """Whatever the client library says."""
    store = Store(redis.url, "test")
    assert store._reason(OSError(f"cannot reach {redis.url}")) == (
        f"OSError: cannot reach redis://:***@127.0.0.1:{redis.port}/0"
    )
    await redis.kill()
    with pytest.raises(StoreAway) as away:
        await store.ping()
    assert PASSWORD not in str(away.value)
    await store.aclose()


async def test_valkey_urls_are_taken(redis: RedisServer) -> None:
    store = Store(redis.url.replace("redis://", "valkey://"), "test")
    await store.ping()
    await store.aclose()


async def test_the_newer_record_is_kept(redis: RedisServer) -> None:
    """Whoever comes late with an older one is told."""
    store = Store(redis.url, "test")
    assert await store.put("a", "2|x") is None
    assert await store.put("a", "1|y") == "2|x"
    assert await store.records() == {"a": "2|x"}
    await store.forget("a", "1|y")
    assert await store.records() == {"a": "2|x"}
    await store.forget("a", "2|x")
    assert await store.records() == {}
    await store.aclose()


async def test_a_cancellation_is_never_lost(redis: RedisServer) -> None:
    """The client library may answer in its place, and a part may fail at that moment."""
    store = Store(redis.url, "test")
    begun = asyncio.Event()

    async def late() -> str:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "an answer"
        raise AssertionError

    async def failing() -> None:
        try:
            await late()
        finally:
            raise StoreAway("at the same moment")

    sharing = Sharing(store, "")
    sharing.parts.append(failing)
    async with asyncio.TaskGroup() as tasks:
        for run in (lambda: store._told(late()), sharing.run):
            begun.clear()
            task = tasks.create_task(run())
            await begun.wait()
            task.cancel()
            await asyncio.wait({task}, timeout=2.0)
            assert task.cancelled()
    await store.aclose()
