"""Answers as they may come over HTTP/2, cut anywhere, and answers that are none."""

from __future__ import annotations

import pytest

from app.upstream.failures import BrokenResponse, RpcFailed, UpstreamError
from app.upstream.generated import vllm_engine_pb2 as pb
from tests.unit.upstream.frame_peer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    OK,
    RST,
    WINDOW,
    Wire,
    block,
    frame,
    message,
    peer,
    tokens_of,
    uint,
)


@pytest.mark.parametrize("split", [0, 1, 7, 64])
async def test_answer_cut_anywhere(split: int) -> None:
    """Several messages in a frame, one over several frames, padding, priority, CONTINUATION."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, headers, body = await wire.call()
        assert headers[":path"] == "/vllm.grpc.engine.VllmEngine/Generate"
        assert (headers["te"], headers["content-type"]) == ("trailers", "application/grpc")
        assert pb.GenerateRequest.FromString(body[5:]).request_id == "r"
        head = block([*HEAD, ("x-long", "y" * 300)])
        priority = bytes(5)
        await wire.send(
            frame(0x77, 3, 0, b"a kind that nobody knows")
            + frame(2, 0, stream_id, priority)
            + frame(HEADERS, 0x28, stream_id, b"\3" + priority + head[:20] + bytes(3))
            + frame(CONTINUATION, 0, stream_id, head[20:30])
            + frame(CONTINUATION, END_HEADERS, stream_id, head[30:])
        )
        joined = message(1) + message(2) + message(3)
        await wire.send(frame(DATA, 0, stream_id, joined[:-3]))
        await wire.send(frame(DATA, 0x8, stream_id, b"\2" + joined[-3:-1] + bytes(2)))
        await wire.send(frame(DATA, 0, stream_id) + frame(DATA, 0, stream_id, joined[-1:]))
        await wire.end(stream_id)
        await wire.until_closed()

    async with peer(script, split=split) as channel:
        assert await tokens_of(channel) == [1, 2, 3]


async def failure_of(script_end: object, *, reads: list[int] | None = None) -> UpstreamError:
    """How a call fails whose answer is written by ``script_end(wire, stream_id)``."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await script_end(wire, stream_id)  # type: ignore[operator]
        await wire.until_closed()

    async with peer(script) as channel:
        with pytest.raises(UpstreamError) as caught:
            await tokens_of(channel)
        return caught.value


