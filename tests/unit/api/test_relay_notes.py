"""The relay notes when the first and the last event went out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from app.api.keep_alive import KeepAlive
from app.api.relay import Relay
from app.dispatch.reply import Reply
from app.errors import LegBroken
from app.observability.notes import Notes

EVENTS = (b'data: {"a":1}\n\n', b'data: {"completion_tokens":7}\n\n', b"data: [DONE]\n\n")


class Turned:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def relayed(pieces: tuple[bytes, ...], *, is_stream: bool, fails: bool = False) -> Notes:
    """Relays pieces that come a second apart, the first one after a second."""
    clock = Turned()
    notes = Notes(clock)

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            clock.now += 1.0
            yield piece
        if fails:
            raise LegBroken("cut", leg="decode")

    async def send(_message: Message) -> None:
        """The client takes everything at once."""

    relay = Relay(send, KeepAlive(), notes)
    async with asyncio.TaskGroup() as request:
        await relay.run(Reply(200, [], chunks(), is_stream=is_stream), request)
    return notes


async def test_a_stream() -> None:
    notes = await relayed(EVENTS, is_stream=True)
    assert (notes.first_s, notes.last_s, notes.n_completion) == (1.0, 3.0, 7)


async def test_a_stream_that_breaks_has_what_it_had() -> None:
    with pytest.raises(ExceptionGroup):
        await relayed(EVENTS[:1], is_stream=True, fails=True)


async def test_a_whole_answer() -> None:
    """Its first and last byte are one."""
    notes = await relayed((b"{}",), is_stream=False)
    assert (notes.first_s, notes.last_s) == (1.0, 1.0)
