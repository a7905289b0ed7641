"""Decode legs that are left before they speak, and blocks that are released."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.dispatch import abort as abort_module
from app.dispatch.abort import LegReaper
from app.errors import LegBroken, ShuttingDown
from app.protocol.engine import Complete, EngineRequest, Sampling
from app.upstream.failures import ConnectFailed, UpstreamError
from app.workers.worker import Role, Worker, WorkerSpec

WORKER = Worker(WorkerSpec("grpc://w:1", Role.DECODE))
REQUEST = EngineRequest("r", [1], "", Sampling(), stream=True)


class Clients:
    """Every worker's client; a release waits until it may end."""

    def __init__(self) -> None:
        self.released: list[EngineRequest] = []
        self.may_end = asyncio.Event()
        self.failure: UpstreamError | None = None

    def vllm(self, worker: Worker) -> Clients:
        """The client of a worker."""
        del worker
        return self

    async def release(self, request: EngineRequest) -> bool:
        """Notes it."""
        self.released.append(request)
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return True


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
    """The request is cancelled; the leg is, too, but only after its time."""
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def opening() -> str:
        began.set()
        await cancelled.wait()
        return "over"

    task = reaper.adopt(opening())
    async with asyncio.TaskGroup() as group:
        request = group.create_task(_wait(task))
        await began.wait()
        request.cancel()
    assert not task.done()
    reaper.leave(task, cancelled.set, 0.05)
    await asyncio.sleep(0.01)
    assert (cancelled.is_set(), reaper.n_pending) == (False, 1)
    async with asyncio.timeout(1):
        await asyncio.wait({task})
        await cancelled.wait()
    assert reaper.n_pending == 0


async def _wait(task: asyncio.Task[Any]) -> None:
    await asyncio.shield(task)


async def test_opening_that_speaks_is_cancelled_at_once(reaper: LegReaper) -> None:
    """Its engine has the request, so there is nothing to wait for."""
    speaks, cancelled = asyncio.Event(), asyncio.Event()

    async def opening() -> None:
        await speaks.wait()

    reaper.leave(reaper.adopt(opening()), cancelled.set, 60.0)
    await asyncio.sleep(0)
    assert not cancelled.is_set()
    speaks.set()
    async with asyncio.timeout(1):
        await cancelled.wait()


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
    reaper.leave(opening, cancelled.set, 60.0)
    assert (cancelled.is_set(), reaper.n_pending) == (True, 0)
    assert await opening is True


@pytest.mark.parametrize("failure", [None, ConnectFailed("nobody there")])
async def test_release(reaper: LegReaper, clients: Clients, failure: UpstreamError | None) -> None:
    """One that fails ends with the lease; either way it is over."""
    clients.failure = failure
    reaper.release_blocks(WORKER, REQUEST)
    assert reaper.n_pending == 1
    clients.may_end.set()
    await asyncio.sleep(0.01)
    assert (clients.released, reaper.n_pending) == ([REQUEST], 0)


class Prefilling:
    """A prefill leg whose engine can be told to abort it."""

    def __init__(self, ending: Complete | None) -> None:
        self.told: list[str] = []
        self._ending = ending
        self._over = asyncio.Event()

    async def run(self) -> Complete:
        """Ends when somebody has it aborted, or cancels it."""
        await self._over.wait()
        if self._ending is None:
            raise LegBroken("aborted", leg="prefill", worker_id="w")
        return self._ending

    async def abort(self) -> None:
        """Notes it; a deaf engine goes on."""
        self.told.append("abort")
        if not self.is_deaf:
            self._over.set()

    def cancel(self) -> None:
        """Notes it."""
        self.told.append("cancel")
        self._over.set()

    is_deaf = False


async def ended(reaper: LegReaper, leg: Prefilling) -> list[Complete]:
    """Leaves a prefill; returns what was released."""
    released: list[Complete] = []
    running = reaper.adopt(leg.run())
    await asyncio.sleep(0)
    reaper.abandon(leg, running, released.append)
    while reaper.n_pending:  # noqa: ASYNC110 - bounded by the fixture
        await asyncio.sleep(0.005)
    return released


@pytest.mark.parametrize("has_ended", [False, True], ids=["in time", "too late"])
async def test_abandoned_prefill(reaper: LegReaper, has_ended: bool) -> None:
    """The engine says whether the abort came in time; if not, its blocks are released."""
    ending = Complete((), "length", 3, 1, 0, handoff_json="{}") if has_ended else None
    leg = Prefilling(ending)
    released = await ended(reaper, leg)
    assert leg.told[0] == "abort"
    assert released == ([ending] if has_ended else [])


async def test_abandoned_prefill_of_a_deaf_engine(
    reaper: LegReaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while its call is cancelled."""
    monkeypatch.setattr(abort_module, "ABANDON_TIMEOUT_S", 0.05)
    leg = Prefilling(None)
    leg.is_deaf = True
    assert await ended(reaper, leg) == []
    assert leg.told == ["abort", "cancel"]
