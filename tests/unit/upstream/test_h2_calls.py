"""How calls connect over HTTP/2, and how they are cancelled."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.upstream.failures import (
    CallCancelled,
    ConnectFailed,
    ConnectTimeout,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.grpc_call import GrpcCall
from app.upstream.grpc_channel import GrpcChannel
from tests.unit.upstream.frame_peer import (
    DATA,
    GOAWAY,
    RST,
    WINDOW,
    Script,
    Wire,
    frame,
    is_cancelled,
    message,
    peer,
    tokens_of,
    uint,
)

LARGE = pb.GenerateRequest(request_id="x" * 100_000)


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
            task = group.create_task(is_cancelled(call.connect(5.0)))
            await asyncio.sleep(0.02)
            call.cancel()
        assert task.result()
        with pytest.raises(CallCancelled):
            await call.connect(5.0)
        await channel.aclose()


@pytest.mark.parametrize("stage", ["connected", "writing", "waiting", "reading", "over"])
async def test_cancelled_at_each_stage(stage: str) -> None:
    """The worker is told once if it had anything of it, and nothing is left."""
    async with peer(_worker_until(stage)) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await _play_until(stage, call)
        call.cancel()
        call.cancel()
        assert channel.n_streams == 0
        assert await tokens_of(channel) == [9]


def _worker_until(stage: str) -> Script:

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

    return script


async def _play_until(stage: str, call: GrpcCall[pb.GenerateResponse]) -> None:
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
                read = group.create_task(is_cancelled(call.read()))
                await asyncio.sleep(0.02)
                call.cancel()
            assert read.result()
        else:
            assert len(await call.read()) == 2
        if stage == "over":
            assert not await call.read()


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
            task = group.create_task(is_cancelled(call.read()))
            await asyncio.sleep(0.02)
            await channel.aclose()
        assert task.result()
        with pytest.raises(ConnectFailed, match="removed"):
            channel.check()
        call.cancel()
