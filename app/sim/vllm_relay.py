"""The worker's port, with a gRPC server behind it.

grpcio's server cannot drop its connections like a killed process, so it listens on a port of its
own and this passes the bytes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from app.sim.vllm_peer import close
from app.sim.wire import reset

_PIECE_BYTES = 256 * 1024


class Relay:
    """Passes bytes between its port and another one on loopback."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.StreamWriter | None] = {}
        """Each connection with the one behind it, once that is there."""
        self._target_port = 0

    async def start(self, host: str, port: int, target_port: int) -> int:
        """Listen; ``port`` 0 takes a free one.

        Returns:
            The port.

        Raises:
            OSError: The port is taken.
        """
        self._target_port = target_port
        self._server = await asyncio.start_server(self._serve, host, port, backlog=1024)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def refuse_connections(self) -> None:
        """Close the listening socket; open connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Reset every open connection; new ones are taken."""
        for front, back in tuple(self._open.items()):
            reset(cast("asyncio.Transport", front.transport))
            if back is not None:
                back.transport.abort()

    def kill(self) -> None:
        """No listener, and a reset on every connection, at once."""
        self.refuse_connections()
        self.cut()

    @property
    def n_open(self) -> int:
        """Connections that are open."""
        return len(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        try:
            with contextlib.suppress(OSError):
                await self._join(reader, writer)
        finally:
            await close(writer)
            del self._open[writer]

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._open[writer] = back
        try:
            if writer.transport.is_closing():
                # It was cut in the meantime.
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(back_reader, writer))
        finally:
            await close(back)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
