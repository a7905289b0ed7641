"""What plain uvicorn leaves to be desired on a client's connection: what is read.

Bounded heads, clients that leave behind a pipelined request, bodies behind an offer to upgrade,
refusals before the body is here. All of it, and the clock and the ends of connections, is lacking
under plain ``uvicorn app.main:app`` (uvicorn 0.54).
"""

from __future__ import annotations

import math
from functools import lru_cache
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from app.api.parts import Life
from app.server.client_clock import TimedConnection
from app.server.client_cycle import ClientCycle, News
from app.server.client_limits import MAX_KEPT_REST_BYTES, ClientLimits

MAX_HEAD_BYTES = 64 * 1024
"""Longest head, longest trailers, and longest run of bytes that bring no body."""
MAX_PIPELINED = 16
"""Requests of one connection that may wait for the one before."""
_MAX_KEPT_URL_BYTES = 128
_FRAMING = (b"content-length", b"transfer-encoding")


def protocol_of(limits: ClientLimits, life: Life) -> type[ClientProtocol]:
    """Returns the protocol with an operator's limits, as a server of this life uses it."""
    return type("ClientProtocol", (ClientProtocol,), {"limits": limits, "life": life})


class ClientProtocol(TimedConnection):
    """uvicorn's HTTP/1.1 protocol, hardened.

    Every request finds its client's :class:`~app.api.leaving.Client` in its state, and in
    ``arrived_s`` when its head was here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_replaying = False
        # Bytes since the last one that brought a body or ended a head.
        self._n_idle_bytes = 0
        # The request whose body was not here with its head, how long that is (infinity: nobody
        # knows), and whether it wanted to keep the connection.
        self._late: Any = None
        self._late_bytes = math.inf
        self._late_keeps_alive = False

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the client."""
        if self._is_lingering:
            self._throw_away(data)
            return
        now_s = self._data_s = self._now_s()
        self._n_idle_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._has_ended:
            return
        if self._n_idle_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The request's head is too long.")
            return
        if self.cycle is not None and self.cycle.more_body:
            self._expect_rest(self.cycle)
            self._alarm.by(now_s + self.limits.body_stall_s)
        elif self._is_in_head:
            self._alarm.by(now_s + self.limits.head_s)
        if self.pipeline:
            self._read_on()

    def _read_on(self) -> None:
        """Reads behind a waiting request, within bounds, or nobody would see the client leave."""
        if len(self.pipeline) > MAX_PIPELINED or len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._wire.abort()
        else:
            self.flow.resume_reading()

    def _expect_rest(self, cycle: Any) -> None:
        """An answer that comes before the body ends the connection, unless little is missing.

        What is missing has to be read either way; the client may send it all before it looks.
        """
        if cycle.response_started:
            return
        if cycle is not self._late:
            self._late = cycle
            self._late_keeps_alive = cycle.keep_alive
            self._late_bytes = _length_of(cycle.scope["headers"])
        is_little = self._late_bytes - self._n_body_bytes <= MAX_KEPT_REST_BYTES
        cycle.keep_alive = (
            self._late_keeps_alive
            and is_little
            and not cycle.waiting_for_100_continue
            and not self.life.is_ending
        )

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
            self._is_in_head = True
            self._head_s = self._data_s
            super().on_message_begin()
            self.scope["state"]["client"] = self._client

    def on_headers_complete(self) -> None:
        """Starts to serve."""
        if self._is_replaying:
            self._is_replaying = False
            return
        self._is_in_head = False
        self._n_idle_bytes = self._n_body_bytes = 0
        # Its task begins a turn of the loop later, behind all else that came meanwhile.
        self.scope["state"]["arrived_s"] = monotonic()
        self._begin_cycle()
        # Trailers, and the head of a replay, go nowhere: the request has its own list.
        self.headers = []

    def _begin_cycle(self) -> None:
        """What uvicorn does here, less what is never asked of it: its limit, and web sockets."""
        scope, parser = self.scope, self.parser
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        split = _split_seen if len(self.url) <= _MAX_KEPT_URL_BYTES else _split
        scope["path"], scope["raw_path"], scope["query_string"] = split(self.url)
        before = self.cycle
        cycle = self.cycle = ClientCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=News(),  # type: ignore[arg-type]
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Takes a piece of body."""
        self._n_idle_bytes = 0
        self._n_body_bytes += len(body)
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The request is here, unless the parser only stopped at an offer to upgrade."""
        if not self.parser.should_upgrade():
            self._n_idle_bytes = 0
            cycle = self.cycle
            # uvicorn leaves it true if the answer came first.
            cycle.more_body = False
            if not cycle.response_complete:
                cycle.message_event.set()
            if cycle is self._late:
                self._late = None
                if not cycle.response_started and not self.life.is_ending:
                    cycle.keep_alive = self._late_keeps_alive


def _split(url: bytes) -> tuple[str, bytes, bytes]:
    """Returns path, the path as it came, and query of what a request line names."""
    parts = httptools.parse_url(url)
    path = parts.path.decode("ascii")
    return unquote(path) if "%" in path else path, parts.path, parts.query or b""


# Nearly all requests name one of few.
_split_seen = lru_cache(maxsize=256)(_split)


def _length_of(headers: list[tuple[bytes, bytes]]) -> float:
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and len(value) <= 20:
            return int(value)
    return math.inf