@pytest.mark.parametrize(
    ("trailers", "status", "text"),
    [
        ([("grpc-status", "3"), ("grpc-message", "50%25 of %C3%A9 %zz")], "INVALID_ARGUMENT",
         "50% of é %zz"),
        ([("grpc-status", "8")], "RESOURCE_EXHAUSTED", "ended the call with RESOURCE_EXHAUSTED"),
        ([("grpc-status", "99"), ("grpc-message", "x")], "UNKNOWN", "x"),
        ([("grpc-status", "nonsense")], "UNKNOWN", "UNKNOWN"),
        ([("grpc-status", "9" * 5000)], "UNKNOWN", "UNKNOWN"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_only", [True, False])
async def test_status(
    trailers: list[tuple[str, str]], status: str, text: str, is_only: bool
) -> None:
    """In trailers, and in an answer that is nothing but trailers."""

    async def end(wire: Wire, stream_id: int) -> None:
        if is_only:
            await wire.end(stream_id, [*HEAD, *trailers])
        else:
            await wire.head(stream_id)
            await wire.end(stream_id, trailers)

    error = await failure_of(end)
    assert isinstance(error, RpcFailed)
    assert error.status == status
    assert text in error.message


async def test_failed_constraint_by_key() -> None:
    """Its trailer makes it the client's fault."""
    trailers = [("grpc-status", "9"), ("smg-constraint-failed", "1")]
    error = await failure_of(lambda wire, stream_id: wire.end(stream_id, HEAD + trailers))
    assert isinstance(error, RpcFailed)
    assert (error.http_status, error.code) == (422, "constraint_failed")


@pytest.mark.parametrize(
    ("number", "status"),
    [("503", "UNAVAILABLE"), ("404", "UNIMPLEMENTED"), ("401", "UNAUTHENTICATED"),
     ("400", "INTERNAL"), ("418", "UNKNOWN"), ("5" * 5000, "UNKNOWN")],
)  # fmt: skip
@pytest.mark.parametrize("has_body", [True, False])
async def test_http_status(number: str, status: str, has_body: bool) -> None:
    """A proxy's own error page."""

    async def end(wire: Wire, stream_id: int) -> None:
        headers = [(":status", number), ("content-type", "text/html")]
        if has_body:
            await wire.head(stream_id, headers)
            assert (await wire.next(RST))[3] == uint(8)
            await wire.send(frame(DATA, END_STREAM, stream_id, b"<html>"))
        else:
            await wire.end(stream_id, headers)

    error = await failure_of(end)
    assert isinstance(error, RpcFailed)
    assert error.status == status
    assert (number if len(number) == 3 else "0") in error.message


@pytest.mark.parametrize(
    ("code", "status"),
    [(2, "INTERNAL"), (8, "CANCELLED"), (11, "RESOURCE_EXHAUSTED"), (0, "INTERNAL")],
)
async def test_reset_by_the_worker(code: int, status: str) -> None:
    """RST_STREAM has the status that grpcio gives it; other calls go on."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        first, _, _ = await wire.call()
        await wire.send(frame(RST, 0, first, uint(code)))
        # Frames that crossed it mean nothing.
        await wire.send(frame(DATA, 0, first, message(9)) + frame(WINDOW, 0, first, uint(5)))
        second, _, _ = await wire.call()
        await wire.answer(second, 4)
        await wire.until_closed()

    async with peer(script) as channel:
        with pytest.raises(RpcFailed) as caught:
            await tokens_of(channel)
        assert caught.value.status == status
        assert await tokens_of(channel) == [4]


async def test_early_hints_are_passed_over() -> None:
    """Informational headers are not the answer's head."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.head(stream_id, [(":status", "103")])
        await wire.answer(stream_id, 1)
        await wire.until_closed()

    async with peer(script) as channel:
        assert await tokens_of(channel) == [1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\1" + uint(1) + b"x", "compressed"),
        (b"\0" + uint(2**31) + b"x", "longer than the gateway takes"),
        (b"\0" + uint(3) + b"\xff\xff\xff", "cannot be read"),
    ],
)
async def test_bad_message(data: bytes, text: str) -> None:
    """The call fails, the worker is told, and the connection goes on."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        await wire.head(stream_id)
        await wire.send(frame(DATA, 0, stream_id, data))
        assert (await wire.next(RST))[2:] == (stream_id, uint(8))
        second, _, _ = await wire.call()
        await wire.answer(second, 4)
        await wire.until_closed()

    async with peer(script) as channel:
        with pytest.raises(BrokenResponse, match=text):
            await tokens_of(channel)
        assert await tokens_of(channel) == [4]


async def test_good_messages_before_a_bad_one_are_read() -> None:
    """Also when they came in one piece."""

    async def script(wire: Wire) -> None:
        await wire.greet()
        stream_id, _, _ = await wire.call()
        bad = b"\0" + uint(3) + b"\xff\xff\xff"
        await wire.head(stream_id)
        await wire.send(frame(DATA, 0, stream_id, message(1) + bad))
        await wire.until_closed()

    async with peer(script) as channel:
        call = channel.generate(())
        await call.connect(5.0)
        await call.send(pb.GenerateRequest())
        [said] = await call.read()
        assert list(said.chunk.token_ids) == [1]
        with pytest.raises(BrokenResponse, match="cannot be read"):
            await call.read()
        call.cancel()


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (frame(DATA, END_STREAM, 1), "without a gRPC status"),
        (frame(HEADERS, END_HEADERS | END_STREAM, 1, block([("a", "b")])), "without a gRPC status"),
        (frame(DATA, 0, 1, b"\0" + uint(9) + b"x")
         + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(OK)), "middle of a message"),
    ],
)  # fmt: skip
async def test_answer_that_ends_badly(ending: bytes, text: str) -> None:
    """A status that says OK does not make half a message whole."""

    async def end(wire: Wire, stream_id: int) -> None:
        await wire.head(stream_id)
        await wire.send(ending)

    error = await failure_of(end)
    assert type(error) is BrokenResponse
    assert text in str(error)
