"""A TCP relay in front of a worker that can hold back what the gateway sends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HANDOFF = b"do_remote_prefill"
"""In the bytes of every decode leg that is to load a KV cache."""
_PIECE_BYTES = 65536


class Gate:
    """Forwards both directions; towards the worker only while it is open.

    Attributes:
        has_handoff: A decode leg with a handoff has come to the gate since :meth:`watch`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._worker = (host, port)
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.has_handoff = asyncio.Event()

    def hold(self) -> None:
        """Keeps what comes from now on."""
        self._open.clear()

    def open(self) -> None:
        """Lets it pass, in its order."""
        self._open.set()

    def watch(self) -> None:
        """Waits for the next handoff."""
        self.has_handoff.clear()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serves; yields ``host:port``."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            try:
                yield f"{host}:{port}"
            finally:
                self.open()
                for writer in tuple(self._writers):
                    writer.close()
                while self._writers:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, onward = await asyncio.open_connection(*self._worker)
        writers = {writer, onward}
        self._writers |= writers
        kept: asyncio.Queue[bytes] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(reader, kept))
                group.create_task(self._let_through(kept, onward))
                group.create_task(_pump(back, writer))
        finally:
            self._writers -= writers

    async def _keep(self, source: asyncio.StreamReader, kept: asyncio.Queue[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE_BYTES):
                if HANDOFF in data:
                    self.has_handoff.set()
                kept.put_nowait(data)
        kept.put_nowait(b"")

    async def _let_through(self, kept: asyncio.Queue[bytes], target: asyncio.StreamWriter) -> None:
        # A side that is gone is no fault: the other one is told by closing.
        with contextlib.suppress(OSError):
            while data := await kept.get():
                await self._open.wait()
                target.write(data)
                await target.drain()
        target.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_PIECE_BYTES):
            target.write(data)
            await target.drain()
    target.close()
