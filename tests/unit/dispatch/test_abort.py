"""Legs that nobody waits for are ended, within bounds, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.dispatch import abort as abort_module
from app.dispatch.abort import LegReaper
from app.upstream.failures import BrokenResponse, UpstreamError
from app.workers.worker import Role, Worker, WorkerSpec

WORKER = Worker(WorkerSpec("http://w:1", Role.DECODE))


class Leg:
    """An exchange that was sent and goes on until it is told otherwise."""

    def __init__(self, *, sent: bool = True, done: bool = False) -> None:
        self.sent = sent
        self.done = done
        self.is_closed = False
        self.ends = asyncio.Event()
        self.failure: UpstreamError | None = None

    async def head(self) -> None:
        """Comes at once, unless the exchange failed."""
        if self.failure is not None:
            raise self.failure

    async def read(self, limit: int) -> bytes:
        """Waits for the end."""
        await self.ends.wait()
        if self.is_closed:
            raise UpstreamError("closed")
        self.done = True
        return b""

    def close(self) -> None:
        """Notes it, and ends the reading."""
        self.is_closed = True
        self.ends.set()


class Aborting:
    """Every worker's client; aborts wait for ``may_end``."""

    def __init__(self) -> None:
        self.aborted: list[str] = []
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None

    def get(self, worker: Worker) -> Any:
        """The client of a worker."""
        return self

    async def abort(self, rids: list[str]) -> int:
        """Notes it."""
        self.aborted += rids
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return len(rids)


@pytest.fixture
def clients() -> Aborting:
    """What aborts are sent through."""
    return Aborting()


@pytest.fixture
async def reaper(clients: Aborting) -> AsyncIterator[LegReaper]:
    """A reaper that runs, and ends with nothing pending."""
    faked: Any = clients
    reaper = LegReaper(faked)
    async with asyncio.TaskGroup() as group:
        group.create_task(reaper.run())
        await asyncio.sleep(0)
        yield reaper
        clients.may_end.set()
        reaper.close()
    assert reaper.n_pending == 0


def faked(leg: Leg) -> Any:
    """A leg where an exchange is expected."""
    return leg


async def turns(n: int = 10) -> None:
    """Lets everything run that can."""
    for _ in range(n):
        await asyncio.sleep(0)


async def test_leg_is_aborted_then_closed(reaper: LegReaper, clients: Aborting) -> None:
    """The connection stays until the engine was told: it is the second, slower way."""
    leg = Leg()
    reaper.give_up(WORKER, ["a", "b"], faked(leg))
    await turns()
    assert (clients.aborted, leg.is_closed, reaper.n_pending) == (["a", "b"], False, 1)
    clients.may_end.set()
    await turns()
    assert (leg.is_closed, reaper.n_pending) == (True, 0)


@pytest.mark.parametrize("leg", [{"sent": False}, {"done": True}])
async def test_leg_that_needs_no_abort(
    reaper: LegReaper, clients: Aborting, leg: dict[str, bool]
) -> None:
    """Nothing was sent, or everything came: it is closed and nobody is asked."""
    each = Leg(**leg)
    reaper.give_up(WORKER, ["a"], faked(each))
    assert each.is_closed
    assert (clients.aborted, reaper.n_pending) == ([], 0)


@pytest.mark.parametrize("failure", [BrokenResponse("cut"), TimeoutError()])
async def test_abort_that_fails_closes_all_the_same(
    reaper: LegReaper, clients: Aborting, failure: Exception
) -> None:
    """The engine notices the closed connection instead."""
    clients.failure = failure
    clients.may_end.set()
    leg = Leg()
    reaper.give_up(WORKER, ["a"], faked(leg))
    await turns()
    assert leg.is_closed


async def test_abort_is_bounded(
    reaper: LegReaper, clients: Aborting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that does not answer its abort is not waited for."""
    monkeypatch.setattr(abort_module, "ABORT_TIMEOUT_S", 0.01)
    leg = Leg()
    reaper.give_up(WORKER, ["a"], faked(leg))
    await asyncio.sleep(0.05)
    assert (leg.is_closed, reaper.n_pending) == (True, 0)


async def test_drained_leg_is_read_to_its_end(reaper: LegReaper, clients: Aborting) -> None:
    """So that its connection can be used again; its engine is left alone."""
    leg = Leg()
    reaper.drain(faked(leg))
    await turns()
    assert (leg.is_closed, reaper.n_pending) == (False, 1)
    leg.ends.set()
    await turns()
    assert (leg.is_closed, leg.done, clients.aborted) == (True, True, [])


async def test_end_does_not_wait_for_drained_legs(reaper: LegReaper) -> None:
    """At shutdown nobody needs their connections any more."""
    leg = Leg()
    reaper.drain(faked(leg))
    await turns()
    reaper.close()
    await turns()
    assert (leg.is_closed, leg.done, reaper.n_pending) == (True, False, 0)


async def test_drained_leg_that_fails(reaper: LegReaper) -> None:
    """Its request was answered long ago."""
    leg = Leg()
    leg.failure = BrokenResponse("cut")
    reaper.drain(faked(leg))
    await turns()
    assert leg.is_closed


async def test_complete_leg_needs_no_draining(reaper: LegReaper) -> None:
    """It is closed at once."""
    leg = Leg(done=True)
    reaper.drain(faked(leg))
    assert (leg.is_closed, reaper.n_pending) == (True, 0)


async def test_number_of_pending_legs_is_bounded(
    reaper: LegReaper, clients: Aborting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many is just closed."""
    monkeypatch.setattr(abort_module, "MAX_PENDING", 2)
    legs = [Leg() for _ in range(3)]
    for leg in legs:
        reaper.give_up(WORKER, ["a"], faked(leg))
    assert [leg.is_closed for leg in legs] == [False, False, True]


async def test_reaper_that_does_not_run_closes(clients: Aborting) -> None:
    """Before the start and after the end a leg is closed rather than kept for ever."""
    fakes: Any = clients
    leg = Leg()
    LegReaper(fakes).give_up(WORKER, ["a"], faked(leg))
    assert leg.is_closed
