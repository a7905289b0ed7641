"""Generate over real gRPC: how far a call got, deadlines, cancels, statuses; both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.protocol.engine import Chunk, Complete, EngineRequest, Sampling
from app.sim import VllmConfig, VllmFault, VllmFaultKind, VllmSim
from app.upstream.failures import (
    BrokenResponse,
    ConnectFailed,
    ConnectTimeout,
    RpcFailed,
    SilenceTimeout,
    UpstreamError,
)
from app.upstream.vllm_call import VllmCall
from app.upstream.vllm_status import HTTP_STATUS
from app.upstream.vllm_worker import VllmWorker
from app.workers.worker import Role, Worker, WorkerSpec

pytestmark = pytest.mark.usefixtures("grpc_client")

PROMPT = list(b"Tell me about pairs")


def request(request_id: str = "r", n_max: int = 8, *, stream: bool = True) -> EngineRequest:
    """Some tokens for some prompt."""
    return EngineRequest(
        request_id, PROMPT, "", Sampling(max_tokens=n_max, ignore_eos=True), stream
    )


@asynccontextmanager
async def client(url: str, connect_timeout_s: float = 2.0) -> AsyncIterator[VllmWorker]:
    """A worker's client, closed afterwards."""
    worker = Worker(WorkerSpec(url, Role.REGULAR))
    made = VllmWorker(worker, connect_timeout_s=connect_timeout_s, control_timeout_s=2.0)
    try:
        yield made
    finally:
        await made.aclose()


@asynccontextmanager
async def sim(**settings: object) -> AsyncIterator[tuple[VllmSim, VllmWorker]]:
    """A worker without a peer and its client."""
    config = VllmConfig(role="regular", connector="", **settings)  # type: ignore[arg-type]
    async with VllmSim(config) as worker, client(worker.url) as made:
        yield worker, made


async def drain(call: VllmCall) -> list[Chunk | Complete]:
    """Everything a call says."""
    async with call:
        return [message async for message in call]


async def until_failure(call: VllmCall) -> tuple[list[Chunk | Complete], UpstreamError]:
    """What came before a call failed, and how it failed."""
    got = []
    try:
        async with call:
            async for message in call:
                got.append(message)  # noqa: PERF401 - kept although the loop fails
    except UpstreamError as error:
        return got, error
    raise AssertionError("the call did not fail")


async def until(done: object) -> None:
    """Wait a little for something that another party notices."""
    for _ in range(200):
        if done():  # type: ignore[operator]
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


async def test_streamed_and_whole() -> None:
    """Tokens of a stream come in chunks, the last of which Complete repeats."""
    async with sim(decode_step_s=0.001) as (_, worker):
        messages = await drain(worker.generate(request()))
        chunks = [m for m in messages if isinstance(m, Chunk)]
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        end = messages[-1]
        assert isinstance(end, Complete)
        assert (len(tokens), end.finish_reason) == (8, "length")
        assert list(end.token_ids) == list(chunks[-1].token_ids)
        [whole] = await drain(worker.generate(request(stream=False)))
        assert isinstance(whole, Complete)
        assert (list(whole.token_ids), whole.n_completion_tokens) == (tokens, 8)


# ---- nothing reached the engine


async def failing(worker: VllmWorker) -> tuple[VllmCall, UpstreamError]:
    """Drain a call that must fail."""
    call = worker.generate(request(), first_timeout_s=2.0)
    with pytest.raises(UpstreamError) as caught:
        await drain(call)
    return call, caught.value


