"""What a connection does besides answers: windows, pings, limits, farewells, cancels."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.upstream import h2_keepalive
from app.upstream.failures import (
    BrokenResponse,
    CallCancelled,
    ConnectFailed,
    ConnectTimeout,
    RpcFailed,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.grpc_channel import GrpcChannel
from tests.unit.upstream.frame_peer import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    PING,
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
)

LARGE = pb.GenerateRequest(request_id="x" * 100_000)


async def good(wire: Wire) -> None:
    """Answers one call with the token 7, and waits."""
    await wire.greet()
    stream_id, _, _ = await wire.call()
    await wire.answer(stream_id, 7)
    await wire.until_closed()


# ---- windows


async def test_request_within_the_peers_windows() -> None:
    """Never more than the stream, the connection and one frame may have; both are waited for."""

    async def script(wire: Wire) -> None:
        await wire.greet(setting(4, 10_000) + setting(5, 20_000))
        body, n_stream, n_connection, flags = b"", 10_000, 65_535, 0
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
        while channel.is_connected:
            await asyncio.sleep(0.005)
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


# ---- pings


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


# ---- limits and farewells


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
        assert refused.was_sent
        with pytest.raises(ConnectFailed):
            await refused.read()
        assert not refused.was_sent
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


# ---- connecting


async def test_one_attempt_for_all_who_wait() -> None:
    """A first caller that leaves hands the attempt on; a failure is told to all."""

    async def script(wire: Wire) -> None:
        await asyncio.sleep(0.05)
        await wire.greet()
        for token in range(2):
            stream_id, _, _ = await wire.call()
            await wire.answer(stream_id, token)
        await wire.until_closed()

    async def left(wire: Wire) -> None:
        await wire.until_closed()

    async with peer(left, script) as channel, asyncio.TaskGroup() as group:
        first = group.create_task(tokens_of(channel))
        others = [group.create_task(tokens_of(channel)) for _ in range(2)]
        await asyncio.sleep(0.02)
        first.cancel()
        done, _ = await asyncio.wait(others)
        assert sorted(task.result() for task in done) == [[0], [1]]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = GrpcChannel(f"grpc://127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.1)
        tasks = [asyncio.ensure_future(tokens_of(channel)) for _ in range(3)]  # noqa: TID251
        await asyncio.wait(tasks)
        assert [type(task.exception()) for task in tasks] == [ConnectTimeout] * 3
        await channel.aclose()


async def test_cancelled_while_connecting() -> None:
    """By hand, too, which the one that connects meets at once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = GrpcChannel(f"grpc://127.0.0.1:{silent.getsockname()[1]}")
        call = channel.generate(())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_cancelled(call.connect(5.0)))
            await asyncio.sleep(0.02)
            call.cancel()
        assert task.result()
        with pytest.raises(CallCancelled):
            await call.connect(5.0)
        await channel.aclose()


async def _cancelled(step: object) -> bool:
    try:
        await step  # type: ignore[misc]
    except CallCancelled:
        return True
    return False


@pytest.mark.parametrize("stage", ["connected", "writing", "waiting", "reading", "over"])
async def test_cancelled_at_each_stage(stage: str) -> None:
    """The worker is told once if it had anything of it, and nothing is left."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        if stage != "connected":
            _, _, stream_id, _ = await wire.next(DATA)
            if stage in ("reading", "over"):
                await wire.head(stream_id)
                await wire.send(frame(DATA, 0, stream_id, message(1) + message(2)))
            if stage == "over":
                await wire.end(stream_id)
            else:
                assert (await wire.next(RST))[2:] == (stream_id, uint(8))
                # What crosses it is no fault; the large request took the connection's window.
                await wire.send(frame(WINDOW, 0, 0, uint(100_000)))
                await wire.send(frame(DATA, 0, stream_id, message(3)))
                await wire.end(stream_id)
        stream_id, _, _ = await wire.call()
        await wire.answer(stream_id, 9)
        await wire.until_closed()
        assert len([f for f in wire.seen if f[0] == RST]) == (stage not in ("connected", "over"))

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        if stage == "writing":
            async with asyncio.TaskGroup() as group:
                task = group.create_task(call.send(LARGE))
                await asyncio.sleep(0.02)
                assert not task.done()
                call.cancel()
        elif stage != "connected":
            await call.send(pb.GenerateRequest())
            if stage == "waiting":
                async with asyncio.TaskGroup() as group:
                    read = group.create_task(_cancelled(call.read()))
                    await asyncio.sleep(0.02)
                    call.cancel()
                assert read.result()
            else:
                assert len(await call.read()) == 2
            if stage == "over":
                assert not await call.read()
        call.cancel()
        call.cancel()
        assert channel.n_streams == 0
        assert await tokens_of(channel) == [9]


async def test_closing_ends_what_runs() -> None:
    """As cancelled by this side; the worker gets a farewell, and no call is taken afterwards."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        await wire.call()
        assert (await wire.next(GOAWAY))[3][4:] == uint(0)
        await wire.until_closed()

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_cancelled(call.read()))
            await asyncio.sleep(0.02)
            await channel.aclose()
        assert task.result()
        with pytest.raises(ConnectFailed, match="removed"):
            channel.check()
        call.cancel()
