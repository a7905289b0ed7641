"""Starts what runs beside the requests, and ends it in reverse."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from structlog.typing import FilteringBoundLogger

from app.cluster.pipe_seat import PipeSeat
from app.followed_files import FollowedFiles
from app.gateway import Gateway
from app.gateway.entrance import log_entrance
from app.gateway.held import told_on_signal
from app.observability.log import get_logger
from app.settings import worker_specs

if TYPE_CHECKING:
    from app.observability.flight_file import FlightFile
    from app.observability.tracing import RequestTracing

REAP_S = 3.0
"""Longest wait at the end for aborts that are on their way to engines."""
RESTART_S = 1.0
FLUSH_S = 2.0
"""Longest wait for the collector of traces at the end."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Registers the start-up workers and runs the loops of one application's life."""
    gateway: Gateway = app.state.gateway
    log = get_logger("lifespan")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(gateway.clients.aclose)
        stack.callback(gateway.texts.close)
        stack.callback(gateway.scheduler.close)
        if gateway.tracing is not None:
            stack.push_async_callback(_flush, gateway.tracing, log)
        loops = await stack.enter_async_context(asyncio.TaskGroup())
        await _bring_workers(gateway, stack)
        reaping = loops.create_task(_keep_running("leg reaper", gateway.reaper.run, log))
        stack.enter_context(gateway.metrics.timing())
        others = [
            loops.create_task(_keep_running("process watch", gateway.metrics.watch.run, log)),
            loops.create_task(_keep_running("health loop", gateway.health.run, log)),
            loops.create_task(_keep_running("drain", gateway.drain.run, log)),
        ]
        for name, part in (
            ("load watch", gateway.load_watch),
            ("KV events", gateway.kv_watch),
            ("discovery", gateway.discovery),
            ("shared state", gateway.state),
        ):
            if part is not None:
                others.append(loops.create_task(_keep_running(name, part.run, log)))
        if gateway.flight_file is not None:
            stack.push_async_callback(_write_rest, gateway.flight_file, log)
            writing = _keep_running("flight file", gateway.flight_file.run, log)
            others.append(loops.create_task(writing))
        _wake_on_hangup(gateway.followed, stack)
        others.extend(loops.create_task(_follow(files)) for files in gateway.followed)
        log_entrance(gateway.settings, gateway.entrance)
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


async def _bring_workers(gateway: Gateway, stack: AsyncExitStack) -> None:
    """Registers the start-up workers, or joins the other processes and has theirs."""
    seat, specs = gateway.seat, worker_specs(gateway.settings)
    if gateway.state is not None:
        specs = tuple(await gateway.state.at_start(specs))
    if seat is None:
        for spec in specs:
            gateway.registry.add(spec)
    elif isinstance(seat, PipeSeat):
        await stack.enter_async_context(seat.running())
    else:
        parts = gateway.scheduler, gateway.health, gateway.drain
        await stack.enter_async_context(seat.running(*parts, specs))


def _wake_on_hangup(followed: list[FollowedFiles], stack: AsyncExitStack) -> None:
    """Has SIGHUP read keys and certificates, where this thread may take signals."""

    def wake() -> None:
        for files in followed:
            files.wake()

    if followed and threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, wake)
        stack.callback(loop.remove_signal_handler, signal.SIGHUP)


async def _follow(files: FollowedFiles) -> None:
    log = get_logger("files")
    await _keep_running("followed files", lambda: files.watch(log), log)


async def _write_rest(file: FlightFile, log: FilteringBoundLogger) -> None:
    """Writes the requests of the last moments."""
    try:
        await asyncio.to_thread(file.write)
    except OSError as error:
        log.warning("the last requests were not written", reason=error.strerror)


async def _flush(tracing: RequestTracing, log: FilteringBoundLogger) -> None:
    """Has the last spans sent; a collector that is away may not keep the process."""
    try:
        async with asyncio.timeout(FLUSH_S):
            await asyncio.to_thread(tracing.close)
    except TimeoutError:
        log.warning("the last spans were not sent in time", waited_s=FLUSH_S)


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
