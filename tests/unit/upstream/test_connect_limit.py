"""The limit of connecting, in a loop that is late."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from typing import Any

import pytest
import uvloop

from app.upstream.connect_limit import ConnectLimit
from app.upstream.failures import OutOfFiles
from app.upstream.http1 import Http1Pool


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_late_loop_does_not_blame_the_worker(new_loop: Any) -> None:
    """The loop stands still for twice the limit while the connection comes about."""

    async def connect(port: int) -> int:
        pool = Http1Pool(f"http://127.0.0.1:{port}", connect_timeout_s=0.1)
        exchange = pool.exchange(b"GET", b"/", [], silence_timeout_s=5)
        async with asyncio.TaskGroup() as group:
            group.create_task(exchange.connect())
            await asyncio.sleep(0)  # it is on its way, and its timer runs
            time.sleep(0.2)  # noqa: ASYNC251  (this is what is tried)
        n_open = pool.n_open
        exchange.close()
        await pool.aclose()
        return n_open

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        assert runner.run(connect(listener.getsockname()[1])) == 1


async def test_the_time_is_over() -> None:
    """What does not come about is ended, and only this await is."""
    begun_s = time.monotonic()
    with pytest.raises(TimeoutError):
        async with ConnectLimit(0.05):
            await asyncio.Event().wait()
    assert 0.05 <= time.monotonic() - begun_s < 2
    async with ConnectLimit(0.01):
        pass
    await asyncio.sleep(0.05)


async def test_no_limit_and_an_end_from_elsewhere() -> None:
    """Without a limit it waits until somebody ends it."""
    limit = ConnectLimit(float("inf"))
    asyncio.get_running_loop().call_later(0.02, limit.end)
    with pytest.raises(TimeoutError):
        async with limit:
            await asyncio.Event().wait()


async def test_want_of_files_is_not_the_workers_fault() -> None:
    """The system's own refusal, at a limit where the next file would be one too many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = Http1Pool(f"http://127.0.0.1:{listener.getsockname()[1]}")
        exchange = pool.exchange(b"GET", b"/", [], silence_timeout_s=5)
        next_file = os.dup(listener.fileno())
        os.close(next_file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, hard))
        try:
            with pytest.raises(OutOfFiles):
                await exchange.connect()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        exchange.close()
        await pool.aclose()
