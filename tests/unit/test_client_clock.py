"""The clock of a connection, without waiting for it."""

from __future__ import annotations

import pytest

from app.server.client_limits import MIN_BODY_BYTES_PER_S
from tests.unit.client_side import LIMITS, Side, turn

GET = b"GET / HTTP/1.1\r\n\r\n"


async def test_head_has_its_time(side: Side) -> None:
    """To the second, whatever trickles in; half a head may come with a whole request."""
    await side.receives(GET + b"GET / HTTP/1.1\r\nx: ")
    for _ in range(9):
        await side.loop.wait(1)
        await side.receives(b"x")
    assert (side.status, side.wire.ended) == (200, "")
    await side.loop.wait(1)
    assert (side.status, side.wire.ended) == (408, "closed")


async def test_connection_without_a_request_ends_silently(side: Side) -> None:
    """As early as half a head; empty lines are no head."""
    await side.receives(b"\r\n")
    await side.loop.wait(LIMITS.head_s - 1)
    assert side.wire.ended == ""
    await side.loop.wait(1)
    assert (side.wire.written, side.wire.ended) == (b"", "closed")


async def test_requests_set_no_timers(side: Side) -> None:
    """A connection in use wakes up for its clock once in its idle time, not at each request."""
    for _ in range(100):
        await side.receives(GET)
        await side.loop.wait(1)
    # The head's limit, and from there on the idle limit of the last request before it went off.
    assert side.loop.n_set == 3
    assert side.wire.ended == ""
    await side.loop.wait(LIMITS.idle_s - 2)
    assert side.wire.ended == ""
    await side.loop.wait(1)
    assert side.wire.ended == "closed"


async def test_waiting_for_workers_is_no_idling(side: Side) -> None:
    """However long the answer takes."""
    side.app.may_answer.clear()
    await side.receives(GET)
    await side.loop.wait(100_000)
    assert side.wire.ended == ""
    side.app.may_answer.set()
    await turn()
    assert side.status == 200
    await side.loop.wait(LIMITS.idle_s - 1)
    assert side.wire.ended == ""


async def test_half_a_head_behind_a_request_waits_for_its_answer(side: Side) -> None:
    """Its time begins when it is its turn."""
    side.app.may_answer.clear()
    await side.receives(GET + b"GET / HT")
    await side.loop.wait(1000)
    side.app.may_answer.set()
    await turn()
    await side.loop.wait(LIMITS.head_s - 1)
    assert side.wire.ended == ""
    await side.loop.wait(1)
    assert (side.status, side.wire.ended) == (408, "closed")


async def test_body_that_is_not_read_is_not_late(side: Side) -> None:
    """While the gateway itself does not read, the client cannot send."""
    side.app.may_read.clear()
    await side.receives(b"POST / HTTP/1.1\r\ncontent-length: 200000\r\n\r\n" + b"x" * 100_000)
    assert not side.wire.is_reading()
    await side.loop.wait(1000)
    assert side.wire.ended == ""
    side.app.may_read.set()
    await turn()
    assert side.wire.is_reading()
    for _ in range(3):
        await side.loop.wait(LIMITS.body_stall_s - 1)
        assert side.wire.ended == ""
        await side.receives(b"x" * 30_000)
    await side.loop.wait(LIMITS.body_stall_s)
    assert (side.status, side.wire.ended, side.app.got) == (408, "closed", [-1])


async def test_time_in_which_a_body_is_not_read_is_not_its_clients(side: Side) -> None:
    """Whatever the alarm was set to before."""
    await side.receives(GET)
    await side.loop.wait(LIMITS.idle_s * 0.7)
    side.app.may_read.clear()
    await side.receives(b"POST / HTTP/1.1\r\ncontent-length: 200000\r\n\r\n" + b"x" * 70_000)
    await side.loop.wait(LIMITS.body_stall_s * 0.6)
    side.app.may_read.set()
    await turn()
    await side.loop.wait(LIMITS.body_stall_s * 0.9)
    assert side.wire.ended == ""
    await side.loop.wait(LIMITS.body_stall_s * 0.1)
    assert side.wire.ended == "closed"


async def test_body_waits_for_100_continue(side: Side) -> None:
    """A client that asks first has its full time from the answer on, give or take a quarter."""
    side.app.may_read.clear()
    await side.receives(b"POST / HTTP/1.1\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n")
    await side.loop.wait(1000)
    side.app.may_read.set()
    await turn()
    assert side.status == 100
    await side.loop.wait(LIMITS.body_stall_s * 0.7)
    assert side.wire.ended == ""
    await side.loop.wait(LIMITS.body_stall_s * 0.3)
    assert (side.status, side.app.got) == (408, [-1])


async def test_least_speed_of_a_body(side: Side) -> None:
    """A piece every second is no stall, but below the least speed it ends all the same."""
    await side.receives(b"POST / HTTP/1.1\r\ncontent-length: 9999999\r\n\r\n")
    piece = b"x" * (MIN_BODY_BYTES_PER_S // 2)
    n_s = 0
    while not side.wire.ended:
        await side.receives(piece)
        await side.loop.wait(1)
        n_s += 1
    # Half of the speed earns half of the time on top: 30 + 15 + 7.5 + ... = 60.
    assert n_s == pytest.approx(2 * LIMITS.body_stall_s, abs=2)
    assert side.status == 408


async def test_fast_enough_body(side: Side) -> None:
    """At the least speed and above it may take hours."""
    n_pieces = 5000
    head = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (n_pieces * MIN_BODY_BYTES_PER_S)
    await side.receives(head)
    for _ in range(n_pieces):
        await side.loop.wait(1)
        await side.receives(b"x" * MIN_BODY_BYTES_PER_S)
    assert side.app.got == [n_pieces * MIN_BODY_BYTES_PER_S]
    assert (side.status, side.wire.ended) == (200, "")


async def test_client_that_takes_nothing(side: Side) -> None:
    """It is cut off in its time, counted from its last byte."""
    side.app.may_answer.clear()
    await side.receives(GET)
    side.wire.n_waiting = 70_000
    side.protocol.pause_writing()
    for _ in range(50):
        await side.loop.wait(LIMITS.write_stall_s * 0.9)
        side.wire.n_waiting -= 1
    assert side.wire.ended == ""
    await side.loop.wait(LIMITS.write_stall_s * 1.3)
    assert side.wire.ended == "cut"


async def test_each_stall_counts_by_itself(side: Side) -> None:
    """As many bytes waiting as at another time is not the same bytes all the time."""
    side.app.may_answer.clear()
    await side.receives(GET)
    for _ in range(3):
        side.wire.n_waiting = 100
        side.protocol.pause_writing()
        await side.loop.wait(LIMITS.write_stall_s * 0.9)
        assert side.wire.ended == ""
        side.wire.n_waiting = 0
        side.protocol.resume_writing()
        await side.loop.wait(LIMITS.write_stall_s)


async def test_rest_of_an_answer_is_not_idling(side: Side) -> None:
    """What still waits to be read keeps the connection, as long as it is read."""
    await side.receives(GET)
    side.wire.n_waiting = 60_000
    for _ in range(10):
        await side.loop.wait(LIMITS.write_stall_s * 0.9)
        side.wire.n_waiting -= 1
    side.wire.n_waiting = 0
    assert side.wire.ended == ""
    await side.loop.wait(LIMITS.idle_s)
    assert side.wire.ended == "closed"
