"""Decode legs that are left before they speak, and blocks that are released."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.dispatch import abort as abort_module
from app.dispatch.abort import LegReaper
from app.errors import LegBroken, ShuttingDown
from app.protocol.engine import EngineRequest, Sampling
from app.workers.worker import Role, Worker, WorkerSpec

WORKERS = [Worker(WorkerSpec(f"grpc://w:{i}", Role.DECODE)) for i in range(1, 5)]
REQUEST = EngineRequest("r", [1], "", Sampling(), stream=True)


class Clients:
    """The workers' clients; a release waits until it may end, and ends as it is told."""

    def __init__(self) -> None:
        self.asked: list[Worker] = []
        self.released: list[EngineRequest] = []
        self.may_end = asyncio.Event()
        self.outcomes: list[bool] = []

    def vllm(self, worker: Worker) -> Clients:
        """The client of a worker."""
        self.asked.append(worker)
        return self

    async def release(self, request: EngineRequest) -> bool:
        """Notes it."""
        self.released.append(request)
        await self.may_end.wait()
        return self.outcomes.pop(0) if self.outcomes else True


@pytest.fixture
def clients() -> Clients:
    """Nobody was asked yet."""
    return Clients()


@pytest.fixture
async def reaper(clients: Clients) -> AsyncIterator[LegReaper]:
    """A reaper that runs, and ends with nothing pending."""
    faked: Any = clients
    reaper = LegReaper(faked)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(reaper.run())
        await asyncio.sleep(0)
        yield reaper
        reaper.close()
    assert reaper.n_pending == 0


async def test_opening_outlives_its_request(reaper: LegReaper) -> None:
    """The request is cancelled; the leg is, too, but only after it was ended by other means."""
    began, may_end, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def opening() -> str:
        began.set()
        await cancelled.wait()
        return "over"

    async def end() -> None:
        await may_end.wait()

    task = reaper.adopt(opening())
    async with asyncio.TaskGroup() as group:
        request = group.create_task(_wait(task))
        await began.wait()
        request.cancel()
    assert not task.done()
    reaper.leave(task, cancelled.set, end)
    await asyncio.sleep(0.01)
    assert (cancelled.is_set(), reaper.n_pending) == (False, 1)
    may_end.set()
    async with asyncio.timeout(1):
        await asyncio.wait({task})
        await cancelled.wait()
    assert reaper.n_pending == 0


async def _wait(task: asyncio.Task[Any]) -> None:
    await asyncio.shield(task)


@pytest.mark.parametrize("error", [LegBroken("broken", leg="decode"), ValueError("a defect")])
async def test_opening_that_fails(reaper: LegReaper, error: Exception) -> None:
    """Its error is its result; others are not touched."""

    async def fail() -> None:
        raise error

    async def opening() -> str:
        await asyncio.sleep(0.01)
        return "well"

    other = reaper.adopt(opening())
    failed = reaper.adopt(fail())
    assert (await asyncio.wait({failed}))[1] == set()
    assert failed.result() is error
    assert await other == "well"


async def test_no_opening_without_a_reaper(clients: Clients) -> None:
    """Nobody would end it."""
    faked: Any = clients

    async def opening() -> None:
        raise AssertionError("it must not run")

    with pytest.raises(ShuttingDown):
        _ = LegReaper(faked).adopt(opening())


async def test_one_leg_too_many_is_cancelled_at_once(
    reaper: LegReaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of legs that are left is bounded."""
    monkeypatch.setattr(abort_module, "MAX_PENDING", 0)
    cancelled = asyncio.Event()
    opening = reaper.adopt(cancelled.wait())
    reaper.leave(opening, cancelled.set, asyncio.Event().wait)
    assert (cancelled.is_set(), reaper.n_pending) == (True, 0)
    assert await opening is True


@pytest.mark.parametrize(
    ("outcomes", "n_asked"),
    [([], 1), ([False], 2), ([False, True], 2), ([False, False, False], 3)],
)
async def test_release(
    reaper: LegReaper, clients: Clients, outcomes: list[bool], n_asked: int
) -> None:
    """The workers are tried in turn until one has had it; three in vain, and the lease ends it."""
    clients.outcomes = outcomes
    reaper.release_blocks(WORKERS, REQUEST)
    assert reaper.n_pending == 1
    clients.may_end.set()
    await asyncio.sleep(0.01)
    assert clients.asked == WORKERS[:n_asked]
    assert (clients.released, reaper.n_pending) == ([REQUEST] * n_asked, 0)
