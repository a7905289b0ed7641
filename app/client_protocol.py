"""What plain uvicorn leaves to be desired on a client's connection.

Bounded heads, clients that leave behind a pipelined request, bodies behind an offer to upgrade,
and joined writes. All of it is lacking under plain ``uvicorn app.main:app`` (uvicorn 0.54).
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.leaving import Client
from app.head_joining import HeadJoiningTransport

MAX_HEAD_BYTES = 64 * 1024
"""Longest head, longest trailers, and longest run of bytes that bring no body."""
MAX_PIPELINED = 16
"""Requests of one connection that may wait for the one before."""
_FRAMING = (b"content-length", b"transfer-encoding")


class ClientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, hardened.

    Every request finds its client's :class:`~app.api.leaving.Client` in its state.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client = Client()
        self._running: Any = None
        self._is_replaying = False
        self._n_idle_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts a connection."""
        super().connection_made(HeadJoiningTransport(transport, self.loop))

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a connection and tells the request that runs; uvicorn tells the latest read."""
        running = self._running
        if running is not None:
            running.disconnected = running.disconnected or not running.response_complete
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._client.leave()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the client."""
        self._unset_keepalive_if_required()
        self._n_idle_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self.transport.is_closing():
            return
        if self._n_idle_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The request's head is too long.")
        elif self.pipeline:
            self._read_on()

    def _read_on(self) -> None:
        """Reads behind a waiting request, within bounds, or nobody would see the client leave."""
        if len(self.pipeline) > MAX_PIPELINED or len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.transport.abort()
        else:
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> None:
        """Parses; an offer to upgrade (``curl --http2``) is not taken and must cost no body.

        The parser stops behind the head of such a request, so another one goes on with the rest,
        told no more than how the body is framed.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            framing = [header for header in self.scope["headers"] if header[0] in _FRAMING]
            if not self.parser.should_keep_alive():
                framing.append((b"connection", b"close"))
            head = b"".join(b"%b: %b\r\n" % header for header in framing)
            self.parser = httptools.HttpRequestParser(self)
            self._is_replaying = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % head)
            self._feed(data[upgrade.args[0] :])

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """Starts a request."""
        if not self._is_replaying:
            super().on_message_begin()
            self.scope["state"]["client"] = self._client

    def on_headers_complete(self) -> None:
        """Starts to serve."""
        if self._is_replaying:
            self._is_replaying = False
            return
        self._n_idle_bytes = 0
        super().on_headers_complete()
        # Trailers, and the head of a replay, go nowhere: the request has its own list.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Takes a piece of body."""
        self._n_idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here, unless the parser only stopped at an offer to upgrade."""
        if not self.parser.should_upgrade():
            self._n_idle_bytes = 0
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
