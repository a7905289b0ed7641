"""Flow control of HTTP/2 in both directions (RFC 9113, sections 5.2 and 6.9)."""

from __future__ import annotations

import asyncio

import pytest

from app.upstream.failures import (
    BrokenResponse,
    RpcFailed,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from tests.unit.upstream.frame_peer import (
    DATA,
    END_STREAM,
    GOAWAY,
    RST,
    SETTINGS,
    WINDOW,
    Wire,
    frame,
    message,
    peer,
    setting,
    tokens_of,
    uint,
    until,
)

LARGE = pb.GenerateRequest(request_id="x" * 100_000)


async def test_request_within_the_peers_windows() -> None:
    """Never more than the stream, the connection and one frame may have; both are waited for."""

    async def script(wire: Wire) -> None:
        await wire.greet(setting(4, 10_000) + setting(5, 20_000))
        body, n_stream, n_connection, flags, stream_id = b"", 10_000, 65_535, 0, 0
        while not flags & END_STREAM:
            while n_stream and n_connection and not flags & END_STREAM:
                _, flags, stream_id, piece = await wire.next(DATA)
                body += piece
                n_stream -= len(piece)
                n_connection -= len(piece)
                assert min(n_stream, n_connection) >= 0
                assert len(piece) <= 20_000
            if flags & END_STREAM:
                break
            # Nothing comes before it may.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await wire.next()
            if not n_stream:
                await wire.send(frame(WINDOW, 0, stream_id, uint(30_000)))
                n_stream += 30_000
            if not n_connection:
                await wire.send(frame(WINDOW, 0, 0, uint(50_000)))
                n_connection += 50_000
        assert pb.GenerateRequest.FromString(body[5:]) == LARGE
        await wire.answer(stream_id, 1)
        await wire.until_closed()

    async with peer(script) as channel:
        assert await tokens_of(channel, LARGE) == [1]


async def test_windows_that_are_set_anew() -> None:
    """SETTINGS move the windows of streams that are open, below zero too (section 6.9.2)."""

    async def script(wire: Wire) -> None:
        await wire.greet(setting(4, 10_000))
        _, _, stream_id, piece = await wire.next(DATA)
        assert len(piece) == 10_000
        await wire.send(frame(SETTINGS, 0, 0, setting(4, 4_000)))
        await wire.next(SETTINGS)
        await wire.send(frame(WINDOW, 0, stream_id, uint(6_000)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await wire.next()
        await wire.send(frame(SETTINGS, 0, 0, setting(4, 5_000)))
        assert len((await wire.next(DATA))[3]) == 1_000
        await wire.send(
            frame(SETTINGS, 0, 0, setting(4, 200_000)) + frame(WINDOW, 0, 0, uint(10**6))
        )
        flags = 0
        while not flags & END_STREAM:
            _, flags, _, _ = await wire.next(DATA)
        await wire.answer(stream_id, 1)
        await wire.until_closed()

    async with peer(script) as channel:
        assert await tokens_of(channel, LARGE) == [1]


async def test_slow_reader_holds_its_worker_back_and_nobody_else() -> None:
    """One window and no more is taken; after a read the worker may go on."""
    may_go_on = asyncio.Event()
    n_messages = 100_000 // len(message(1))

    async def script(wire: Wire) -> None:
        await wire.greet()
        slow, _, _ = await wire.call()
        await wire.head(slow)
        data = message(1) * n_messages
        n_sent, n_window = 0, 65_535
        while n_window:
            n_bytes = min(16_384, n_window)
            await wire.send(frame(DATA, 0, slow, data[n_sent : n_sent + n_bytes]))
            n_sent, n_window = n_sent + n_bytes, n_window - n_bytes
        quick, _, _ = await wire.call()
        await wire.answer(quick, 2)
        assert not [f for f in wire.seen if f[0] == WINDOW and f[2] == slow]
        may_go_on.set()
        _, _, stream_id, body = await wire.next(WINDOW)
        assert (stream_id, body) == (slow, uint(65_535))
        assert len(data) - n_sent < 65_535
        while n_sent < len(data):
            await wire.send(frame(DATA, 0, slow, data[n_sent : n_sent + 16_384]))
            n_sent += 16_384
        await wire.end(slow)
        await wire.until_closed()

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        assert await tokens_of(channel) == [2]
        await may_go_on.wait()
        n_read = 0
        while said := await call.read():
            n_read += len(said)
        assert n_read == n_messages
        call.cancel()


async def test_more_than_the_window() -> None:
    """A worker that does not wait for a slow reader loses the connection."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.head(stream_id)
        data = message(1) * 8_000
        for at in range(0, 81_920, 16_384):
            await wire.send(frame(DATA, 0, stream_id, data[at : at + 16_384]))
        assert (await wire.next(GOAWAY))[3][4:] == uint(3)

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        await until(lambda: not channel.is_connected)
        assert await call.read()
        with pytest.raises(BrokenResponse, match="more than it was allowed"):
            await call.read()
        call.cancel()


async def test_long_message_through_a_small_window() -> None:
    """Its parts are let in while its reader waits for it."""
    text = "y" * 4_000_000

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.head(stream_id)
        raw = pb.GenerateResponse(
            complete=pb.GenerateComplete(kv_transfer_params_json=text)
        ).SerializeToString()
        data = b"\0" + uint(len(raw)) + raw
        n_windows = {0: 16 * 2**20, stream_id: 65_535}
        while data:
            n_bytes = min(16_384, *n_windows.values())
            if not n_bytes:
                _, _, which, more = await wire.next(WINDOW)
                n_windows[which] += int.from_bytes(more, "big")
                continue
            await wire.send(frame(DATA, 0, stream_id, data[:n_bytes]))
            data = data[n_bytes:]
            n_windows = {which: n - n_bytes for which, n in n_windows.items()}
        await wire.end(stream_id)
        await wire.until_closed()

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        [said] = await call.read()
        assert said.complete.kv_transfer_params_json == text
        assert not await call.read()
        call.cancel()


async def test_answer_before_the_whole_request() -> None:
    """The rest of the request is not written any more, and the worker is told so."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        _, _, stream_id, _ = await wire.next(DATA)
        await wire.end(stream_id, [(":status", "200"), ("grpc-status", "8")])
        assert (await wire.next(RST))[2:] == (stream_id, uint(0))
        await wire.until_closed()

    async with peer(script) as channel:
        with pytest.raises(RpcFailed, match="RESOURCE_EXHAUSTED"):
            await tokens_of(channel, LARGE)
