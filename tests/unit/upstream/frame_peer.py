"""A server that speaks HTTP/2 frame by frame, as a test tells it to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import hpack

from app.upstream.failures import CallCancelled
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.grpc_channel import GrpcChannel

ACK = END_STREAM = 1
END_HEADERS = 4
DATA, HEADERS, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]
BOUND_S = 10.0

Frame = tuple[int, int, int, bytes]


def frame(kind: int, flags: int = 0, stream_id: int = 0, body: bytes = b"") -> bytes:
    """One frame."""
    head = len(body).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream_id.to_bytes(4, "big") + body


def uint(number: int) -> bytes:
    """32 bits."""
    return number.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    """One setting."""
    return name.to_bytes(2, "big") + uint(value)


def message(token: int) -> bytes:
    """A message of an answer, with gRPC's prefix."""
    raw = pb.GenerateResponse(chunk=pb.GenerateStreamChunk(token_ids=[token])).SerializeToString()
    return b"\0" + uint(len(raw)) + raw


def block(headers: list[tuple[str, str]], *, huffman: bool = True) -> bytes:
    """A header block that needs no table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(headers, huffman=huffman)


class Wire:
    """The server's end of one connection.

    Attributes:
        split: Sends in pieces of random length up to this many bytes; 0: in one.
        seen: Every frame that came.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, split: int
    ) -> None:
        self._reader = reader
        self.writer = writer
        self.split = split
        self.seen: list[Frame] = []

    async def greet(self, settings: bytes = b"") -> None:
        """Reads the client's greeting and sends ours."""
        preface = await self._reader.readexactly(24)
        assert preface == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        kind, _, stream_id, body = await self.next(SETTINGS)
        assert (kind, stream_id) == (SETTINGS, 0)
        assert setting(1, 0) in body
        await self.send(frame(SETTINGS, 0, 0, settings))

    async def next(self, *kinds: int) -> Frame:
        """The next frame of these kinds; others are only noted."""
        while True:
            head = await self._reader.readexactly(9)
            body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            got = (head[3], head[4], int.from_bytes(head[5:], "big"), body)
            self.seen.append(got)
            if not kinds or got[0] in kinds:
                return got

    async def call(self) -> tuple[int, dict[str, str], bytes]:
        """Reads one call to the end of its request; windows must be large enough."""
        _, flags, stream_id, head = await self.next(HEADERS)
        while not flags & END_HEADERS:
            _, flags, _, more = await self.next(CONTINUATION)
            head += more
        body, flags = b"", 0
        while not flags & END_STREAM:
            _, flags, _, piece = await self.next(DATA)
            body += piece
        headers = {str(name): str(value) for name, value in hpack.Decoder().decode(head)}
        return stream_id, headers, body

    async def send(self, data: bytes) -> None:
        """Sends, in pieces if asked for."""
        while data:
            n_bytes = random.randint(1, self.split) if self.split else len(data)
            self.writer.write(data[:n_bytes])
            data = data[n_bytes:]
            await self.writer.drain()
            if self.split:
                await asyncio.sleep(0)

    async def head(self, stream_id: int, headers: list[tuple[str, str]] | None = None) -> None:
        """Begins an answer."""
        await self.send(frame(HEADERS, END_HEADERS, stream_id, block(headers or HEAD)))

    async def end(self, stream_id: int, trailers: list[tuple[str, str]] | None = None) -> None:
        """Ends an answer."""
        flags = END_HEADERS | END_STREAM
        await self.send(frame(HEADERS, flags, stream_id, block(trailers or OK)))

    async def answer(self, stream_id: int, *tokens: int) -> None:
        """A whole good answer."""
        await self.head(stream_id)
        for token in tokens:
            await self.send(frame(DATA, 0, stream_id, message(token)))
        await self.end(stream_id)

    async def until_closed(self) -> None:
        """Reads until the client closes the connection."""
        try:
            while True:
                await self.next()
        except (asyncio.IncompleteReadError, ConnectionError):
            return


Script = Callable[[Wire], Awaitable[None]]


@asynccontextmanager
async def peer(
    *scripts: Script, split: int = 0, connect_timeout_s: float = 5.0
) -> AsyncIterator[GrpcChannel]:
    """A channel to a server that plays one script a connection; all must end well.

    Args:
        scripts: In the order of the connections.
        split: As of :class:`Wire`.
        connect_timeout_s: As of the channel.
    """
    left = list(scripts)
    faults: list[BaseException] = []
    done: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.append(end)
        try:
            async with asyncio.timeout(BOUND_S):
                await left.pop(0)(Wire(reader, writer, split))
        except BaseException as fault:  # noqa: BLE001 - told to the test
            faults.append(fault)
        finally:
            writer.close()
            end.set_result(None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        channel = GrpcChannel(f"grpc://127.0.0.1:{port}", connect_timeout_s=connect_timeout_s)
        try:
            yield channel
        finally:
            assert channel.n_streams == 0
            await channel.aclose()
            if done:
                await asyncio.wait(done)
    assert not faults, faults
    assert not left


async def tokens_of(channel: GrpcChannel, request: pb.GenerateRequest | None = None) -> list[int]:
    """The tokens of one call."""
    call = channel.generate(())
    got: list[int] = []
    try:
        await call.connect(5.0)
        await call.send(request or pb.GenerateRequest(request_id="r"))
        while messages := await call.read():
            got += [token for said in messages for token in said.chunk.token_ids]
    finally:
        call.cancel()
    return got


async def until(done: Callable[[], bool]) -> None:
    """Waits for something that another party notices."""
    async with asyncio.timeout(2 * BOUND_S):
        while not done():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def is_cancelled(step: Awaitable[object]) -> bool:
    """Whether a step of a call ends as ended by this side."""
    try:
        await step
    except CallCancelled:
        return True
    return False
