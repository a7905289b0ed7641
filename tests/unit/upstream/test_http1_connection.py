"""The connection object under a fake transport: no sockets, every event by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.upstream.failures import BrokenResponse, SilenceTimeout, UpstreamError
from app.upstream.http1_connection import MAX_BUFFERED_BYTES

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_head_and_body_in_one_piece_cost_one_wait(bench: Any) -> None:
    """What arrived with the head is read without another turn of the loop."""
    exchange = await bench.begun(OK)
    assert (True, True) == (exchange.done, exchange.has_bytes)
    reading = exchange.read(10)
    with pytest.raises(StopIteration) as ended:
        reading.send(None)
    assert b"ok" == ended.value.value
    exchange.close()
    exchange.close()
    assert (1, 0, 1) == (bench.pool.n_idle, bench.pool.n_active, bench.pool.n_open)


async def test_head_is_none_the_wiser_when_called_again(bench: Any) -> None:
    """A second head() gives the same head and sends nothing."""
    exchange = await bench.begun(OK)
    assert 200 == (await exchange.head()).status
    assert 1 == len(bench.transport.written)
    exchange.close()


async def test_chunk_gives_what_is_here_joined(bench: Any) -> None:
    """Two pieces that wait are one; the end is an empty one, as often as asked."""
    exchange = await bench.begun(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    bench.connection.data_received(b"2\r\nbc\r\n")
    assert b"abc" == await exchange.chunk()
    assert not exchange.has_bytes
    bench.connection.data_received(b"0\r\n\r\n")
    assert [b"", b""] == [await exchange.chunk(), await exchange.chunk()]
    exchange.close()


async def test_a_large_body_is_not_copied_behind_the_head(bench: Any) -> None:
    """Bodies over 64 KiB are written as they are."""
    body = b"b" * 100_000
    exchange = await bench.begun(OK, body=body)
    assert [body] == bench.transport.written[1:]
    assert bench.transport.written[0].endswith(b"content-length: 100000\r\n\r\n")
    exchange.close()


async def test_reading_pauses_above_the_buffer_and_resumes_when_taken(bench: Any) -> None:
    """A slow client stops the worker's socket, not the gateway's memory."""
    exchange = await bench.begun(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n")
    bench.connection.data_received(b"x" * MAX_BUFFERED_BYTES)
    assert [True] == [bench.transport.reads]
    bench.connection.data_received(b"x")
    assert [False] == [bench.transport.reads]
    assert MAX_BUFFERED_BYTES + 1 == len(await exchange.chunk())
    assert [True] == [bench.transport.reads]
    exchange.close()


async def test_reading_resumes_before_a_connection_is_pooled(bench: Any) -> None:
    """Unread bytes of a complete answer are dropped, the connection reads on."""
    exchange = await bench.begun(b"HTTP/1.1 200 OK\r\nContent-Length: 300001\r\n\r\n")
    bench.connection.data_received(b"x" * 300_000)
    assert not bench.transport.reads
    # Bytes that the kernel handed over before the pause took effect.
    bench.connection.data_received(b"x")
    exchange.close()
    assert (True, 1) == (bench.transport.reads, bench.pool.n_idle)
    again = await bench.begun(OK)
    assert b"ok" == await again.read(10)
    again.close()


async def test_a_paused_reader_is_not_taken_for_a_silent_worker(bench: Any) -> None:
    """Silence counts only while the socket is read, and anew after a pause."""
    exchange = await bench.begun(b"HTTP/1.1 200 OK\r\nContent-Length: 300001\r\n\r\n")
    bench.connection.data_received(b"x" * 300_000)
    for _ in range(5):
        bench.clock.now_s += 100
        exchange.sweep(bench.clock.now_s)
    assert 300_000 == len(await exchange.chunk())
    exchange.sweep(bench.clock.now_s)
    bench.clock.now_s += 10
    exchange.sweep(bench.clock.now_s)
    with pytest.raises(SilenceTimeout) as caught:
        await exchange.chunk()
    assert "body" == caught.value.phase
    exchange.close()


async def test_a_worker_that_still_takes_the_request_is_not_silent(bench: Any) -> None:
    """While the write buffer shrinks the worker is at work; when it stops, time runs."""
    exchange = await bench.begun(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    for n_bytes in (400, 300, 200, 100):
        bench.transport.n_unwritten_bytes = n_bytes
        bench.clock.now_s += 100
        exchange.sweep(bench.clock.now_s)
        assert not bench.transport.is_closed
    bench.clock.now_s += 10
    exchange.sweep(bench.clock.now_s)
    assert bench.transport.is_closed
    exchange.close()


async def test_an_answer_before_the_request_was_written_ends_the_connection(bench: Any) -> None:
    """A refusal in the middle of a large body must not be followed by another request."""
    exchange = await bench.begun(OK)
    bench.transport.n_unwritten_bytes = 5
    exchange.close()
    assert (True, 0) == (bench.transport.is_closed, bench.pool.n_idle)


@pytest.mark.parametrize("event", ["bytes", "eof", "closing", "lost"])
async def test_an_idle_connection_that_stirs_is_not_used(bench: Any, event: str) -> None:
    """Bytes, EOF and a loss while idle all discard the connection."""
    connection = bench.connection
    if event == "bytes":
        connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    elif event == "eof":
        connection.eof_received()
        bench.transport.is_closed = True
    elif event == "closing":
        bench.transport.is_closed = True
    else:
        connection.connection_lost(None)
        assert (0, 0) == (bench.pool.n_idle, bench.pool.n_open)
    assert bench.pool.take() is None


async def test_bytes_after_the_answer_end_the_connection_not_the_answer(bench: Any) -> None:
    """Trailing bytes in a later segment abort; the body is still read."""
    exchange = await bench.begun(OK)
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\n")
    assert b"ok" == await exchange.read(10)
    exchange.close()
    assert (True, 0) == (bench.transport.is_closed, bench.pool.n_idle)


@pytest.mark.parametrize("exc", [None, ConnectionResetError("reset")])
async def test_a_loss_gives_the_bytes_first_then_the_failure(
    bench: Any, exc: Exception | None
) -> None:
    """What the worker managed to say is not lost with its connection."""
    exchange = await bench.begun(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    bench.connection.connection_lost(exc)
    assert b"abc" == await exchange.chunk()
    for _ in range(2):
        with pytest.raises(BrokenResponse, match="before its response body ended"):
            await exchange.chunk()
    assert not exchange.done
    exchange.close()
    assert 0 == bench.pool.n_open


async def test_only_an_orderly_end_completes_a_body_without_length(bench: Any) -> None:
    """A reset may have swallowed bytes, so the body counts as cut."""
    exchange = await bench.begun(b"HTTP/1.0 200 OK\r\n\r\nabc")
    bench.connection.connection_lost(ConnectionResetError())
    with pytest.raises(BrokenResponse, match="reset the connection"):
        await exchange.read(100)
    exchange.close()


async def test_rubbish_in_a_body_aborts_at_once_and_spares_what_came_before(bench: Any) -> None:
    """The transport is closed in the callback, the good bytes are still given."""
    exchange = await bench.begun(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nrubbish\r\n"
    )
    assert bench.transport.is_closed
    assert b"ab" == await exchange.chunk()
    with pytest.raises(BrokenResponse, match=r"not valid HTTP/1\.1"):
        await exchange.chunk()
    exchange.close()


async def test_a_body_over_the_limit_is_refused(bench: Any) -> None:
    """read() stops at the limit; exactly the limit is allowed."""
    exchange = await bench.begun(OK)
    assert b"ok" == await exchange.read(2)
    exchange.close()
    exchange = await bench.begun(OK)
    with pytest.raises(UpstreamError, match="longer than 1 bytes"):
        await exchange.read(1)
    exchange.close()


async def test_fail_drops_the_bytes_and_the_first_reason_stays(bench: Any) -> None:
    """After fail() nothing but its reason is given, and the connection is gone."""
    exchange = await bench.begun(OK)
    reason = RuntimeError("the sibling failed")
    exchange.fail(reason)
    exchange.fail(ValueError("later"))
    for call in (exchange.head, exchange.chunk):
        with pytest.raises(RuntimeError) as caught:
            await call()
        assert reason is caught.value
    exchange.close()
    assert (True, 0) == (bench.transport.is_closed, bench.pool.n_idle)


async def test_after_close_nothing_is_given_and_fail_has_no_effect(bench: Any) -> None:
    """A pooled connection cannot be reached through an exchange that is over."""
    exchange = await bench.begun(OK)
    exchange.close()
    exchange.fail(RuntimeError("too late"))
    assert (False, True) == (bench.transport.is_closed, exchange.done)
    for call in (exchange.head, exchange.chunk):
        with pytest.raises(UpstreamError, match="is closed"):
            await call()


async def test_an_exchange_that_never_began_is_closed_without_a_trace(bench: Any) -> None:
    """close() before head() sends nothing; chunk() before head() is a mistake."""
    exchange = bench.exchange()
    with pytest.raises(RuntimeError, match="head"):
        await exchange.chunk()
    exchange.close()
    assert (False, 1, []) == (exchange.sent, bench.pool.n_idle, bench.transport.written)


async def test_nothing_that_the_parser_meets_escapes_into_the_loop(bench: Any) -> None:
    """Even a defect inside a callback becomes a failure of this one exchange."""
    exchange = bench.exchange()

    def answer() -> None:
        bench.connection.headers = None
        bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")

    asyncio.get_running_loop().call_soon(answer)
    with pytest.raises(BrokenResponse):
        await exchange.head()
    assert bench.transport.is_closed
    exchange.close()
