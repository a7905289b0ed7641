"""Our gRPC client against grpcio's servers, asyncio's and the one with threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from app.upstream.failures import (
    BrokenResponse,
    CallCancelled,
    ConnectFailed,
    RpcFailed,
    SilenceTimeout,
)
from app.upstream.generated import common_pb2
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.grpc_channel import GrpcChannel
from app.upstream.vllm_channel import Method
from tests.unit.upstream.frame_peer import until

ECHO = Method("/test.Test/Echo", common_pb2.GetTokenizerChunk)
MANY = Method("/test.Test/Many", common_pb2.GetTokenizerChunk)
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
Chunk = common_pb2.GetTokenizerChunk
METADATA = (("authorization", "Bearer key"), ("traceparent", "00-1-2-01"))


class Seen:
    """What the server saw."""

    def __init__(self) -> None:
        self.n_running = 0
        self.n_whole = 0
        self.metadata: list[dict[str, Any]] = []
        self.left_s: list[float] = []


def _answer(data: bytes) -> Chunk:
    return Chunk(data=data, sha256="é")


@asynccontextmanager
async def aio_server(seen: Seen) -> AsyncIterator[GrpcChannel]:
    """grpc.aio: answers, streams, hangs, fails."""

    async def echo(request: Chunk, context: Any) -> Chunk:
        seen.metadata.append(dict(context.invocation_metadata()))
        seen.left_s.append(context.time_remaining() or -1.0)
        if request.sha256 == "hang":
            await asyncio.sleep(60)
        if request.sha256 == "fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nö 100%\nhere")
        return _answer(request.data)

    async def many(request: Chunk, context: Any) -> AsyncIterator[Chunk]:
        seen.n_running += 1
        try:
            for number in range(len(request.data)):
                yield _answer(str(number).encode())
                if request.sha256 == "slow":
                    await asyncio.sleep(0.005)
            seen.n_whole += 1
        finally:
            seen.n_running -= 1

    server = grpc.aio.server(options=OPTIONS)
    async for channel in _serving(server, echo, many):
        yield channel


@asynccontextmanager
async def thread_server(seen: Seen) -> AsyncIterator[GrpcChannel]:
    """grpc.server: the same without hanging."""

    def echo(request: Chunk, context: Any) -> Chunk:
        seen.metadata.append(dict(context.invocation_metadata()))
        seen.left_s.append(context.time_remaining() or -1.0)
        if request.sha256 == "hang":
            time.sleep(0.3)
        if request.sha256 == "fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "nö 100%\nhere")
        return _answer(request.data)

    def many(request: Chunk, context: Any) -> Iterator[Chunk]:
        for number in range(len(request.data)):
            yield _answer(str(number).encode())

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=OPTIONS)
        async for channel in _serving(server, echo, many):
            yield channel


async def _serving(server: Any, echo: Any, many: Any) -> AsyncIterator[GrpcChannel]:
    coding: dict[str, Any] = {
        "request_deserializer": Chunk.FromString,
        "response_serializer": Chunk.SerializeToString,
    }
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo, **coding),
        "Many": grpc.unary_stream_rpc_method_handler(many, **coding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    started = server.start()
    if started is not None:
        await started
    channel = GrpcChannel(f"grpc://127.0.0.1:{port}")
    try:
        yield channel
        assert channel.n_streams == 0
    finally:
        await channel.aclose()
        stopped = server.stop(None)
        if asyncio.iscoroutine(stopped):
            await stopped
        else:
            await asyncio.to_thread(stopped.wait)


SERVERS = pytest.mark.parametrize("serve", [aio_server, thread_server])
Serve = Callable[[Seen], Any]


@SERVERS
async def test_calls(serve: Serve) -> None:
    """Answers, statuses with their details, metadata and deadlines arrive."""
    seen = Seen()
    async with serve(seen) as channel:
        said = await channel.ask(ECHO, Chunk(data=b"x"), 20.0, METADATA)
        assert (said.data, said.sha256) == (b"x", "é")
        assert seen.metadata[0]["authorization"] == "Bearer key"
        assert seen.metadata[0]["traceparent"] == "00-1-2-01"
        assert 0 < seen.left_s[0] <= 20.0
        with pytest.raises(RpcFailed) as caught:
            await channel.ask(ECHO, Chunk(sha256="fail"), 20.0, ())
        assert (caught.value.status, caught.value.message) == ("NOT_FOUND", "nö 100%\nhere")
        with pytest.raises(RpcFailed) as caught:
            await channel.ask(Method("/no.Such/Thing", Chunk), Chunk(), 20.0, ())
        assert caught.value.status == "UNIMPLEMENTED"
        with pytest.raises(SilenceTimeout, match=r"no answer in 0\.05 s"):
            await channel.ask(ECHO, Chunk(sha256="hang"), 0.05, ())
        with pytest.raises(ConnectFailed, match="cannot be written"):
            await channel.ask(ECHO, Chunk(), 20.0, (("authorization", "a\nb"),))
        assert (await channel.ask(ECHO, Chunk(data=b"y"), 20.0, ())).data == b"y"
        assert channel.n_losses == 0


@SERVERS
@pytest.mark.parametrize("n_bytes", [0, 16_370, 16_384, 65_535, 500_000, 4_194_304])
async def test_large_messages_both_ways(serve: Serve, n_bytes: int) -> None:
    """Over many frames and windows."""
    async with serve(Seen()) as channel:
        data = bytes(range(256)) * (n_bytes // 256) + bytes(n_bytes % 256)
        said = await channel.ask(ECHO, Chunk(data=data), 20.0, ())
        assert said.data == data


@SERVERS
async def test_streams(serve: Serve) -> None:
    """In order and to the end, next to each other."""
    async with serve(Seen()) as channel:

        async def count(n_messages: int) -> list[int]:
            async with aclosing(
                channel.stream(MANY, Chunk(data=bytes(n_messages)), 20.0, ())
            ) as answers:
                return [int(answer.data) async for answer in answers]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(count(n)) for n in (0, 1, 50, 2_000)]
        assert [task.result() for task in tasks] == [list(range(n)) for n in (0, 1, 50, 2_000)]


@pytest.mark.timeout(90)
async def test_an_answer_too_many() -> None:
    """A worker that goes on where one answer is due is not read on."""
    seen = Seen()
    async with aio_server(seen) as channel:
        with pytest.raises(BrokenResponse, match="several answers"):
            await channel.ask(MANY, Chunk(data=bytes(50), sha256="slow"), 5.0, ())
        await until(lambda: not seen.n_running)
        assert seen.n_whole == 0
        with pytest.raises(BrokenResponse, match="no answer"):
            await channel.ask(MANY, Chunk(), 5.0, ())


async def test_a_thousand_streams_at_once() -> None:
    """On one connection, and half of them are left in the middle."""
    seen = Seen()
    async with aio_server(seen) as channel:

        async def one(number: int) -> int:
            stays, n_read = number % 2 == 0, 0
            request = Chunk(data=bytes(20 if stays else 2_000), sha256="slow")
            async with aclosing(channel.stream(MANY, request, 60.0, ())) as answers:
                async for answer in answers:
                    assert int(answer.data) == n_read
                    n_read += 1
                    if not stays and n_read == 3:
                        break
            return n_read

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(1_000)]
        assert [task.result() for task in tasks] == [20, 3] * 500
        assert (channel.n_streams, channel.n_losses) == (0, 0)
        await until(lambda: seen.n_running == 0)
        assert seen.n_whole == 500


async def test_cancelled_tasks_leave_nothing() -> None:
    """Wherever a task is cancelled: connecting, sending, waiting or reading."""
    seen = Seen()
    async with aio_server(seen) as channel:

        async def read(number: int) -> None:
            request = Chunk(data=bytes(1_000 * (number % 3 * 100 + 1)), sha256="slow")
            async with aclosing(channel.stream(MANY, request, 60.0, ())) as answers:
                async for _ in answers:
                    pass

        tasks = [asyncio.ensure_future(read(number)) for number in range(60)]  # noqa: TID251
        for number, task in enumerate(tasks):
            if number % 4:
                await asyncio.sleep(0.003 * (number % 4))
            task.cancel()
        done, _ = await asyncio.wait(tasks)
        assert all(task.cancelled() for task in done)
        assert channel.n_streams == 0
        await until(lambda: seen.n_running == 0)
        assert (await channel.ask(ECHO, Chunk(data=b"y"), 20.0, ())).data == b"y"


async def test_a_server_that_ages_its_connections() -> None:
    """Grpcio says farewell twice; every call is answered, some on the next connection."""
    seen = Seen()

    async def echo(request: Chunk, context: Any) -> Chunk:
        seen.n_running += 1
        await asyncio.sleep(0.01)
        return _answer(request.data)

    aged = (("grpc.max_connection_age_ms", 150), ("grpc.max_connection_age_grace_ms", 2_000))
    server = grpc.aio.server(options=(*OPTIONS, *aged))
    async for channel in _serving(server, echo, echo):
        for number in range(60):
            said = await channel.ask(ECHO, Chunk(data=str(number).encode()), 5.0, ())
            assert said.data == str(number).encode()
        assert channel.n_losses > 0
        assert seen.n_running == 60


async def test_generate_is_cancelled_by_closing() -> None:
    """Its reader learns that this side ended it."""
    async with aio_server(Seen()) as channel:
        call = channel.generate(())
        call.cancel()
        with pytest.raises(CallCancelled):
            await call.connect(1.0)
        call = channel.generate(())
        await call.connect(1.0)
        call.cancel()
        with pytest.raises(CallCancelled):
            await call.send(pb.GenerateRequest())


def test_other_schemes() -> None:
    """Only gRPC ones."""
    with pytest.raises(ValueError, match="scheme is not grpc"):
        GrpcChannel("http://h:1")
