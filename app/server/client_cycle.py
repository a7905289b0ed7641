"""One request and its answer on a client's connection: uvicorn's cycle in fewer steps.

uvicorn (0.54) judges each header by two searches of its own and goes through all of its cases for
each piece of body. Here a name is judged once in the life of the process and all values at once,
and an answer may be written without a coroutine: at once, or piece by piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

_BODILESS = (204, 304)
_MAX_JOINED_BYTES = 64 * 1024
_TEXT_BYTES = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))
"""What a line of a head may hold beside its end (RFC 9110 section 5.5)."""
_MAX_NAMES = 1024
_lower_names: dict[bytes, bytes] = {}
"""Names that were found sound, in lower case: all that this gateway and its layers ever send."""


class News:
    """Tells a request that something of it came, or that it is over: an event with one reader.

    ``asyncio.Event`` makes a queue for its readers each time, and is awaited even where everything
    is here already.

    Attributes:
        is_here: Something came that was not read.
    """

    __slots__ = ("_waiter", "is_here")

    def __init__(self) -> None:
        self.is_here = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Something came."""
        self.is_here = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Waits for it."""
        while not self.is_here:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None


class ClientCycle(RequestResponseCycle):
    """Takes a body and sends an answer; everything else is uvicorn's."""

    message_event: News  # type: ignore[assignment]

    async def receive(self) -> Any:
        """Returns what came of the body, or that the client is gone; waits for either."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        news = self.message_event
        if not (self.disconnected or self.response_complete):
            if self.flow.read_paused:
                self.flow.resume_reading()
            if not news.is_here:
                await news.wait()
            news.is_here = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = bytes(self.body)
        self.body = bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Takes a message of the application, and waits while the client reads too slowly.

        Raises:
            RuntimeError: The message is out of turn, or would break the answer's framing.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.chunked_encoding and not self.response_complete:
            self._write_chunk(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            self.transport.write(self._head(message["status"], message.get("headers", ())))
        else:
            # Bodies of a known length, and messages out of turn.
            await super().send(message)

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, is_whole: bool
    ) -> bool:
        """Writes the head of an answer and its first piece, or all of it, in one go.

        Args:
            status: Of an answer that may have a body.
            headers: Without those of the framing.
            body: Not empty, unless it is whole.
            is_whole: Nothing follows; else :meth:`send` and :meth:`push` go on.

        Returns:
            False: nothing was written; :meth:`send` is the way, which waits.

        Raises:
            RuntimeError: A header would break the answer's framing.
        """
        if self.response_started or self.disconnected or self.flow.write_paused:
            return False
        if is_whole:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
            head = self._head(status, headers)
        else:
            head = self._head(status, headers)
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if len(body) <= _MAX_JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        if is_whole:
            self._complete()
        return True

    def push(self, body: bytes) -> bool:
        """Writes a piece of a streamed answer at once, if the client takes it.

        With no bytes it only tells whether he would.

        Returns:
            False: nothing was written; :meth:`send` is the way, which waits.
        """
        if (
            not self.chunked_encoding
            or self.flow.write_paused
            or self.response_complete
            or self.disconnected
        ):
            return False
        if body:
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def _write_chunk(self, body: bytes, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif more_body:
            # A chunk of no bytes would be the last one.
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
        elif body:
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            self.transport.write(b"0\r\n\r\n")
        if not more_body:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head(self, status: int, given: Any) -> bytes:
        """Begins the answer: returns its head, and knows from now on how its body is framed."""
        self.response_started = True
        self.waiting_for_100_continue = False
        headers = [*self.default_headers, *given]
        has_connection_close = False
        for given_name, value in headers:
            name = _lower_names.get(given_name) or _judged(given_name)
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection":
                tokens = [token.lower().strip() for token in value.split(b",")]
                if b"close" in tokens:
                    self.keep_alive = False
                    has_connection_close = True
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        # All values at once: nothing is left of sound ones but the ends of their lines.
        if lines.translate(None, _TEXT_BYTES) != b"\r\n" * len(headers):
            raise RuntimeError("Invalid HTTP header value.")
        head = STATUS_LINE[status] + lines
        if not self.keep_alive and not has_connection_close:
            head += b"connection: close\r\n"
        if (
            self.chunked_encoding is None
            and self.scope["method"] != "HEAD"
            and status not in _BODILESS
        ):
            self.chunked_encoding = True
            head += b"transfer-encoding: chunked\r\n"
        return head + b"\r\n"


def _judged(name: bytes) -> bytes:
    """Returns a name in lower case, and remembers that it is sound."""
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    if len(_lower_names) < _MAX_NAMES:
        _lower_names[name] = lower
    return lower
