"""A client that writes its bytes itself, for what no HTTP library would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.flow.fleet import BOUND_S, Fleet


def post_of(path: str, body: Mapping[str, Any], *headers: str) -> bytes:
    """The bytes of a POST."""
    data = json.dumps(body).encode()
    return head_of("POST", path, *headers, f"content-length: {len(data)}") + data


def head_of(method: str, path: str, *headers: str) -> bytes:
    """The bytes of a head."""
    lines = [f"{method} {path} HTTP/1.1", "host: gateway", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


class RawClient:
    """One connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Sends bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def until(self, border: bytes) -> bytes:
        """Reads up to a border."""
        async with asyncio.timeout(BOUND_S):
            return await self._reader.readuntil(border)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Reads one answer with a ``content-length``: status, head, body."""
        head = await self.until(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        async with asyncio.timeout(BOUND_S):
            return int(head.split()[1]), head, await self._reader.readexactly(int(length))

    async def read(self, n_bytes: int) -> bytes:
        """Reads at most so many bytes; nothing at the end of the connection."""
        async with asyncio.timeout(BOUND_S):
            return await self._reader.read(n_bytes)

    async def rest(self) -> bytes:
        """Reads until the gateway ends the connection."""
        async with asyncio.timeout(BOUND_S):
            return await self._reader.read()

    def leave(self) -> None:
        """Drops the connection."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Ends the connection in good order."""
        self._writer.close()


@asynccontextmanager
async def connected(fleet: Fleet) -> AsyncIterator[RawClient]:
    """A connection to a gateway."""
    url = fleet.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
