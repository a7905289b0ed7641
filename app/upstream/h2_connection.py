"""One HTTP/2 connection of a client, for gRPC calls (RFC 9113; gRPC's PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from app.upstream import grpc_ending
from app.upstream.failures import (
    BrokenResponse,
    CallCancelled,
    ConnectFailed,
)
from app.upstream.h2_answers import WINDOW_BYTES, H2Answers
from app.upstream.h2_frames import (
    ACK,
    DEFAULT_WINDOW_BYTES,
    PREFACE,
    Code,
    H2Fault,
    Kind,
    Setting,
    frame,
    goaway,
    settings,
    settings_of,
    uint,
    window_update,
)
from app.upstream.h2_keepalive import Keepalive

_GREETING = (
    PREFACE
    + settings({Setting.HEADER_TABLE_SIZE: 0, Setting.ENABLE_PUSH: 0})
    + window_update(0, WINDOW_BYTES - DEFAULT_WINDOW_BYTES)
)
_LINGER_S = 1.0
_EOF = getattr(select, "POLLRDHUP", 0)
_TOO_MANY_PINGS = b"too_many_pings"
_PING_BODY = b"tandem\x00\x00"


class H2Connection(H2Answers):
    """Carries many calls at once; made and used in one event loop.

    Args:
        where: Host and port, for errors.
        ping_every_s: As of :class:`Keepalive`.
        ping_timeout_s: The same.
        on_change: Called when it takes no more calls (also if calls go on), and when it is gone.

    Attributes:
        ready: Done when the peer's SETTINGS came, from when on calls may be sent.
        gone: Done when the connection is lost.
        is_usable: It takes calls.
        has_had_pings: The peer ended it because it was pinged too often.
    """

    def __init__(
        self,
        where: str,
        ping_every_s: float,
        ping_timeout_s: float,
        on_change: Callable[[H2Connection], None],
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._where = where
        self._on_change = on_change
        self._reason = ""
        self._poll: select.poll | None = None
        self._keepalive = Keepalive(ping_every_s, ping_timeout_s, self._ping, self._give_up)
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.is_usable = True
        self.has_had_pings = False

    # ---- who calls

    def look(self) -> None:
        """Asks the kernel for an end of the connection that the loop has not come to yet."""
        if self._poll is not None and self.is_usable and self._poll.poll(0):
            self.retire()

    def retire(self) -> None:
        """No new calls; those that run go on. Again is harmless."""
        if self.is_usable:
            self.is_usable = False
            self.slots.close()
            self._on_change(self)

    def free_slot(self) -> None:
        """Frees a slot whose stream was never opened."""
        self.slots.give_back()
        self.close_if_done()

    def close(self) -> None:
        """Ends every call as cancelled by this side, and then the connection."""
        self._reason = "the gateway closed it"
        for stream in tuple(self.streams.values()):
            stream.end(CallCancelled())
            self.forget(stream)
        self.retire()
        self.write(goaway(Code.NO_ERROR))
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    # ---- the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the peer."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if _EOF and sock is not None and sock.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), _EOF)
        self.write(_GREETING)
        self._keepalive.start()

    def data_received(self, data: bytes) -> None:
        """Takes what came; never raises."""
        self._keepalive.heard_s = self._loop.time()
        try:
            self.feed(data)
        except H2Fault as fault:
            self._break(fault.code, f"it broke the rules of HTTP/2: {self._where} {fault}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails what was running."""
        self._keepalive.stop()
        self._poll = None
        reason = self._reason or (str(exc) if exc else "the worker closed it")
        self._lose(reason)
        if not self.ready.done():
            self.ready.set_exception(ConnectFailed(f"No connection to {self._where}: {reason}."))
            self.ready.exception()
        if not self.gone.done():
            self.gone.set_result(None)
        self.retire()
        self._on_change(self)

    # ---- frames about the connection

    def on_other(self, kind: int, flags: int, stream_id: int, body: bytes) -> None:
        """Frames about the connection; unknown ones mean nothing (section 5.5)."""
        if kind == Kind.WINDOW_UPDATE:
            _check(len(body) == 4, "a WINDOW_UPDATE")
            self.widen(stream_id, uint(body) & 0x7FFF_FFFF)
        elif kind == Kind.SETTINGS:
            _check(not stream_id, "SETTINGS")
            self._on_settings(flags, body)
        elif kind == Kind.PING:
            _check(not stream_id and len(body) == 8, "a PING")
            if not flags & ACK:
                self.answer(frame(Kind.PING, ACK, 0, body))
        elif kind == Kind.RST_STREAM:
            _check(len(body) == 4, "a RST_STREAM")
            self._on_reset(stream_id, uint(body))
        elif kind == Kind.GOAWAY:
            _check(not stream_id and len(body) >= 8, "a GOAWAY")
            self._on_goaway(uint(body) & 0x7FFF_FFFF, uint(body, 4), body[8:])
        elif kind in (Kind.PUSH_PROMISE, Kind.CONTINUATION):
            raise H2Fault(Code.PROTOCOL_ERROR, f"sent a {Kind(kind).name} that nobody asked for")

    def _on_settings(self, flags: int, body: bytes) -> None:
        if flags & ACK:
            return
        self.apply(settings_of(body))
        self.answer(frame(Kind.SETTINGS, ACK, 0))
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_reset(self, stream_id: int, code: int) -> None:
        stream = self._stream_of(stream_id)
        if stream is not None:
            # One that was answered was read, whatever the worker says.
            stream.is_refused = code == Code.REFUSED_STREAM and not stream.is_head_read
            stream.has_sent_all = True
            self.end(
                stream,
                ConnectFailed("The worker refused the call unread.")
                if stream.is_refused
                else grpc_ending.after_reset(code),
            )

    def _on_goaway(self, last_id: int, code: int, text: bytes) -> None:
        """No new calls; what the peer had before goes on to its end (section 6.8)."""
        self.has_had_pings = code == Code.ENHANCE_YOUR_CALM and text == _TOO_MANY_PINGS
        if code:
            self._reason = f"the worker ended it with HTTP/2 error code {code}"
        self.retire()
        for stream in [s for s in self.streams.values() if s.id > last_id]:
            stream.has_sent_all = True
            stream.is_refused = not stream.is_head_read
            self.end(
                stream,
                ConnectFailed("The worker closes the connection, and left the call unread.")
                if stream.is_refused
                else BrokenResponse("The worker closed the connection in the middle of an answer."),
            )
        self.close_if_done()

    # ---- ends

    def close_if_done(self) -> None:
        """Closes a connection that takes no more calls and has none."""
        if not self.is_usable and not self.slots.n_taken and self.transport is not None:
            self.transport.close()

    def _lose(self, reason: str) -> None:
        for stream in tuple(self.streams.values()):
            stream.end(BrokenResponse(f"The connection to the worker was lost: {reason}."))
            self.forget(stream)

    def _break(self, code: Code, reason: str) -> None:
        self._reason = reason
        self.retire()
        self.write(goaway(code))
        self._lose(reason)
        if self.transport is not None:
            self.transport.close()
            # What it still has to write may never be read.
            self._loop.call_later(_LINGER_S, self.transport.abort)

    def _ping(self) -> None:
        self.write(frame(Kind.PING, 0, 0, _PING_BODY))

    def _give_up(self) -> None:
        self._break(Code.NO_ERROR, f"{self._where} did not answer a ping")


def _check(is_sound: bool, what: str) -> None:
    if not is_sound:
        raise H2Fault(Code.PROTOCOL_ERROR, f"sent {what} that is malformed")
