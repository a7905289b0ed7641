"""One request and its answer on a client's connection: uvicorn's cycle in fewer steps.

uvicorn (0.54) judges each header by two searches of its own and goes through all of its cases for
each piece of body. Here all names are judged at once, and all values, and events of a stream that
is under way may be written without a coroutine.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

_BODILESS = (204, 304)


class ClientCycle(RequestResponseCycle):
    """Sends answers; everything else is uvicorn's."""

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
            self._write_head(message["status"], message.get("headers", ()))
        else:
            # Bodies of a known length, and messages out of turn.
            await super().send(message)

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
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _write_head(self, status: int, given: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        headers = [*self.default_headers, *given]
        # What may not stand in a name or a value is one character, so all are judged at once.
        if HEADER_RE.search(b"".join([name for name, _ in headers])):
            raise RuntimeError("Invalid HTTP header name.")
        if HEADER_VALUE_RE.search(b"".join([value for _, value in headers])):
            raise RuntimeError("Invalid HTTP header value.")
        has_connection_close = False
        for given_name, value in headers:
            name = given_name.lower()
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
        head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])
        if not self.keep_alive and not has_connection_close:
            head += b"connection: close\r\n"
        if (
            self.chunked_encoding is None
            and self.scope["method"] != "HEAD"
            and status not in _BODILESS
        ):
            self.chunked_encoding = True
            head += b"transfer-encoding: chunked\r\n"
        self.transport.write(head + b"\r\n")
