"""An answer that is handed over whole, without anybody waiting for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.upstream.failures import BodyTooLong, BrokenResponse, SilenceTimeout, WorkerRemoved
from app.upstream.http1 import Exchange, Head, Http1Pool

PAUSE_S = 0.02
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
Over = tuple[Head | None, bytes, BaseException | None]


class Once:
    """Takes what is handed over; twice is a failure."""

    def __init__(self) -> None:
        self.over: asyncio.Future[Over] = asyncio.get_running_loop().create_future()

    def __call__(self, head: Head | None, body: bytes, failure: BaseException | None) -> None:
        self.over.set_result((head, body, failure))

    async def result(self) -> Over:
        """What was handed over."""
        async with asyncio.timeout(5):
            return await self.over


async def begun(pool: Http1Pool, silence_s: float = 60.0) -> tuple[Exchange, Once]:
    """A followed exchange; at most 20 bytes of a good answer are taken, 5 of another."""
    exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=silence_s)
    await exchange.connect()
    once = Once()
    assert exchange.follow(once, 20, 5)
    return exchange, once


def in_pieces(*pieces: bytes, is_cut: bool = False) -> Any:
    """A worker that writes these with pauses."""

    async def script(call: Any) -> None:
        await call.body()
        for piece in pieces:
            await call.write(piece)
            await asyncio.sleep(PAUSE_S)
        if is_cut:
            call.close()

    return script


@pytest.mark.parametrize("pieces", [(OK + b"abcdefghi",), (OK[:20], OK[20:] + b"abc", b"defghi")])
async def test_whole(serve: Any, pieces: tuple[bytes, ...]) -> None:
    """Once, all of it; the connection is used again."""
    async with serve(in_pieces(*pieces)) as worker:
        pool = Http1Pool(worker.url)
        for _ in range(2):
            exchange, once = await begun(pool)
            head, body, failure = await once.result()
            assert head is not None
            assert (head.status, body, failure) == (200, b"abcdefghi", None)
            assert exchange.done
            exchange.close()
        assert worker.n_accepted == 1
        await pool.aclose()


@pytest.mark.parametrize(
    ("status", "n_bytes", "is_good"), [(200, 20, True), (200, 21, False), (422, 6, False)]
)
async def test_too_long(serve: Any, status: int, n_bytes: int, is_good: bool) -> None:
    """It ends at the limit of its status, without the rest, which may never come."""
    head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, n_bytes + (not is_good))
    async with serve(in_pieces(head, b"x" * n_bytes)) as worker:
        pool = Http1Pool(worker.url)
        exchange, once = await begun(pool)
        found, body, failure = await once.result()
        assert found is not None
        assert found.status == status
        assert (body, type(failure)) == ((b"x" * 20, type(None)) if is_good else (b"", BodyTooLong))
        exchange.close()
        await pool.aclose()


async def test_cut(serve: Any) -> None:
    """The failure comes in place of half a body."""
    async with serve(in_pieces(OK, b"abc", is_cut=True)) as worker:
        pool = Http1Pool(worker.url)
        exchange, once = await begun(pool)
        head, body, failure = await once.result()
        assert head is not None
        assert body == b""
        assert isinstance(failure, BrokenResponse)
        exchange.close()
        await pool.aclose()


async def test_silence_and_removal(serve: Any) -> None:
    """What ends a reader's wait ends this one."""
    async with serve(in_pieces(OK, b"abc")) as worker:
        pool = Http1Pool(worker.url)
        silent, once = await begun(pool, 0.1)
        assert isinstance((await once.result())[2], SilenceTimeout)
        removed, once = await begun(pool)
        assert pool.fail_all() == 2
        assert isinstance((await once.result())[2], WorkerRemoved)
        silent.close()
        removed.close()
        await pool.aclose()


async def test_unfollowed(serve: Any) -> None:
    """Nothing is handed over any more, and the rest may be read for the connection's sake."""
    async with serve(in_pieces(OK + b"abc", b"defghi")) as worker:
        pool = Http1Pool(worker.url)
        exchange, once = await begun(pool)
        await asyncio.sleep(PAUSE_S / 2)
        exchange.unfollow()
        await exchange.head()
        assert b"abcdefghi".endswith(await exchange.read(100))
        exchange.close()
        assert not once.over.done()
        assert pool.n_idle == 1
        await pool.aclose()


async def test_lost_connection_is_told(serve: Any) -> None:
    """Without a connection nothing is sent: a task is wanted to make one."""
    async with serve(in_pieces(OK + b"abcdefghi")) as worker:
        pool = Http1Pool(worker.url)
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=60)
        assert not exchange.follow(Once(), 20, 5)
        assert not exchange.sent
        assert (await exchange.head()).status == 200
        exchange.close()
        await pool.aclose()
