"""Timeouts, cancellation and fail() at every stage of an exchange, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.upstream.failures import ConnectTimeout, SilenceTimeout, UpstreamError
from app.upstream.http1 import Exchange, Http1Pool

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
STAGES = ["connect", "handshake", "head", "body"]


class Reason(Exception):
    """Why the other leg wants this exchange to end."""


@asynccontextmanager
async def full_listener() -> AsyncIterator[str]:
    """A port whose accept queue is full, so that connecting hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()


@asynccontextmanager
async def hanging_at(stage: str, serve: Any, **options: Any) -> AsyncIterator[Http1Pool]:
    """A pool to a worker that stops talking at the stage; nothing may be left open."""

    async def script(call: Any) -> None:
        await call.body()
        if stage == "body":
            await call.write(HEAD + b"abc")
        await call.until_gone()

    pool: Http1Pool
    if stage == "connect":
        async with full_listener() as url:
            pool = Http1Pool(url, **options)
            yield pool
            await pool.aclose()
    else:
        async with serve(script) as worker:
            url = worker.url
            if stage == "handshake":
                # The worker waits for a request in the clear and never shakes hands.
                options["ssl_context"] = ssl.create_default_context()
                url = url.replace("http:", "https:")
            pool = Http1Pool(url, **options)
            yield pool
            # Given up means closed, not waiting for a garbage collection.
            async with asyncio.timeout(2):
                await worker.quiet.wait()
            await pool.aclose()
    assert (0, 0) == (pool.n_open, pool.n_active)


async def run(exchange: Exchange) -> bytes:
    """All of the exchange, closed in the end whatever happens."""
    try:
        await exchange.head()
        return await exchange.read(1000)
    finally:
        exchange.close()


@pytest.mark.parametrize("stage", STAGES)
async def test_fail_ends_the_pending_await_with_its_reason(serve: Any, stage: str) -> None:
    """From another task, at once, at every stage; nothing stays open."""
    async with hanging_at(stage, serve) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)
        reason = Reason()

        async def reader() -> None:
            with pytest.raises(Reason) as caught:
                await run(exchange)
            assert reason is caught.value

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(reader())
            await asyncio.sleep(0.05)
            exchange.fail(reason)
        assert (stage in ("head", "body")) == exchange.sent


async def test_fail_ends_a_connecting_without_time_limit(serve: Any) -> None:
    """An infinite connect timeout is interrupted like any other."""
    async with hanging_at("connect", serve, connect_timeout_s=float("inf")) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)

        async def reader() -> None:
            with pytest.raises(Reason):
                await run(exchange)

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(reader())
            await asyncio.sleep(0.02)
            exchange.fail(Reason())


@pytest.mark.parametrize("stage", STAGES)
async def test_fail_before_the_await_is_met_by_the_next_one(serve: Any, stage: str) -> None:
    """A reason that is there first wins, and nothing is sent."""
    async with hanging_at(stage, serve) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)
        exchange.fail(Reason())
        with pytest.raises(Reason):
            await run(exchange)
        assert (False, 0) == (exchange.sent, pool.n_open)


@pytest.mark.parametrize("stage", STAGES)
async def test_fail_right_after_the_start_is_not_lost(serve: Any, stage: str) -> None:
    """Between the first step of the reader and the connection being there."""
    async with hanging_at(stage, serve) as pool:
        for n_turns in range(6):
            exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)

            async def reader(exchange: Exchange = exchange) -> None:
                with pytest.raises(Reason):
                    await run(exchange)

            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(reader())
                for _ in range(n_turns):
                    await asyncio.sleep(0)
                exchange.fail(Reason())


@pytest.mark.parametrize("stage", STAGES)
async def test_a_cancelled_await_leaves_an_exchange_that_closes(serve: Any, stage: str) -> None:
    """Cancelling ends the task with CancelledError, closing leaves nothing open."""
    async with hanging_at(stage, serve) as pool:
        for pause_s in (0, 0, 0.001, 0.05):
            exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                task = group.create_task(run(exchange))
                await asyncio.sleep(pause_s)
                task.cancel()
            assert task.cancelled()


