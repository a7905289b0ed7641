"""Fleets of a thousand: what is not gone through for a request, and ranks without a place."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from app.cluster.worker_copy import pulse_of, take_pulse
from app.policies.least_load import LeastLoad
from app.scheduling.decode_room import DecodeRoom
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import Ask, LocalScheduler, Outcome
from app.scheduling.usable import usable
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec
from tests.unit.scheduling.test_queue_scheduler import FACTS
from tests.unit.scheduling.test_scheduler import Hand


def made(registry: Registry, role: Role, n: int, n_kv_tokens: int | None = None) -> list[Worker]:
    workers = []
    for number in range(n):
        worker = registry.add(WorkerSpec(f"http://{role}-{number}", role))
        registry.set_info(worker, WorkerInfo(("m",), max_total_tokens=n_kv_tokens))
        registry.set_state(worker, State.READY)
        workers.append(worker)
    return workers


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def registry(clock: Hand) -> Registry:
    return Registry(now_s=clock)


async def test_workers_without_a_place_get_their_share(clock: Hand, registry: Registry) -> None:
    """The queue can feed half of them; the others get half of the requests, by the policy."""
    early = LocalScheduler(registry, LeastLoad(), LeastLoad(), clock)
    queue = QueueScheduler(early, registry, clock, QueueLimits(poll_s=100.0, n_places=40))
    # The index rounds its places up to whole words.
    workers = made(registry, Role.PREFILL, 128)
    made(registry, Role.DECODE, 1)
    got: Counter[str] = Counter()
    for _ in range(256):
        grant = await queue.ask(Ask(FACTS))
        got[grant.pair.prefill.id] += 1
        queue.done(grant, Outcome.OK)
    unplaced = [worker.id for worker in workers if not queue.view.has_place(worker)]
    assert len(unplaced) == 64
    assert queue.view.n_early == 128
    assert all(got[worker_id] for worker_id in unplaced)
    queue.close()


def test_untroubled_workers_are_not_copied(clock: Hand, registry: Registry) -> None:
    workers = tuple(made(registry, Role.PREFILL, 3))
    assert usable(workers, frozenset(), clock(), registry.troubles) is workers


def test_an_open_breaker_and_a_full_worker_are_seen(clock: Hand, registry: Registry) -> None:
    workers = tuple(made(registry, Role.PREFILL, 3))

    def found() -> Sequence[Worker]:
        return usable(workers, frozenset(), clock(), registry.troubles)

    _open(workers[0])
    assert list(found()) == [workers[1], workers[2]]
    workers[0].breaker.reset()
    assert found() is workers
    workers[1].back_off(clock() + 5)
    assert list(found()) == [workers[0], workers[2]]
    clock.s += 6
    assert found() is workers


def test_troubles_are_those_of_one_registry(clock: Hand, registry: Registry) -> None:
    """Neither another registry's count, nor those of a worker that was removed."""
    (worker,) = made(registry, Role.PREFILL, 1)
    other = Registry(clock)
    (far,) = made(other, Role.PREFILL, 1)
    _open(far)
    far.back_off(clock() + 5)
    assert registry.troubles.are_none(clock())
    assert not other.troubles.are_none(clock())
    clock.s += 6
    assert not other.troubles.are_none(clock())
    other.remove(far.id)
    assert other.troubles.are_none(clock())
    registry.remove(worker.id)
    _open(worker)
    worker.back_off(clock() + 5)
    assert registry.troubles.are_none(clock())


def test_a_copied_worker_is_in_trouble_as_its_own_is(clock: Hand, registry: Registry) -> None:
    """What a pipe follows of the brain's workers counts when it has to choose by itself."""
    (worker,) = made(registry, Role.PREFILL, 1)
    _open(worker)
    pulse = pulse_of(worker)
    mirror = Registry(clock)
    (copied,) = made(mirror, Role.PREFILL, 1)
    take_pulse(copied, pulse)
    assert not mirror.troubles.are_none(clock())
    worker.breaker.reset()
    take_pulse(copied, pulse_of(worker))
    assert mirror.troubles.are_none(clock())
    worker.back_off(clock() + 5)
    take_pulse(copied, pulse_of(worker))
    assert not mirror.troubles.are_none(clock())


def _open(worker: Worker) -> None:
    for _ in range(worker.breaker.failure_threshold):
        worker.breaker.record_failure()


async def test_the_queue_sees_a_breaker_that_opens_while_requests_wait(
    clock: Hand, registry: Registry
) -> None:
    """What was worked out for an untroubled fleet does not outlive a trouble."""
    early = LocalScheduler(registry, LeastLoad(), LeastLoad(), clock)
    queue = QueueScheduler(early, registry, clock, QueueLimits(poll_s=100.0))
    one, other = made(registry, Role.PREFILL, 2)
    made(registry, Role.DECODE, 1)
    grants = [await queue.ask(Ask(FACTS)) for _ in range(2)]
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(queue.ask(Ask(FACTS)))
        await asyncio.sleep(0)
        assert queue.n_waiting == 1
        for _ in range(one.breaker.failure_threshold):
            one.breaker.record_failure()
        for grant in grants:
            queue.done(grant, Outcome.OK)
    assert asking.result().pair.prefill is other
    queue.done(asking.result(), Outcome.OK)
    queue.close()


def test_room_is_told_alike_with_and_without_looking(registry: Registry) -> None:
    """The short way through a group and the look at each worker of a list agree."""
    workers = tuple(made(registry, Role.DECODE, 3, n_kv_tokens=100))
    room = DecodeRoom()
    for n_held, number in ((50, 0), (90, 1), (60, 2), (30, 2)):
        room.hold(workers[number], n_held)
        for n_tokens in (5, 10, 30, 50, 51, 200):
            assert list(room.with_room(workers, n_tokens)) == room.with_room(
                list(workers), n_tokens
            )
    room.release(workers[2], 90)
    assert list(room.with_room(workers, 20)) == [workers[0], workers[2]]
    room.release(workers[1], 90)
    assert room.with_room(workers, 20) is workers
