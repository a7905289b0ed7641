"""Messages that are taken where they arrive, while their reader sleeps on."""

from __future__ import annotations

import asyncio
from typing import cast

from app.upstream.h2_connection import H2Connection
from app.upstream.h2_frames import DEFAULT_WINDOW_BYTES
from app.upstream.h2_stream import PREFIX_BYTES, H2Stream


class Connection:
    """Notes what is given back to the worker's window."""

    def __init__(self) -> None:
        self.credits: list[int] = []

    def give_credit(self, stream: H2Stream) -> None:
        self.credits.append(stream.n_held_bytes)
        stream.n_held_bytes = 0


def message(data: bytes) -> bytes:
    """As gRPC writes one."""
    return b"\x00" + len(data).to_bytes(PREFIX_BYTES - 1, "big") + data


def feed(stream: H2Stream, *messages: bytes) -> None:
    """A piece of the answer."""
    data = b"".join(map(message, messages))
    assert stream.feed(data, len(data)) is None


async def test_sink_takes_what_comes_while_the_reader_waits() -> None:
    """Not what was there before; what it refuses is read; then it is asked no more."""
    stream = H2Stream(cast("H2Connection", Connection()), 1 << 20)
    taken: list[bytes] = []

    def sink(messages: list[bytes]) -> bool:
        if b"end" in messages:
            return False
        taken.extend(messages)
        return True

    feed(stream, b"before")
    assert await stream.read(sink) == [b"before"]
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(stream.read(sink))
        await asyncio.sleep(0)
        feed(stream, b"one", b"two")
        feed(stream, b"three")
        await asyncio.sleep(0)
        assert not reading.done()
        feed(stream, b"four", b"end")
        feed(stream, b"late")
    assert taken == [b"one", b"two", b"three"]
    assert reading.result() == [b"four", b"end", b"late"]


async def test_taken_messages_are_given_back_to_the_window() -> None:
    """Else the worker would stop after 64 KiB that nobody was woken for."""
    connection = Connection()
    stream = H2Stream(cast("H2Connection", connection), 1 << 20)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(stream.read(lambda _: True))
        await asyncio.sleep(0)
        for _ in range(10):
            feed(stream, bytes(DEFAULT_WINDOW_BYTES // 8))
        stream.end(None)
    assert reading.result() == []
    assert len(connection.credits) == 2
