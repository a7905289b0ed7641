"""The pool against real sockets: reuse, expiry, framing on the wire."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from app.upstream.failures import BrokenResponse, ConnectFailed, WorkerRemoved
from app.upstream.http1 import Http1Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def ask(pool: Http1Pool, method: bytes = b"POST", body: bytes = b"{}") -> tuple[int, bytes]:
    """One whole exchange."""
    exchange = pool.exchange(method, b"/x", [(b"x-a", b"b")], body, silence_timeout_s=5)
    try:
        head = await exchange.head()
        return head.status, await exchange.read(10_000_000)
    finally:
        exchange.close()


async def test_exchanges_in_a_row_share_one_connection(
    serve: Any, pool_for: Any, answer: Any
) -> None:
    """Ten requests, one accept."""
    async with serve(answer(OK)) as worker, pool_for(worker) as pool:
        for _ in range(10):
            assert (200, b"ok") == await ask(pool)
        assert (1, 1, 1) == (worker.n_accepted, pool.n_open, pool.n_idle)
        expected = b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-a: b\r\ncontent-length: 2\r\n\r\n"
        assert expected % worker.port == worker.calls[9].head


async def test_exchanges_at_once_have_a_connection_each(
    serve: Any, pool_for: Any, answer: Any
) -> None:
    """Five at once open five; the next one takes the latest, and only max_idle are kept."""
    async with serve(answer(OK, pause_s=0.05)) as worker, pool_for(worker, max_idle=2) as pool:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(ask(pool))
        assert (5, 2, 0) == (worker.n_accepted, pool.n_idle, pool.n_active)
        await ask(pool)
        assert (5, 2) == (worker.n_accepted, pool.n_idle)


@pytest.mark.parametrize(
    "data",
    [
        OK,
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
        ),
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
    ids=["length", "chunked", "eof"],
)
async def test_a_worker_may_send_byte_by_byte(
    serve: Any, pool_for: Any, answer: Any, data: bytes
) -> None:
    """Every split of the wire gives the same answer."""
    parts = [data[i : i + 1] for i in range(len(data))]

    async def script(call: Any) -> None:
        await answer(*parts)(call)
        if b"Length" not in data and b"Encoding" not in data:
            call.close()

    async with serve(script) as worker, pool_for(worker) as pool:
        assert (200, b"ok") == await ask(pool)


async def test_a_large_answer_and_a_large_request_arrive_whole(serve: Any, pool_for: Any) -> None:
    """Three megabytes each way, through back-pressure."""
    body = bytes(range(256)) * 12_000

    async def script(call: Any) -> None:
        data = await call.body()
        await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)

    async with serve(script) as worker, pool_for(worker) as pool:
        exchange = pool.exchange(b"POST", b"/", [], body, silence_timeout_s=5)
        await exchange.head()
        await asyncio.sleep(0.1)
        data = b""
        while piece := await exchange.chunk():
            data += piece
        exchange.close()
        assert body == data
        assert 1 == pool.n_idle


@pytest.mark.parametrize(
    ("method", "data"),
    [
        (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
        (b"POST", OK + b"trailing"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
    ],
    ids=["close", "trailing", "head"],
)
async def test_some_answers_use_their_connection_up(
    serve: Any, pool_for: Any, answer: Any, method: bytes, data: bytes
) -> None:
    """The next request opens another connection."""
    async with serve(answer(data)) as worker, pool_for(worker) as pool:
        for _ in range(3):
            assert 200 == (await ask(pool, method))[0]
        assert (3, 0) == (worker.n_accepted, pool.n_idle)


@pytest.mark.parametrize("how", ["close", "reset", "bytes"])
async def test_a_connection_that_ended_while_idle_is_not_used(
    serve: Any, pool_for: Any, answer: Any, how: str
) -> None:
    """A worker's own keep-alive end costs no request."""
    async with serve(answer(OK)) as worker, pool_for(worker) as pool:
        await ask(pool)
        call = worker.calls[0]
        if how == "bytes":
            await call.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        else:
            getattr(call, how)()
        await asyncio.sleep(0.05)
        assert 0 == pool.n_open
        assert (200, b"ok") == await ask(pool)
        assert 2 == worker.n_accepted