async def test_refused_port() -> None:
    """Nobody listens: at once, and again while the channel waits to try anew."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with client(f"grpc://127.0.0.1:{taken.getsockname()[1]}") as worker:
            for _ in range(2):
                call, error = await failing(worker)
                assert type(error) is ConnectFailed
                assert "refused" in str(error)
                assert not call.sent


async def test_unknown_host() -> None:
    """No address is no connection either."""
    async with client("grpc://no-such-host.invalid:1") as worker:
        call, error = await failing(worker)
        assert type(error) is ConnectFailed
        assert not call.sent


async def test_connection_accepted_then_reset() -> None:
    """A listener that is no engine: nothing of the request was sent."""

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw: socket.socket = writer.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with client(f"grpc://127.0.0.1:{port}") as worker:
            call, error = await failing(worker)
            assert type(error) is ConnectFailed
            assert not call.sent


async def test_connection_accepted_then_silence() -> None:
    """Without HTTP/2's greeting there is no connection to send on."""
    # The kernel takes the connection; nobody ever reads from it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with client(f"grpc://127.0.0.1:{port}", connect_timeout_s=0.2) as worker:
            call, error = await failing(worker)
            assert type(error) is ConnectTimeout
            assert not call.sent


async def test_connection_lost_while_idle() -> None:
    """The worker died since the last call: nothing reached it, and a new start is found at once."""
    async with sim() as (engine, worker):
        await drain(worker.generate(request()))
        await engine.kill()
        call, error = await failing(worker)
        assert type(error) is ConnectFailed
        assert not call.sent
        await engine.restart()
        async with asyncio.timeout(2):
            while True:
                try:
                    await drain(worker.generate(request()))
                    break
                except ConnectFailed:
                    await asyncio.sleep(0.02)


# ---- the engine may have it


async def test_connection_reset_before_the_first_message() -> None:
    """The request arrived, then the connection broke: it must not count as unsent."""
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.CUT))
        call, error = await failing(worker)
        assert type(error) is BrokenResponse
        assert call.sent
        assert len(engine.seen) == 1


async def test_connection_reset_in_the_middle() -> None:
    """What came is there, then the call fails."""
    async with sim(decode_step_s=0.001) as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.CUT, after_messages=2))
        got, error = await until_failure(worker.generate(request()))
        assert (len(got), type(error)) == (2, BrokenResponse)


async def test_the_words_of_a_refused_connection_prove_nothing() -> None:
    """A worker may say what grpcio says when nobody listens."""
    words = "failed to connect to all addresses; last error: Connection refused"
    async with sim() as (engine, worker):
        engine.faults.refuse("UNAVAILABLE", words)
        call, error = await failing(worker)
        assert isinstance(error, RpcFailed)
        assert (error.http_status, error.message) == (503, words)
        assert call.sent


@pytest.mark.parametrize("status", sorted(HTTP_STATUS))
async def test_every_status(status: str) -> None:
    """Each has its HTTP status; a CANCELLED by the worker does not cancel our task."""
    async with sim() as (engine, worker):
        engine.faults.refuse(status, "because")
        _, error = await failing(worker)
        assert isinstance(error, RpcFailed)
        assert (error.status, error.http_status) == (status, HTTP_STATUS[status])
        assert (error.message, error.code) == ("because", "")


async def test_failed_constraint() -> None:
    """Trailing metadata tells it from other failed preconditions."""
    async with sim() as (engine, worker):
        trailing = {"smg-constraint-failed": "engine"}
        engine.faults.refuse("FAILED_PRECONDITION", "bad grammar", trailing=trailing)
        _, error = await failing(worker)
        assert isinstance(error, RpcFailed)
        assert (error.http_status, error.code) == (422, "constraint_failed")


async def test_an_answer_without_an_end() -> None:
    """Status OK after some tokens is a failure when Complete is missing."""
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.NO_COMPLETE))
        _, error = await failing(worker)
        assert type(error) is BrokenResponse


@pytest.mark.parametrize("kind", [VllmFaultKind.CUT, VllmFaultKind.BREAK, VllmFaultKind.STALL])
async def test_a_bad_end_after_a_complete_answer(kind: VllmFaultKind) -> None:
    """Everything was said: the answer is good."""
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=kind, after_messages=1))
        [end] = await drain(worker.generate(request(stream=False), gap_timeout_s=0.1))
        assert isinstance(end, Complete)


# ---- silence


async def test_no_first_message() -> None:
    """The worker is told that nobody waits any more."""
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG))
        call = worker.generate(request("slow"), first_timeout_s=0.1)
        with pytest.raises(SilenceTimeout) as caught:
            await drain(call)
        assert caught.value.phase == "head"
        await until(lambda: engine.cancelled == ["slow"])


