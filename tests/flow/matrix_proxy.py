"""A TCP proxy that can forget its connections, as a peer without power or a NAT table does."""

from __future__ import annotations

import asyncio
from typing import Any, Self, cast
from urllib.parse import urlsplit


class ForgetfulProxy:
    """Stands before a worker and looks like it: all but ``url`` is the worker's own.

    Args:
        worker: A started worker.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._port = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    @property
    def url(self) -> str:
        """Where the gateway finds the worker."""
        return f"{urlsplit(self._worker.url).scheme}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._front, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for end in tuple(self._ends):
            end.abort()

    def forget(self) -> None:
        """From now on the open connections say nothing more, not even that they are gone.

        What comes on them is swallowed, a FIN too. New connections are passed on as before.
        """
        for end in self._ends:
            end.is_forgotten = True

    def _front(self) -> _End:
        return _Front(self._ends, self._worker.port)


class _End(asyncio.Protocol):
    """One connection; what it hears goes to its twin."""

    def __init__(self, ends: set[_End], twin: _End | None = None) -> None:
        self.is_forgotten = False
        self.twin = twin
        self._ends = ends
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        if not self.is_forgotten and self.twin is not None:
            self.twin.write(data)

    def eof_received(self) -> bool:
        """The other side closed; a forgotten connection is kept all the same."""
        return self.is_forgotten

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.discard(self)
        if not self.is_forgotten and self.twin is not None:
            self.twin.close()

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Front(_End):
    """The gateway's connection, which opens the worker's."""

    def __init__(self, ends: set[_End], port: int) -> None:
        super().__init__(ends)
        self._port = port
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._transport.pause_reading()
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(self._open(loop))

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        back = _End(self._ends, twin=self)
        try:
            await loop.create_connection(lambda: back, "127.0.0.1", self._port)
        except OSError:
            self.abort()
            return
        self.twin = back
        assert self._transport is not None
        if self._transport.is_closing():
            back.abort()
        else:
            self._transport.resume_reading()