async def test_an_end_that_the_loop_has_not_seen_yet_is_seen_before_use() -> None:
    """The kernel is asked: EOF and next request within one turn of the loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    pool = Http1Pool(f"http://127.0.0.1:{listener.getsockname()[1]}")
    asking = loop.run_in_executor(None, listener.accept)
    exchange = pool.exchange(b"POST", b"/", [], silence_timeout_s=5)
    async with asyncio.TaskGroup() as group:
        group.create_task(exchange.head())
        peer, _ = await asking
        await loop.run_in_executor(None, peer.recv, 1000)
        peer.sendall(OK)
    assert b"ok" == await exchange.read(10)
    exchange.close()
    assert 1 == pool.n_idle
    peer.close()
    # No await since the peer closed: the loop cannot know.
    assert pool.take() is None
    listener.close()
    await pool.aclose()
    assert 0 == pool.n_open


async def test_an_end_after_sending_is_never_sent_again(serve: Any, pool_for: Any) -> None:
    """EOF on a reused connection once the request is out is a broken response."""

    async def script(call: Any) -> None:
        await call.body()
        if len(worker.calls) == 1:
            await call.write(OK)
        else:
            call.close()

    async with serve(script) as worker, pool_for(worker) as pool:
        await ask(pool)
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=5)
        with pytest.raises(BrokenResponse, match="closed the connection before its response head"):
            await exchange.head()
        exchange.close()
        assert exchange.sent
        assert (2, 1) == (len(worker.calls), worker.n_accepted)


async def test_idle_connections_expire(serve: Any, pool_for: Any, answer: Any) -> None:
    """After the expiry a connection is closed from this side."""
    async with serve(answer(OK)) as worker, pool_for(worker, idle_expiry_s=0.05) as pool:
        await ask(pool)
        await asyncio.sleep(0.07)
        await ask(pool)
        assert 2 == worker.n_accepted


async def test_the_sweep_closes_what_nobody_uses(serve: Any, pool_for: Any, answer: Any) -> None:
    """Idle connections do not wait for the next request to be closed, and the timer ends."""
    async with serve(answer(OK)) as worker, pool_for(worker, idle_expiry_s=0.1) as pool:
        exchange = pool.exchange(b"POST", b"/", [], silence_timeout_s=0.2)
        await exchange.head()
        await exchange.read(10)
        exchange.close()
        assert (1, 1) == (pool.n_open, pool.n_idle)
        await asyncio.sleep(0.4)
        assert (0, 0, None) == (pool.n_open, pool.n_idle, pool._sweep_timer)


async def test_a_refused_connection_sent_nothing() -> None:
    """Nobody listens: ConnectFailed, and sent stays false."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = Http1Pool(f"http://127.0.0.1:{unused.getsockname()[1]}")
        exchange = pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=5)
        with pytest.raises(ConnectFailed, match=r"No connection to 127\.0\.0\.1"):
            await exchange.head()
        exchange.close()
        assert (False, 0, 0) == (exchange.sent, pool.n_open, pool.n_active)
        await pool.aclose()


async def test_an_unknown_host_sent_nothing() -> None:
    """A name that does not resolve is a ConnectFailed too."""
    pool = Http1Pool("http://no-such-worker.invalid:1")
    exchange = pool.exchange(b"POST", b"/", [], silence_timeout_s=5)
    with pytest.raises(ConnectFailed, match="No connection to no-such-worker"):
        await exchange.head()
    exchange.close()
    await pool.aclose()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_ipv6_hosts_are_reached_and_named_in_brackets() -> None:
    """``http://[::1]:port`` connects, and the host header keeps the brackets."""
    seen: list[bytes] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await reader.read()
        writer.close()

    try:
        server = await asyncio.start_server(serve_one, "::1", 0)
    except OSError:
        pytest.skip("needs an IPv6 loopback")
    port = server.sockets[0].getsockname()[1]
    pool = Http1Pool(f"http://[::1]:{port}")
    assert (200, b"ok") == await ask(pool, body=b"")
    assert b"host: [::1]:%d" % port in seen[0]
    await pool.aclose()
    await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()


async def test_aclose_fails_what_runs_and_closes_what_is_idle(serve: Any, pool_for: Any) -> None:
    """After aclose nothing is open, and nothing can be begun."""

    async def script(call: Any) -> None:
        if b"x-wait" in call.head:
            await call.until_gone()
        else:
            await call.write(OK)

    async with serve(script) as worker, pool_for(worker) as pool:
        await ask(pool, body=b"")
        running = pool.exchange(b"POST", b"/", [(b"x-wait", b"1")], silence_timeout_s=5)

        async def wait_for_head() -> None:
            with pytest.raises(WorkerRemoved):
                await running.head()
            running.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_head())
            await asyncio.sleep(0.02)
            await pool.aclose()
            assert 0 == pool.n_open
        late = pool.exchange(b"POST", b"/", [], silence_timeout_s=5)
        with pytest.raises(ConnectFailed):
            await late.head()
        late.close()
        await pool.aclose()