async def test_a_gap_that_is_too_long() -> None:
    """The limit counts anew for every message."""
    async with sim(decode_step_s=0.03) as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.STALL, after_messages=5))
        call = worker.generate(request("gap"), first_timeout_s=2.0, gap_timeout_s=0.1)
        got, error = await until_failure(call)
        assert isinstance(error, SilenceTimeout)
        assert (len(got), error.phase) == (5, "body")
        await until(lambda: engine.cancelled == ["gap"])
        assert engine.n_active == 0


# ---- cancels


async def test_leaving_early_cancels() -> None:
    """The worker stops to generate."""
    async with sim(decode_step_s=0.005) as (engine, worker):
        async with worker.generate(request("left", 5000)) as call:
            async for _ in call:
                break
        await until(lambda: engine.cancelled == ["left"])
        said = engine.generated_tokens
        await asyncio.sleep(0.03)
        assert engine.generated_tokens == said


async def test_a_cancelled_task_cancels_its_call() -> None:
    """Also before the first message, and the task ends as cancelled."""
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(drain(worker.generate(request("gone"))))
            await until(lambda: engine.n_active == 1)
            task.cancel()
        assert task.cancelled()
        await until(lambda: engine.cancelled == ["gone"])


async def test_cancel_from_outside_ends_the_reader_with_an_error() -> None:
    """Who reads is not cancelled itself, though grpcio raises CancelledError there."""
    async with sim() as (engine, worker):
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG))
        call = worker.generate(request("out"))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(failing_with(call))
            await until(lambda: engine.n_active == 1)
            call.cancel()
            call.cancel()
        error = task.result()
        assert isinstance(error, RpcFailed)
        assert error.status == "CANCELLED"
        await until(lambda: engine.cancelled == ["out"])


async def test_a_call_cancelled_before_it_is_entered() -> None:
    """It fails without reaching the worker."""
    async with sim() as (engine, worker):
        call = worker.generate(request())
        call.cancel()
        error = await failing_with(call)
        assert isinstance(error, RpcFailed)
        assert not call.sent
        assert not engine.seen


async def test_a_slow_reader_does_not_make_the_worker_silent() -> None:
    """The gap is counted while a message is awaited, not while one is used."""
    async with sim(decode_step_s=0.002) as (_, worker):
        n_messages = 0
        async with worker.generate(request(), gap_timeout_s=0.05) as call:
            async for _message in call:
                n_messages += 1
                if n_messages == 1:
                    await asyncio.sleep(0.12)
        assert n_messages > 1


async def failing_with(call: VllmCall) -> UpstreamError:
    """What a call fails with."""
    with pytest.raises(UpstreamError) as caught:
        await drain(call)
    return caught.value


async def test_nothing_is_left_behind() -> None:
    """No task outlives calls that ended well, badly or not at all, once the channel is closed."""
    before = asyncio.all_tasks()
    async with sim() as (engine, worker):
        await drain(worker.generate(request()))
        engine.faults.refuse("INTERNAL", "no")
        await failing(worker)
        engine.faults.add(VllmFault(kind=VllmFaultKind.HANG))
        with pytest.raises(SilenceTimeout):
            await drain(worker.generate(request(), first_timeout_s=0.05))
        call = worker.generate(request("never entered"))
        assert not call.sent
    await until(lambda: asyncio.all_tasks() == before)


async def test_messages_over_four_mebibytes() -> None:
    """The limit of grpcio is lifted in both directions."""
    async with sim() as (engine, worker):
        large = "x" * 5_000_000
        engine.faults.add(VllmFault(kind=VllmFaultKind.BAD_HANDOFF, message=large))
        order = EngineRequest(large, PROMPT, large, Sampling(max_tokens=1), stream=False)
        [end] = await drain(worker.generate(order))
        assert isinstance(end, Complete)
        assert end.handoff_json == large
        seen = engine.seen[0].request
        assert seen.request_id == large
        # Only for the log, and it goes to both legs.
        assert not seen.tokenized.original_text
