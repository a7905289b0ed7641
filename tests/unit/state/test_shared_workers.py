"""Workers that are changed at one replica, as the others have them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from app.state import shared_workers
from app.workers.lease import Lease
from app.workers.states import Event, State
from app.workers.worker import Role, WorkerSpec
from tests.flow.fleet import until
from tests.redis_server import RedisServer
from tests.unit.state.replica import Replica, sharing

A, B, C = "http://a:1", "http://b:1", "http://c:1"


async def two(redis: RedisServer, stack: AsyncExitStack, *named: WorkerSpec) -> list[Replica]:
    """Two replicas that share."""
    found = [await stack.enter_async_context(sharing(redis, who, *named)) for who in ("r1", "r2")]
    await until(lambda: all(replica.sharing.is_up for replica in found))
    return found


async def test_a_change_is_seen_by_the_other(redis: RedisServer, stack: AsyncExitStack) -> None:
    """Added, changed, removed: each by the word of it, not by the comparison of all."""
    one, other = await two(redis, stack)
    added = one.post(A, api_key="k", labels={"zone": "a"}, dp_rank=1, model_ids=("m",))
    await until(lambda: other.registry.find(f"{A}@1") is not None)
    seen = other.registry.find(f"{A}@1")
    assert seen is not None
    assert seen.spec == added.spec
    assert seen.state is State.JOINING
    other.registry.apply(seen, Event.JOINED)
    other.registry.set_spec(seen, replace(seen.spec, labels={}, api_key="new"))
    other.workers.changed(seen)
    await until(lambda: added.spec.api_key == "new")
    assert added.spec.labels == {}
    assert one.asked == [A]
    lease = Lease.take(seen, 0)
    one.delete(f"{A}@1")
    await until(lambda: seen.state is State.DRAINING)
    assert not one.urls()
    lease.release()
    await until(lambda: not other.urls())


async def test_force_counts_everywhere(redis: RedisServer, stack: AsyncExitStack) -> None:
    """What runs at the other replica is ended too."""
    one, other = await two(redis, stack)
    one.post(A)
    await until(lambda: other.registry.find(A) is not None)
    seen = other.registry.find(A)
    assert seen is not None
    other.registry.apply(seen, Event.JOINED)
    Lease.take(seen, 0)
    one.delete(A, is_forced=True)
    await until(lambda: seen.state is State.DRAINING)
    progress = other.drain.progress(seen)
    assert progress is not None
    assert progress.end is Event.FORCED


async def test_one_that_comes_later_has_it_all(redis: RedisServer, stack: AsyncExitStack) -> None:
    """What was added is there, and what the settings name and was removed is not."""
    named = [WorkerSpec(url, Role.DECODE) for url in (A, B)]
    one = await stack.enter_async_context(sharing(redis, "r1", *named))
    one.delete(A)
    one.post(C)
    await until(lambda: one.urls() == {B, C})
    late = await stack.enter_async_context(sharing(redis, "r2", *named))
    await until(lambda: late.urls() == {B, C})
    # And back again, by whoever is asked.
    late.post(A)
    await until(lambda: one.urls() == {A, B, C})


async def test_a_store_that_lost_everything_gets_it_back(
    redis: RedisServer, stack: AsyncExitStack
) -> None:
    """Kill -9 and an empty one: what was there, and what was changed meanwhile, is everywhere."""
    named = WorkerSpec(A, Role.DECODE)
    one, other = await two(redis, stack, named)
    one.post(B)
    await until(lambda: other.urls() == {A, B})
    await redis.kill()
    await until(lambda: not one.sharing.is_up and not other.sharing.is_up)
    other.post(C)
    one.delete(A)
    await redis.start()
    await until(lambda: one.urls() == other.urls() == {B, C})
    assert one.sharing.n_losses == other.sharing.n_losses == 1
    late = await stack.enter_async_context(sharing(redis, "r3", named))
    await until(lambda: late.urls() == {B, C})


async def test_the_later_of_two_changes_counts(redis: RedisServer, stack: AsyncExitStack) -> None:
    """Made at two replicas while neither could tell the other."""
    one, other = await two(redis, stack)
    one.post(A)
    await until(lambda: other.urls() == {A})
    await redis.kill()
    await until(lambda: not one.sharing.is_up and not other.sharing.is_up)
    one.delete(A)
    one.post(B)
    one.delete(B)
    other.post(B)
    await redis.start()
    await until(lambda: one.urls() == other.urls())
    # Two changes of B at one replica, one at the other.
    assert one.urls() == set()


async def test_what_was_restored_without_a_record_is_kept(
    redis: RedisServer, stack: AsyncExitStack
) -> None:
    """A brain that began anew has workers of the pipes, and the store may be a new one."""
    one = await stack.enter_async_context(sharing(redis, "r1"))
    one.registry.apply(one.registry.add(WorkerSpec(B, Role.DECODE)), Event.JOINED)
    other = await stack.enter_async_context(sharing(redis, "r2"))
    await redis.kill()
    await until(lambda: not one.sharing.is_up and not other.sharing.is_up)
    await redis.start()
    await until(lambda: other.urls() == {B})


async def test_a_new_worker_waits_for_the_old_one_to_leave(
    redis: RedisServer, stack: AsyncExitStack
) -> None:
    """The same URL with another role: what runs on the old one ends first."""
    one, other = await two(redis, stack)
    one.post(A)
    await until(lambda: other.urls() == {A})
    old = other.registry.find(A)
    assert old is not None
    other.registry.apply(old, Event.JOINED)
    lease = Lease.take(old, 0)
    one.delete(A)
    await until(lambda: one.urls() == set())
    new = one.registry.add(WorkerSpec(A, Role.PREFILL))
    one.workers.changed(new)
    await until(lambda: old.state is State.DRAINING)
    lease.release()
    await until(lambda: (w := other.registry.find(A)) is not None and w.id == new.id)


async def test_a_worker_that_went_by_a_rule_stays_away(
    redis: RedisServer, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only news are followed: comparing everything does not bring it back."""
    monkeypatch.setattr(shared_workers, "RECONCILE_S", 0.05)
    one, other = await two(redis, stack)
    one.post(A)
    await until(lambda: other.urls() == {A})
    worker = other.registry.find(A)
    assert worker is not None
    other.registry.remove(worker.id, "unhealthy for too long")
    one.post(B)
    await until(lambda: other.urls() == {B})
    n_seen = 0

    async def records() -> dict[str, str]:
        nonlocal n_seen
        n_seen += 1
        return await type(other.store).records(other.store)

    monkeypatch.setattr(other.store, "records", records)
    await until(lambda: n_seen > 1)
    assert other.urls() == {B}


async def test_old_removals_are_forgotten(redis: RedisServer, stack: AsyncExitStack) -> None:
    """Of workers that no settings name; the others would come back with the next start."""
    one = await stack.enter_async_context(sharing(redis, "r1", WorkerSpec(A, Role.DECODE)))
    one.post(B)
    one.delete(A)
    one.delete(B)
    await until(lambda: not one.urls() and one.sharing.is_up)

    async def kept() -> set[str]:
        return set(await one.store.records())

    async def sent() -> bool:
        return await kept() == {A, B}

    for _ in range(200):
        if await sent():
            break
    one.workers._unix_s = lambda: 1.0e9 + shared_workers.KEPT_S + 1
    await one.workers._reconcile()
    assert await kept() == {A}
