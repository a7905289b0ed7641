"""Starts what runs beside the requests, and ends it in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from structlog.typing import FilteringBoundLogger

from app.gateway import Gateway
from app.held import told_on_signal
from app.observability.log import get_logger
from app.settings import worker_specs

REAP_S = 3.0
"""Longest wait at the end for aborts that are on their way to engines."""
RESTART_S = 1.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Registers the start-up workers and runs the loops of one application's life."""
    gateway: Gateway = app.state.gateway
    log = get_logger("lifespan")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(gateway.clients.aclose)
        stack.callback(gateway.texts.close)
        loops = await stack.enter_async_context(asyncio.TaskGroup())
        for spec in worker_specs(gateway.settings):
            gateway.registry.add(spec)
        reaping = loops.create_task(_keep_running("leg reaper", gateway.reaper.run, log))
        others = [
            loops.create_task(_keep_running("health loop", gateway.health.run, log)),
            loops.create_task(_keep_running("drain", gateway.drain.run, log)),
        ]
        stack.enter_context(told_on_signal(gateway, log))
        log.info("gateway started", workers=len(gateway.registry.workers()))
        try:
            yield
        finally:
            gateway.life.is_ending = True
            for task in others:
                task.cancel()
            gateway.reaper.close()
            await asyncio.wait({reaping}, timeout=REAP_S)
            reaping.cancel()
    log.info("gateway stopped")


async def _keep_running(
    name: str, run: Callable[[], Awaitable[None]], log: FilteringBoundLogger
) -> None:
    """Runs a loop to its end; a defect is logged and the loop started anew.

    Without this, one bad probe result would take the whole application down with the group.
    """
    while True:
        try:
            await run()
            return
        except Exception:
            log.exception("a background loop failed and is started again", loop=name)
            await asyncio.sleep(RESTART_S)
