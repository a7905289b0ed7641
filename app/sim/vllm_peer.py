"""How simulated vLLM workers reach each other: one JSON line asks, one JSON line answers.

It stands for NIXL's side channel and the RDMA reads, and for Mooncake's; a ``GET`` on the same
port is answered as Mooncake's bootstrap server answers ``/query``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

from app.sim.wire import reset

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class PeerLost(ConnectionError):
    """The other worker went away before it answered."""


class PeerListener:
    """The port of one worker.

    Args:
        answer: Answers an order.
        query: Answers ``GET /query``.
    """

    def __init__(self, answer: Answer, query: Callable[[], dict[str, Any]]) -> None:
        self.port = 0
        self._answer = answer
        self._query = query
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen; ``port`` 0 takes a free one.

        Raises:
            OSError: The port is taken.
        """
        self._server = await asyncio.start_server(self._serve, host, port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Drop the listener and every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            # asyncio's own type says less than what a TCP stream has.
            reset(cast("asyncio.Transport", writer.transport))

    @property
    def n_open(self) -> int:
        """Connections that are open."""
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, ValueError):
                line = await reader.readline()
                if line.startswith(b"GET "):
                    writer.write(self._http(line))
                elif line:
                    await self._answer_line(line, reader, writer)
                await writer.drain()
        finally:
            await close(writer)
            self._writers.discard(writer)

    async def _answer_line(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # The asker waits for one line: when it leaves before, nobody needs the answer.
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(self._write_answer(line, writer))
            with contextlib.suppress(OSError):
                await reader.read(1)
            answering.cancel()

    async def _write_answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        answer = await self._answer(json.loads(line))
        writer.write(json.dumps(answer).encode() + b"\n")

    def _http(self, line: bytes) -> bytes:
        is_known = line.split(b" ")[1] == b"/query"
        status = b"200 OK" if is_known else b"404 Not Found"
        body = json.dumps(self._query()).encode() if is_known else b"{}"
        return (
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, len(body), body)
        )


async def ask_peer(host: str, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """Give an order to another worker.

    Raises:
        OSError: Nobody listens there.
        PeerLost: It went away before it answered.
    """
    raw = await _exchange(host, port, json.dumps(order).encode() + b"\n", is_line=True)
    answer: dict[str, Any] = json.loads(raw)
    return answer


async def query_bootstrap(host: str, port: int) -> dict[str, Any]:
    """Ask Mooncake's bootstrap server who is behind it. Raises as ``ask_peer`` does."""
    raw = await _exchange(host, port, b"GET /query HTTP/1.1\r\nhost: sim\r\n\r\n", is_line=False)
    head, _, body = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise PeerLost("no bootstrap server answered")
    answer: dict[str, Any] = json.loads(body)
    return answer


async def _exchange(host: str, port: int, data: bytes, *, is_line: bool) -> bytes:
    reader, writer = await asyncio.open_connection(host.strip("[]"), port)
    try:
        writer.write(data)
        raw = await (reader.readline() if is_line else reader.read())
    except OSError as error:
        raise PeerLost(str(error)) from error
    finally:
        await close(writer)
    if not raw:
        raise PeerLost("the connection ended without an answer")
    return raw


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
