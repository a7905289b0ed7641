"""Frames that break the rules of HTTP/2, each in one piece and in small ones."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from app.upstream.failures import BrokenResponse
from tests.unit.upstream.frame_peer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEAD,
    HEADERS,
    PING,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    Wire,
    block,
    frame,
    message,
    peer,
    setting,
    tokens_of,
    uint,
)

_HEAD = frame(HEADERS, END_HEADERS, 1, block(HEAD))
MALFORMED = {
    "no HTTP/2": b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100),
    "long frame": frame(DATA, 0, 1, bytes(16_385)),
    "data before headers": frame(DATA, 0, 1, message(1)),
    "headers twice": _HEAD + _HEAD,
    "stream of nobody": frame(HEADERS, END_HEADERS, 3, block(HEAD)),
    "stream of the server": frame(DATA, 0, 2, b""),
    "stream zero": frame(DATA, 0, 0, b"x"),
    "push": frame(PUSH, END_HEADERS, 1, uint(2) + block(HEAD)),
    "settings on a stream": frame(SETTINGS, 0, 1),
    "settings cut": frame(SETTINGS, 0, 0, bytes(5)),
    "frame size setting": frame(SETTINGS, 0, 0, setting(5, 100)),
    "window setting": frame(SETTINGS, 0, 0, setting(4, 2**31)),
    "ping cut": frame(PING, 0, 0, b"1234"),
    "reset cut": frame(RST, 0, 1, b"1"),
    "goaway cut": frame(GOAWAY, 0, 0, bytes(7)),
    "window of nothing": frame(WINDOW, 0, 0, uint(0)),
    "window cut": frame(WINDOW, 0, 0, b"1"),
    "window too wide": frame(WINDOW, 0, 0, uint(2**31 - 1)) * 2,
    "stream's window too wide": frame(WINDOW, 0, 1, uint(2**31 - 1)) * 2,
    "padding": frame(DATA, 8, 1, b"\x09x"),
    "padding of nothing": frame(HEADERS, 8 | END_HEADERS, 1, b""),
    "lone continuation": frame(CONTINUATION, END_HEADERS, 1, block(HEAD)),
    "block interrupted": frame(HEADERS, 0, 1, block(HEAD)) + frame(PING, 0, 0, bytes(8)),
    "block without end": frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 100,
    "long block": frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, bytes(16_384)) * 5,
    "headers that are none": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
    "headers of a table": frame(HEADERS, END_HEADERS, 1, b"\xbe"),
    "table grows": frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\x1f" + block(HEAD)),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("split", [0, 5])
async def test_broken_rules(name: str, split: int) -> None:
    """The connection ends with a GOAWAY and a failure that names the worker; the next is new."""

    async def bad(wire: Wire) -> None:
        await wire.greet()
        await wire.call()
        wire.split = split if len(MALFORMED[name]) < 2000 else 0
        # A client that has closed resets what is sent to it afterwards.
        resets = (ConnectionError, asyncio.IncompleteReadError) if wire.split else ()
        with contextlib.suppress(*resets):
            await wire.send(MALFORMED[name])
            assert (await wire.next(GOAWAY))[3][4:] != uint(0)

    async def good(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.answer(stream_id, 5)
        await wire.until_closed()

    async with peer(bad, good) as channel:
        with pytest.raises(BrokenResponse, match="broke the rules of HTTP/2") as caught:
            await tokens_of(channel)
        assert channel.where in str(caught.value)
        assert channel.n_losses == 1
        assert await tokens_of(channel) == [5]