async def test_cancelling_and_failing_at_once_stays_a_cancellation(serve: Any) -> None:
    """While connecting, a cancel from outside is not swallowed by fail()."""
    async with hanging_at("handshake", serve) as pool:
        for order in (0, 1):
            exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                task = group.create_task(run(exchange))
                await asyncio.sleep(0.02)
                for step in ((task.cancel, exchange.fail), (exchange.fail, task.cancel))[order]:
                    step(Reason())
            assert task.cancelled()


async def test_an_await_that_was_cancelled_may_be_repeated(serve: Any) -> None:
    """wait_for around chunk() loses no byte."""
    go = asyncio.Event()

    async def script(call: Any) -> None:
        await go.wait()
        await call.write(HEAD + b"abc")
        go.clear()
        await go.wait()
        await call.write(b"defghi")

    async with serve(script) as worker:
        pool = Http1Pool(worker.url)
        exchange = pool.exchange(b"GET", b"/", [], silence_timeout_s=60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(exchange.head(), 0.05)
        go.set()
        assert 200 == (await exchange.head()).status
        data = b""
        while len(data) < 3:
            data += await exchange.chunk()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(exchange.chunk(), 0.05)
        go.set()
        assert b"abcdefghi" == data + await exchange.read(100)
        exchange.close()
        assert (1, 1) == (worker.n_accepted, pool.n_idle)
        await pool.aclose()


@pytest.mark.parametrize("stage", ["head", "body"])
async def test_close_from_another_task_ends_the_pending_await(serve: Any, stage: str) -> None:
    """A reader never waits on a closed exchange."""
    async with hanging_at(stage, serve) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)

        async def reader() -> None:
            with pytest.raises(UpstreamError, match="is closed"):
                await run(exchange)

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(reader())
            await asyncio.sleep(0.05)
            exchange.close()


@pytest.mark.parametrize("stage", STAGES)
async def test_aclose_ends_whatever_runs(serve: Any, stage: str) -> None:
    """A removed worker's exchanges fail, connecting ones too."""
    async with hanging_at(stage, serve) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)

        async def reader() -> None:
            with pytest.raises(UpstreamError, match="removed"):
                await run(exchange)

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(reader())
            await asyncio.sleep(0.05)
            await pool.aclose()


@pytest.mark.parametrize("stage", ["connect", "handshake"])
async def test_a_connection_that_takes_too_long_is_given_up(serve: Any, stage: str) -> None:
    """TCP and TLS together have the connect timeout; nothing was sent."""
    async with hanging_at(stage, serve, connect_timeout_s=0.1) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ConnectTimeout, match=r"within 0\.1 s"):
            await run(exchange)
        assert 0.09 <= asyncio.get_running_loop().time() - began_s < 1
        assert not exchange.sent


@pytest.mark.parametrize("stage", ["head", "body"])
async def test_a_silent_worker_is_given_up(serve: Any, stage: str) -> None:
    """Not before the timeout, and within half of it after; the phase is named."""
    async with hanging_at(stage, serve) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=0.2)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(SilenceTimeout, match=r"nothing for 0\.2 s") as caught:
            await run(exchange)
        assert stage == caught.value.phase
        assert 0.19 <= asyncio.get_running_loop().time() - began_s < 1


async def test_a_worker_that_drips_is_not_silent(serve: Any, pool_for: Any, answer: Any) -> None:
    """The timeout is for silence, not for the whole answer."""
    script = answer(HEAD, *[b"x"] * 9, pause_s=0.05)
    async with serve(script) as worker, pool_for(worker) as pool:
        assert b"x" * 9 == await run(pool.exchange(b"GET", b"/", [], silence_timeout_s=0.2))


async def test_a_shorter_timeout_is_found_beside_a_longer_one(serve: Any) -> None:
    """The sweep is as fine as the shortest exchange needs."""
    async with hanging_at("head", serve) as pool:
        long = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=float("inf"))
        short = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=0.1)
        async with asyncio.timeout(0.8), asyncio.TaskGroup() as group:
            task = group.create_task(run(long))
            await asyncio.sleep(0.01)
            with pytest.raises(SilenceTimeout):
                await run(short)
            assert not task.done()
            task.cancel()
