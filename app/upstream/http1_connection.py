"""One HTTP/1.1 connection to a worker: a transport under a response reader."""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import cast

from app.upstream.failures import UpstreamError
from app.upstream.http1_response import ResponseReader

MAX_BUFFERED_BYTES = 256 * 1024
"""Body bytes held for a slow reader before the socket is left unread."""

_JOINED_WRITE_BYTES = 64 * 1024
_READABLE_OR_EOF = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class Http1Connection(ResponseReader, asyncio.Protocol):
    """A connection that is idle, or is receiving the response to one request.

    Args:
        loop: The running loop.
        max_head_bytes: As of :class:`ResponseReader`.
        on_made: Called when the connection is open.
        on_lost: Called once when it is gone.

    Attributes:
        transport: None before the connection is made.
        is_idle: No response is awaited.
        is_paused: The socket is left unread until chunks are taken.
        was_heard: Bytes arrived since someone last set this to false.
        sink: Offered the body bytes that arrive while somebody waits for them; what it takes wakes
            nobody. It must not raise.
        on_news: Called, in place of a reader that waits, whenever something came or went wrong.
            It must not raise.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        max_head_bytes: int,
        on_made: Callable[[Http1Connection], None],
        on_lost: Callable[[Http1Connection], None],
    ) -> None:
        super().__init__(max_head_bytes)
        self._loop = loop
        self._on_made = on_made
        self._on_lost = on_lost
        self._poll: select.poll | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_aborted = False
        self.transport: asyncio.Transport | None = None
        self.is_idle = True
        self.is_paused = False
        self.was_heard = False
        self.sink: Callable[[bytes], bool] | None = None
        self.on_news: Callable[[], None] | None = None

    # What the pool and the exchange call.

    def is_usable(self) -> bool:
        """Whether a request may be written: open, not at EOF, no unread bytes.

        The kernel is asked, since the loop may not have come round to an EOF yet.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        return self._poll is None or not self._poll.poll(0)

    def is_closing(self) -> bool:
        """Whether the loop has seen the end of the connection; asks nobody."""
        return self.transport is None or self.transport.is_closing()

    def start(self, head: bytes, body: bytes, *, is_bodiless: bool) -> None:
        """Writes a request and awaits its response.

        Args:
            head: The encoded request head.
            body: The request body, handed to the transport at once.
            is_bodiless: The request is HEAD.
        """
        transport = self.transport
        if transport is None:
            raise RuntimeError("A request needs a connection that was made.")
        self.expect(is_bodiless=is_bodiless)
        self.is_idle = False
        self.was_heard = True
        if len(body) <= _JOINED_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def wait(self) -> asyncio.Future[None]:
        """A future that ends at the next event; one reader at most."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def take(self) -> bytes:
        """Hands over the buffered body bytes, joined, and reads on if reading was paused."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.n_buffered_bytes = 0
        if self.is_paused:
            self.is_paused = False
            self.was_heard = True
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()
        return data

    def release(self) -> bool:
        """Makes the connection idle after a complete response.

        Returns:
            False when it must not be used again; it is then aborted.
        """
        transport = self.transport
        if (
            not self.is_done
            or not self.is_reusable
            or transport is None
            or transport.is_closing()
            # An answer that came before the whole request was written.
            or transport.get_write_buffer_size()
        ):
            self.abort()
            return False
        if self.chunks:
            self.take()
        self.is_idle = True
        return True

    def abort(self) -> None:
        """Closes at once; nothing that is still to be written is written."""
        self._is_aborted = True
        if self.transport is not None:
            self.transport.abort()

    def break_off(self, failure: UpstreamError) -> None:
        """Ends the response with a failure, which the reader meets after the bytes it has."""
        if self.failure is None and not self.is_done:
            self.failure = failure
        self.abort()
        self._wake()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport and prepares the check made before each use."""
        self.transport = cast("asyncio.Transport", transport)
        self._on_made(self)
        if self._is_aborted:
            # Given up while it was being made.
            self.transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), _READABLE_OR_EOF)

    def data_received(self, data: bytes) -> None:
        """Feeds the reader and wakes whoever waits; never raises."""
        if self.is_idle or self.is_done:
            # Nobody asked for these bytes: the next response would not be ours.
            self.is_reusable = False
            self.abort()
            return
        self.was_heard = True
        self.feed(data)
        if self.failure is not None:
            self.abort()
        elif self.sink is not None and self._is_taken(self.sink):
            return
        elif self.n_buffered_bytes > MAX_BUFFERED_BYTES and not self.is_done:
            self._pause()
        self._wake()

    def eof_received(self) -> None:
        """Ends the response; the transport then closes itself."""
        self._end("closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the response if that is still to come, and leaves the pool."""
        # The descriptor's number may belong to another connection from now on.
        self._poll = None
        if exc is not None:
            # A reset may have swallowed bytes: it never completes a body.
            self._ends_with_eof = False
        if isinstance(exc, ssl.SSLError):
            # Such as a worker that wants a client certificate: it says so after the handshake.
            self._end(f"ended the connection by TLS ({exc.reason or exc})")
        else:
            self._end("closed the connection" if exc is None else "reset the connection")
        self._on_lost(self)

    # Inner steps.

    def _end(self, what: str) -> None:
        if not self.is_idle:
            self.end(what)
            self._wake()

    def _is_taken(self, sink: Callable[[bytes], bool]) -> bool:
        if self.is_done:
            return False
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        # No bytes: only a part of the framing came.
        if data and not sink(data):
            return False
        chunks.clear()
        self.n_buffered_bytes = 0
        return True

    def _wake(self) -> None:
        # What comes before the reader has run must not overtake what is here.
        self.sink = None
        if self.on_news is not None:
            self.on_news()
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _pause(self) -> None:
        transport = self.transport
        if not self.is_paused and transport is not None and not transport.is_closing():
            self.is_paused = True
            transport.pause_reading()
