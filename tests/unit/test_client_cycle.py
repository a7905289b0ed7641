"""Answers that are written past the layers, and the news of a request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.server.client_cycle import ClientCycle, News

DATE = (b"date", b"today")
JSON = (b"content-type", b"application/json")


class Wire:
    """Notes what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        """Takes it."""
        self.writes.append(data)

    def close(self) -> None:
        """Is the end."""
        self.is_closed = True


def cycle_on(wire: Wire, *, keep_alive: bool = True) -> tuple[ClientCycle, list[str]]:
    """A request of this connection, and what its protocol was told."""
    told: list[str] = []
    arguments: dict[str, Any] = {
        "scope": {"method": "POST"},
        "transport": wire,
        "flow": SimpleNamespace(write_paused=False, read_paused=False),
        "logger": None,
        "access_logger": None,
        "access_log": False,
        "default_headers": [DATE],
        "message_event": News(),
        "expect_100_continue": False,
        "keep_alive": keep_alive,
        "on_response": lambda: told.append("over"),
    }
    return ClientCycle(**arguments), told


def test_a_whole_answer_is_one_write() -> None:
    wire = Wire()
    cycle, told = cycle_on(wire)
    assert cycle.answer(200, [JSON], b"{}", is_whole=True)
    (written,) = wire.writes
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"date: today",
        b"content-type: application/json",
        b"content-length: 2",
    ]
    assert body == b"{}"
    assert cycle.response_complete
    assert told == ["over"]
    assert not wire.is_closed


def test_a_long_answer_is_not_copied() -> None:
    wire = Wire()
    body = b"x" * 100_000
    cycle, _ = cycle_on(wire, keep_alive=False)
    assert cycle.answer(200, [JSON], body, is_whole=True)
    head, rest = wire.writes
    assert head.endswith(b"content-length: 100000\r\nconnection: close\r\n\r\n")
    assert rest is body
    assert wire.is_closed


def test_a_stream_goes_on_after_its_begin() -> None:
    wire = Wire()
    cycle, told = cycle_on(wire)
    assert not cycle.push(b"too early")
    assert cycle.answer(200, [JSON], b"data: 1\n\n", is_whole=False)
    assert cycle.push(b"data: 2\n\n")
    head, _, chunk = wire.writes[0].partition(b"\r\n\r\n")
    assert head.endswith(b"transfer-encoding: chunked")
    assert [chunk, *wire.writes[1:]] == [b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n"]
    assert not cycle.response_complete
    assert not told


@pytest.mark.parametrize("why", ["slow", "gone", "answered"])
def test_nothing_is_written_where_it_cannot_be(why: str) -> None:
    wire = Wire()
    cycle, told = cycle_on(wire)
    cycle.flow.write_paused = why == "slow"
    cycle.disconnected = why == "gone"
    cycle.response_started = why == "answered"
    assert not cycle.answer(200, [JSON], b"{}", is_whole=True)
    assert not wire.writes
    assert not told


@pytest.mark.parametrize(
    "header", [(b"x-a", b"b\r\nc: d"), (b"x-a", b"\0"), (b"x a", b"b"), (b"x-a\r\nb", b"c")]
)
def test_a_header_that_would_break_the_framing(header: tuple[bytes, bytes]) -> None:
    for _ in range(2):
        wire = Wire()
        cycle, _ = cycle_on(wire)
        with pytest.raises(RuntimeError, match="Invalid HTTP header"):
            cycle.answer(200, [header], b"{}", is_whole=True)
        assert not wire.writes


async def test_news_wakes_the_one_who_waits() -> None:
    news = News()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(news.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        news.set()
    assert news.is_here
    await news.wait()


async def test_news_may_be_waited_for_again_after_a_cancelled_wait() -> None:
    news = News()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(news.wait())
        await asyncio.sleep(0)
        waiting.cancel()
    news.set()
    await asyncio.wait_for(news.wait(), 5)
