"""Pings, streams at once, and farewells of an HTTP/2 connection."""

from __future__ import annotations

import asyncio

import pytest

from app.upstream import h2_keepalive
from app.upstream.failures import (
    BrokenResponse,
    ConnectFailed,
    ConnectTimeout,
    RpcFailed,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.h2_frames import MAX_STREAM_ID
from tests.unit.upstream.frame_peer import (
    ACK,
    DATA,
    GOAWAY,
    PING,
    RST,
    SETTINGS,
    Wire,
    frame,
    message,
    peer,
    setting,
    tokens_of,
    uint,
)


async def good(wire: Wire) -> None:
    """Answers one call with the token 7, and waits."""
    await wire.greet()
    stream_id, _, _ = await wire.call()
    await wire.answer(stream_id, 7)
    await wire.until_closed()


async def test_pings_are_answered_and_settings_acknowledged() -> None:
    """With the same eight bytes."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        assert (await wire.next(SETTINGS))[1] == ACK
        stream_id, _, _ = await wire.call()
        await wire.send(frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"unasked."))
        assert (await wire.next(PING))[1:] == (ACK, 0, b"12345678")
        await wire.answer(stream_id, 1)
        await wire.until_closed()

    async with peer(script) as channel:
        assert await tokens_of(channel) == [1]


async def test_silent_peer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers pings stays; one that does not is lost, with its calls."""
    monkeypatch.setattr(h2_keepalive, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(h2_keepalive, "PING_TIMEOUT_S", 0.2)

    async def script(wire: Wire) -> None:
        await wire.greet()
        await wire.call()
        for _ in range(3):
            await wire.send(frame(PING, ACK, 0, (await wire.next(PING))[3]))
        await wire.next(PING)
        await wire.until_closed()

    async with peer(script, good) as channel:
        with pytest.raises(BrokenResponse, match="did not answer a ping"):
            await tokens_of(channel)
        assert await tokens_of(channel) == [7]


async def test_peer_that_wants_fewer_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gRPC asks of clients, it is pinged half as often afterwards."""
    monkeypatch.setattr(h2_keepalive, "PING_EVERY_S", 0.2)

    async def script(wire: Wire) -> None:
        await wire.greet()
        await wire.call()
        await wire.next(PING)
        await wire.send(frame(GOAWAY, 0, 0, uint(1) + uint(11) + b"too_many_pings"))

    async def patient(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        began_s = asyncio.get_running_loop().time()
        await wire.next(PING)
        assert asyncio.get_running_loop().time() - began_s > 0.3
        await wire.answer(stream_id, 3)
        await wire.until_closed()

    async with peer(script, patient) as channel:
        with pytest.raises(BrokenResponse, match="error code 11"):
            await tokens_of(channel)
        assert await tokens_of(channel) == [3]
        assert channel._ping_every_s == 0.4


async def test_calls_wait_for_a_free_stream() -> None:
    """In their order; one that is cancelled gives its turn away; time limits count."""

    async def script(wire: Wire) -> None:
        await wire.greet(setting(3, 1))
        first, _, _ = await wire.call()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.next()
        await wire.answer(first, 1)
        for token in (2, 3):
            stream_id, _, _ = await wire.call()
            await wire.answer(stream_id, token)
        await wire.until_closed()

    async with peer(script) as channel:
        held = channel.generate(())
        await held.connect(5.0)
        late = channel.generate(())
        with pytest.raises(ConnectTimeout):
            await late.connect(0.02)
        late.cancel()
        async with asyncio.TaskGroup() as group:
            gone = group.create_task(tokens_of(channel))
            second = group.create_task(tokens_of(channel))
            third = group.create_task(tokens_of(channel))
            await asyncio.sleep(0.01)
            gone.cancel()
            await held.send(pb.GenerateRequest())
            assert [list(m.chunk.token_ids) for m in await held.read()] == [[1]]
            while await held.read():
                pass
        held.cancel()
        assert (second.result(), third.result()) == ([2], [3])


async def test_farewell_in_the_middle() -> None:
    """What the worker has goes on to its end; what it has not taken was never sent."""
    went = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.greet()
        first, _, _ = await wire.call()
        await wire.head(first)
        await wire.send(frame(DATA, 0, first, message(1)))
        await wire.call()
        await wire.send(frame(GOAWAY, 0, 0, uint(first) + uint(0)))
        await went.wait()
        await wire.send(frame(DATA, 0, first, message(2)))
        await wire.end(first)
        await wire.until_closed()

    async with peer(script, good) as channel:
        kept, refused = channel.generate(()), channel.generate(())
        for call in (kept, refused):
            await call.connect(5.0)
            await call.send(pb.GenerateRequest())
        was_sent = refused.was_sent
        with pytest.raises(ConnectFailed):
            await refused.read()
        assert (was_sent, refused.was_sent) == (True, False)
        assert channel.n_losses == 1
        assert await tokens_of(channel) == [7]
        went.set()
        got: list[int] = []
        while said := await kept.read():
            got += [token for m in said for token in m.chunk.token_ids]
        assert got == [1, 2]
        kept.cancel()
        refused.cancel()


async def test_refused_stream_was_not_sent() -> None:
    """REFUSED_STREAM: the worker did nothing with it (section 8.7)."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.send(frame(RST, 0, stream_id, uint(7)))
        await wire.until_closed()

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        with pytest.raises(ConnectFailed):
            await call.read()
        assert not call.was_sent
        call.cancel()


@pytest.mark.parametrize("says_so", ["reset", "farewell"])
async def test_an_answered_call_was_read(says_so: str) -> None:
    """A worker that says otherwise does not get the request sent again elsewhere."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.head(stream_id)
        await wire.send(frame(DATA, 0, stream_id, message(1)))
        if says_so == "reset":
            await wire.send(frame(RST, 0, stream_id, uint(7)))
        else:
            await wire.send(frame(GOAWAY, 0, 0, uint(0) + uint(0)))
        await wire.until_closed()

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        [said] = await call.read()
        assert list(said.chunk.token_ids) == [1]
        with pytest.raises((RpcFailed, BrokenResponse)):
            await call.read()
        assert call.was_sent
        call.cancel()


async def test_numbers_of_streams_end() -> None:
    """Another connection is made while those who have a slot can still take a number."""

    async def idle(wire: Wire) -> None:
        await wire.greet()
        await wire.until_closed()

    async with peer(idle, good) as channel:
        early = channel.generate(())
        await early.connect(5.0)
        connection = channel.reserve_now()
        assert connection is not None
        connection.free_slot()
        connection._next_id = MAX_STREAM_ID - 2**20 + 2
        assert await tokens_of(channel) == [7]
        assert not connection.is_usable
        assert channel.n_streams == 1
        early.cancel()


async def test_connection_lost_between_connecting_and_sending() -> None:
    """Nothing was sent, whatever the loop has heard of it so far."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        await wire.next(SETTINGS)

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectFailed, match="before the request was sent"):
            await call.send(pb.GenerateRequest())
        assert not call.was_sent
        call.cancel()
