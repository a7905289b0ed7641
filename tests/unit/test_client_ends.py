"""How a client's connection ends: after refusals, early answers, and in a process that ends."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from app.server.client_limits import MAX_KEPT_REST_BYTES
from tests.unit.client_side import LIMITS, Side, turn

GET = b"GET / HTTP/1.1\r\n\r\n"


async def test_a_request_is_here_once_its_head_is(side: Side) -> None:
    """Not when it is begun, nor when its task gets its turn."""
    side.protocol.data_received(GET[:-2])
    begun_s = monotonic()
    side.protocol.data_received(GET[-2:])
    read_s = monotonic()
    await turn()
    assert begun_s <= side.protocol.cycle.scope["state"]["arrived_s"] <= read_s


async def test_lingering_has_an_end(side: Side) -> None:
    """A refused body is read for a while, and not parsed."""
    await side.receives(b"NO HTTP" * 3)
    assert (side.status, side.wire.ended) == (400, "half")
    await side.receives(b"x" * 100_000)
    await side.loop.wait(LIMITS.linger_s - 1)
    assert side.wire.ended == "half"
    await side.loop.wait(1)
    assert side.wire.ended == "closed"


@pytest.mark.parametrize(
    ("head", "is_kept"),
    [
        (b"content-length: %d" % (MAX_KEPT_REST_BYTES + 1), True),
        (b"content-length: %d" % (MAX_KEPT_REST_BYTES + 2), False),
        (b"content-length: 2\r\nexpect: 100-continue", False),
        (b"transfer-encoding: chunked", False),
    ],
    ids=["little", "much", "expect", "unknown"],
)
async def test_answer_before_the_body(side: Side, head: bytes, is_kept: bool) -> None:
    """The connection is kept where little is missing; one byte of the body is here."""
    side.protocol.app = Early()
    data = b"1\r\nx\r\n" if b"chunked" in head else b"x"
    more = b"" if b"expect" in head else data
    await side.receives(b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n" + more)
    assert side.status == 429
    assert (b"connection: close" in side.wire.written) is not is_kept
    assert side.wire.ended == ("" if is_kept else "half")
    if is_kept:
        await side.receives(b"x" * MAX_KEPT_REST_BYTES)
        await side.loop.wait(LIMITS.idle_s - 1)
        assert side.wire.ended == ""
        await side.receives(GET)
        assert side.wire.written.count(b"HTTP/1.1 429 ") == 2


class Early:
    """Refuses without reading."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]}
        )
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b""})


async def test_close_that_was_said_is_meant(side: Side) -> None:
    """Also if almost all of the body has come before the answer ended."""
    app = side.protocol.app = Early()
    app.may_end.clear()
    await side.receives(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n")
    await turn()
    await side.receives(b"x" * 99_999)
    app.may_end.set()
    await turn()
    assert b"connection: close" in side.wire.written
    assert side.wire.ended == "half"


@pytest.mark.parametrize("pieces", [[100_000], [99_999, 1]], ids=["one", "two"])
async def test_late_body_keeps_the_connection(side: Side, pieces: list[int]) -> None:
    """An answer that comes after a body in several pieces is like any other."""
    await side.receives(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n")
    for n_bytes in pieces:
        await side.receives(b"x" * n_bytes)
    assert side.status == 200
    assert b"connection: close" not in side.wire.written
    assert side.wire.ended == ""


@pytest.mark.parametrize("is_before", [False, True], ids=["running", "new"])
async def test_ending_process_says_close(side: Side, is_before: bool) -> None:
    """To requests that come, and to those whose answer is still to come."""
    side.life.is_ending = is_before
    side.app.may_answer.clear()
    await side.receives(GET)
    if not is_before:
        side.life.is_ending = True
        side.protocol.close_after_answer()
    side.app.may_answer.set()
    await turn()
    assert b"connection: close" in side.wire.written
    assert side.wire.ended == "closed"


async def test_closing_waits_for_a_client_that_reads(side: Side) -> None:
    """And for no other."""
    side.wire.n_waiting = 100
    await side.receives(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    for _ in range(5):
        await side.loop.wait(LIMITS.write_stall_s * 0.9)
        assert side.wire.ended == "closed"
        side.wire.n_waiting -= 1
    await side.loop.wait(LIMITS.write_stall_s * 1.3)
    assert side.wire.ended == "cut"
