"""Steps that several calls take at once."""

from __future__ import annotations

import asyncio

import pytest

from app.dispatch.together import together
from app.errors import LegBroken, WorkerError


async def test_results_are_in_order() -> None:
    """Whoever is done first."""

    async def step(index: int) -> int:
        await asyncio.sleep(0.001 * (3 - index))
        return index

    assert await together(3, step) == [0, 1, 2]


async def test_first_failure_ends_the_others() -> None:
    """It is the one that is raised, bare; nobody goes on."""
    ended: list[int] = []

    async def step(index: int) -> int:
        if index == 1:
            await asyncio.sleep(0)
            raise LegBroken("broken", leg="decode")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(index)
        return index

    async with asyncio.timeout(1):
        with pytest.raises(WorkerError, match="broken"):
            await together(3, step)
    assert sorted(ended) == [0, 2]


async def test_two_failures_raise_the_first() -> None:
    """A second one while the others end changes nothing."""

    async def step(index: int) -> int:
        try:
            await asyncio.sleep(0 if index == 0 else 1)
        except asyncio.CancelledError:
            raise LegBroken("second", leg="decode") from None
        raise LegBroken("first", leg="prefill")

    with pytest.raises(WorkerError, match="first"):
        await together(2, step)


async def test_client_that_leaves_ends_all() -> None:
    """A cancel from outside stays one."""
    n_ended = 0

    async def step(index: int) -> int:
        nonlocal n_ended
        try:
            await asyncio.Event().wait()
        finally:
            n_ended += 1
        return index

    async with asyncio.TaskGroup() as group:
        task = group.create_task(together(2, step))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    assert (task.cancelled(), n_ended) == (True, 2)


async def test_one_call_runs_in_the_callers_own_task() -> None:
    """So that it costs no task."""

    async def step(index: int) -> asyncio.Task[object] | None:
        del index
        return asyncio.current_task()

    assert await together(1, step) == [asyncio.current_task()]
