"""A scripted worker, a fake transport, and both event loops for the HTTP/1.1 client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from app.upstream.http1 import Exchange, Http1Pool
from app.upstream.http1_connection import Http1Connection
from app.upstream.vllm_channel import GrpcClient
from app.upstream.vllm_worker import VllmWorker

Script = Callable[["Call"], Awaitable[None]]


@pytest.hookimpl(tryfirst=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs the client's tests under asyncio and uvloop, every other one under asyncio."""
    if item.path.name.startswith(("test_http1_", "test_vllm_", "test_h2_", "test_grpc_")):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


class Call:
    """One request as the scripted worker sees it, and the way to answer."""

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.head = head
        self.reader = reader
        self.writer = writer

    async def body(self) -> bytes:
        """The request body by its content-length."""
        for line in self.head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                return await self.reader.readexactly(int(line.split(b":")[1]))
        return b""

    async def write(self, data: bytes) -> None:
        """Bytes to the client, as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """An orderly end."""
        self.writer.close()

    def reset(self) -> None:
        """Cuts the connection."""
        self.writer.transport.abort()

    async def until_gone(self) -> None:
        """Waits until the client has closed its side."""
        await self.reader.read()


class ScriptedWorker:
    """Runs the script for every request head that arrives.

    Attributes:
        n_accepted: Connections that were accepted.
        calls: Every request, in order.
        quiet: Set while no connection is open.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.n_accepted = 0
        self.n_connected = 0
        self.calls: list[Call] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.scheme = "http"
        self.quiet = asyncio.Event()
        self.quiet.set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.n_accepted += 1
        self.n_connected += 1
        self.quiet.clear()
        self.writers.append(writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                call = Call(head, reader, writer)
                self.calls.append(call)
                await self.script(call)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.n_connected -= 1
            if not self.n_connected:
                self.quiet.set()
            writer.close()


@asynccontextmanager
async def scripted_worker(
    script: Script, *, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedWorker]:
    """A listening worker; its connections are cut at the end."""
    worker = ScriptedWorker(script)
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0, ssl=ssl_context)
    worker.port = server.sockets[0].getsockname()[1]
    worker.scheme = "https" if ssl_context else "http"
    try:
        yield worker
    finally:
        server.close()
        for writer in worker.writers:
            writer.transport.abort()
        async with asyncio.timeout(2):
            await worker.quiet.wait()
        await server.wait_closed()


@asynccontextmanager
async def _pool_for(worker: ScriptedWorker, **options: Any) -> AsyncIterator[Http1Pool]:
    pool = Http1Pool(worker.url, **options)
    try:
        yield pool
    finally:
        await asyncio.wait_for(pool.aclose(), 5)
        assert pool.n_open == 0


@pytest.fixture
def serve() -> Any:
    """Makes a listening worker that runs a script for every request."""
    return scripted_worker


@pytest.fixture
def pool_for() -> Any:
    """Makes a pool to such a worker, checked in the end to leave nothing open."""
    return _pool_for


@pytest.fixture
def answer() -> Any:
    """``answer(b"...")``: a script that reads the request and writes these bytes."""

    def scripted(*parts: bytes, pause_s: float = 0.0) -> Script:
        async def script(call: Call) -> None:
            await call.body()
            for part in parts:
                await call.write(part)
                await asyncio.sleep(pause_s)

        return script

    return scripted


class FakeTransport(asyncio.Transport):
    """Remembers what it was told; closing is seen at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False
        self.reads = True
        self.n_unwritten_bytes = 0

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_write_buffer_size(self) -> int:
        return self.n_unwritten_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Clock:
    """Time turned by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A pool with one connection on a fake transport, lying idle."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pool = Http1Pool("http://w", now_s=self.clock)
        self.transport = FakeTransport()
        self.connection = self.pool.new_connection()
        self.connection.connection_made(self.transport)
        self.pool.give_back(self._used(self.connection))

    def _used(self, connection: Http1Connection) -> Http1Connection:
        connection.start(b"", b"", is_bodiless=False)
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.transport.written.clear()
        return connection

    def exchange(self, body: bytes = b"", silence_timeout_s: float = 10.0) -> Exchange:
        return self.pool.exchange(b"POST", b"/", [], body, silence_timeout_s=silence_timeout_s)

    async def begun(self, data: bytes, **options: Any) -> Exchange:
        """An exchange whose head has been read; ``data`` is what came so far."""
        exchange = self.exchange(**options)
        asyncio.get_running_loop().call_soon(self.connection.data_received, data)
        await exchange.head()
        return exchange


@pytest.fixture
async def bench() -> Bench:
    """A pooled connection without a socket."""
    return Bench()


@pytest.fixture(params=["own", "grpcio"])
def grpc_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GrpcClient:
    """Runs a test with each gRPC client, which every vLLM worker is then asked by."""
    defaults = VllmWorker.__init__.__kwdefaults__
    assert defaults is not None
    assert defaults["client"] == "own"
    monkeypatch.setitem(defaults, "client", request.param)
    client: GrpcClient = request.param
    return client
