"""TLS in front of a simulated worker: a relay of bytes in a thread and loop of its own.

So the session tickets of TLS come when they like, as from another process, and the relay's tasks
are none of the gateway's.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class TlsFront:
    """What a gateway sees of a worker behind TLS; everything else is the worker's own.

    Attributes:
        url: Its base URL.
        n_handshakes: Connections on which TLS came about.
    """

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.url = ""
        self.n_handshakes = 0
        self._relays: set[asyncio.Task[Any]] = set()
        self._is_up = threading.Event()
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.n_handshakes += 1
        own = asyncio.current_task()
        assert own is not None
        self._relays.add(own)
        try:
            inner_reader, inner = await asyncio.open_connection("127.0.0.1", self.worker.port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(reader, inner))
                    both.create_task(_copy(inner_reader, writer))
            finally:
                inner.transport.abort()
        except* (OSError, _Over):
            # Either side has ended: so does the other.
            pass
        finally:
            self._relays.discard(own)
            writer.transport.abort()

    async def run(self, context: ssl.SSLContext) -> None:
        """Listens until :meth:`end`; in a loop of its own."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._is_up.set()
        await self._ended.wait()
        server.close()
        self._cut()
        if self._relays:
            await asyncio.wait(self._relays, timeout=2)

    def wait_until_up(self) -> None:
        """Blocks until it listens."""
        assert self._is_up.wait(5)

    def cut(self) -> None:
        """Ends every connection."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._cut)

    def end(self) -> None:
        """Ends :meth:`run`."""
        assert self._loop is not None
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)

    def _cut(self) -> None:
        for relay in self._relays:
            relay.cancel()


class _Over(Exception):
    """One direction has ended."""


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise _Over


@asynccontextmanager
async def tls_front(
    worker: Any, certificate: tuple[str, str], client_ca: str | None = None
) -> AsyncIterator[TlsFront]:
    """Puts TLS in front of a started worker.

    Args:
        worker: The worker.
        certificate: Its certificate and key.
        client_ca: It wants to see a certificate of this authority.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    front = TlsFront(worker)
    thread = threading.Thread(target=lambda: asyncio.run(front.run(context)))
    thread.start()
    await asyncio.to_thread(front.wait_until_up)
    try:
        yield front
    finally:
        front.end()
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
