"""How a client's connection ends: after an answer, by a refusal, lingering, or cut off."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from abc import abstractmethod
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.leaving import Client
from app.api.problem import render
from app.errors import ClientGone, GatewayError, InvalidRequest
from app.server.client_limits import MAX_LINGER_BYTES, Alarm, ClientLimits
from app.server.head_joining import HeadJoiningTransport

_SILENT = logging.getLogger("uvicorn.cut")
_SILENT.disabled = True
_LINGER_NOT = struct.pack("ii", 1, 0)


class ClientConnection(HttpToolsProtocol):
    """One connection of a client, and its ends.

    Attributes:
        limits: How long its client may take; another class has others.
    """

    limits = ClientLimits()
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire: asyncio.Transport
        self._now_s = self.loop.time
        self._alarm = Alarm(self.loop, self._on_alarm)
        self._client = Client()
        self._why_gone = ClientGone()
        # The request that is being served or was last; `cycle` is the one that was last read.
        self._running: Any = None
        self._is_lost = False
        self._is_lingering = False
        self._n_lingering_bytes = 0
        # When the last answer ended; before the first one, when the connection was made.
        self._free_s = self._now_s()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts a connection."""
        self._wire = transport
        super().connection_made(HeadJoiningTransport(transport, self.loop, self._close))

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a connection and tells the request that runs; uvicorn tells the latest read."""
        self._is_lost = True
        # The request knows its client: a circle.
        self._client.writer = None
        self.pipeline.clear()
        super().connection_lost(exc)
        self._alarm.cancel()
        self._leave()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP."""
        self._refuse(InvalidRequest(msg, code="invalid_http"), lingers=True)

    @abstractmethod
    def _on_alarm(self) -> None:
        """The client may have taken too long."""

    @property
    def _has_ended(self) -> bool:
        return self._is_lingering or self._wire.is_closing()

    @property
    def _is_busy(self) -> bool:
        running = self._running
        return running is not None and not (running.response_complete or running.disconnected)

    # What the server calls when it stops.

    def close_after_answer(self) -> None:
        """Says ``connection: close`` with the answer under way, if its head is still to come."""
        if self._is_busy:
            self._running.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection, after the answer under way if there is one."""
        if self._is_busy:
            self._running.keep_alive = False
        else:
            self._close_wire()

    def end(self, error: GatewayError) -> None:
        """Ends the request under way with an error, as well as its client can be told."""
        if self._client.is_watched:
            self._client.stop(error)
        elif self._is_busy:
            self._refuse(error, lingers=False)
        else:
            self._close_wire()

    def cut(self) -> None:
        """Drops the connection; what its request says of that is no news."""
        if self._running is not None:
            self._running.logger = _SILENT
        connection = self._wire.get_extra_info("socket")
        if connection is not None and not self._is_lost and self._wire.get_write_buffer_size():
            # Reset, or the system would go on offering megabytes to a client that takes none.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._wire.abort()

    def _refuse(self, error: GatewayError, *, lingers: bool) -> None:
        """Answers in the place of the application, and ends the connection."""
        extra = [*self.server_state.default_headers, (b"connection", b"close")]
        if self._is_busy:
            running = self._running
            if running.response_started or running is not self.cycle:
                # Another answer is due first, and nothing can be said beside it.
                self.cut()
                return
            state = running.scope["state"]
            if "notes" in state:
                state["notes"].status = error.status
                state["notes"].fail(error)
            if "request_id" in state:
                extra.append((b"x-request-id", state["request_id"].encode("ascii")))
            running.logger = _SILENT
        status, headers, body = render(error, extra)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._wire.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        if lingers:
            self._linger()
        else:
            self._close_wire()
        self._leave()

    def _leave(self) -> None:
        """Tells the request that runs that its client is gone."""
        running = self._running
        if running is not None:
            running.disconnected = running.disconnected or not running.response_complete
            running.message_event.set()
        self._client.stop(self._why_gone)

    def _close(self) -> None:
        """The application has answered, and uvicorn ends the connection."""
        if self._has_ended:
            return
        if self.cycle is not None and self.cycle.more_body:
            self._linger()
        else:
            self._close_wire()

    def _close_wire(self) -> None:
        """Closes, once the client has taken what waits for it."""
        self._wire.close()
        if self._wire.get_write_buffer_size():
            self._alarm.by(self._now_s())

    def _linger(self) -> None:
        """Ends our side, and goes on reading for a while.

        Closed with bytes unread, the connection would be reset, and the client might never see
        the answer.
        """
        self._is_lingering = True
        self._free_s = self._now_s()
        self.flow.resume_reading()
        if self._wire.can_write_eof():
            self._wire.write_eof()
        self._alarm.by(self._free_s + self.limits.linger_s)

    def _throw_away(self, data: bytes) -> None:
        """Takes bytes of a body that was refused."""
        self._n_lingering_bytes += len(data)
        if self._n_lingering_bytes > MAX_LINGER_BYTES:
            self._close_wire()
