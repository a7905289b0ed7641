"""One step of several calls at once; the first failure ends the steps of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import WorkerError

T = TypeVar("T")


async def together(n_calls: int, step: Callable[[int], Awaitable[T]]) -> list[T]:
    """Takes one step with every call and returns their results, in order.

    Args:
        n_calls: How many; with one no task is made.
        step: The step, given the number of its call.

    Raises:
        WorkerError: The first failure.
    """
    if n_calls == 1:
        return [await step(0)]
    failures: list[WorkerError] = []
    results: dict[int, T] = {}
    async with asyncio.TaskGroup() as group:

        async def take(index: int) -> None:
            try:
                results[index] = await step(index)
            except WorkerError as error:
                failures.append(error)
                for task in tasks:
                    if task is not asyncio.current_task():
                        task.cancel()

        tasks = [group.create_task(take(index)) for index in range(n_calls)]
    if failures:
        raise failures[0]
    return [results[index] for index in range(n_calls)]
