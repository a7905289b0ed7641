"""The data plane's HTTP/1.1 client: a pool of connections to one worker, and exchanges on it.

An exchange is one request and its response. It costs one future per wait, no task, no queue and
no timer: silence is found by one sweep per pool that runs only while something is open. A request
of which a byte was sent is never sent again here; whether to try another worker is the caller's
decision, for which :attr:`Exchange.sent` and :class:`ConnectFailed` are made.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from app.clock import Clock
from app.upstream.failures import removal
from app.upstream.http1_connection import Http1Connection
from app.upstream.http1_exchange import Exchange
from app.upstream.http1_request import HeaderLines, encode_head, encode_lines
from app.upstream.http1_response import Head

__all__ = ["Exchange", "Head", "HeaderLines", "Http1Pool", "encode_lines"]

_MAX_SWEEP_S = 1.0
_MIN_SWEEP_S = 0.01
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Http1Pool:
    """Connections to one worker, the most recently used first.

    Args:
        base_url: ``http://host[:port]`` or ``https://host[:port]``, no path; IPv6 in brackets.
        connect_timeout_s: For name lookup, TCP and TLS together.
        idle_expiry_s: A connection idle for longer is not used again. Keep it below the
            worker's own keep-alive (uvicorn: 5 s).
        ssl_context: For ``https``; the system's default verification when left out.
        max_idle: Connections kept while idle; further ones are closed.
        max_head_bytes: Longest response head, and longest run of bytes between two pieces of
            body, that a worker may send.
        now_s: Clock of the idle times and of silence.

    Attributes:
        was_heard: Set when a sweep finds that a part of a body came.

    Raises:
        ValueError: The URL is not of that form.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout_s: float = 10.0,
        idle_expiry_s: float = 3.0,
        ssl_context: ssl.SSLContext | None = None,
        max_idle: int = 1024,
        max_head_bytes: int = 65536,
        now_s: Clock = time.monotonic,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("A worker's URL must be http://host[:port] or https://host[:port].")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("A worker's URL must have no path, query, fragment or user.")
        if not parts.netloc.isascii() or not parts.netloc.isprintable() or " " in parts.netloc:
            raise ValueError("A worker's host must be plain ASCII; write other names in Punycode.")
        self.base_url = base_url
        self.host = parts.hostname
        self.port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self.ssl_context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.ssl_context = ssl_context or ssl.create_default_context()
        self.connect_timeout_s = connect_timeout_s
        self._idle_expiry_s = idle_expiry_s
        self._max_idle = max_idle
        self._max_head_bytes = max_head_bytes
        self._now_s = now_s
        self._host_line = f"host: {parts.netloc}\r\n".encode("ascii")
        # Idle connections with the time they became so, the latest last.
        self._idle: dict[Http1Connection, float] = {}
        self._open: set[Http1Connection] = set()
        self._active: set[Exchange] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._sweep_s = _MAX_SWEEP_S
        self._drained: asyncio.Future[None] | None = None
        self._is_closed = False
        self.was_heard = False

    @property
    def n_open(self) -> int:
        """Connections that are open, idle ones included."""
        return len(self._open)

    @property
    def n_idle(self) -> int:
        """Connections that are open and idle."""
        return len(self._idle)

    @property
    def n_active(self) -> int:
        """Exchanges that were begun and not closed."""
        return len(self._active)

    def exchange(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]] | HeaderLines,
        body: bytes = b"",
        *,
        silence_timeout_s: float,
        connect_timeout_s: float | None = None,
    ) -> Exchange:
        """Prepares a request; nothing happens before :meth:`Exchange.head`.

        Args:
            method: Such as ``POST``.
            target: Path and query.
            headers: Without host, content-length and the others that belong to the connection;
                from :func:`encode_lines` if several requests share them.
            body: Sent as it is, with ``content-length``.
            silence_timeout_s: Longest time without a byte from the worker, before the head and
                later; ``inf`` for no limit. Found up to half of it, at most 2 s, late.
            connect_timeout_s: In place of the pool's.

        Raises:
            ValueError: The head would break the framing.
        """
        return Exchange(
            self,
            encode_head(method, target, self._host_line, headers, len(body)),
            body,
            is_bodiless=method == b"HEAD",
            silence_timeout_s=silence_timeout_s,
            connect_timeout_s=(
                self.connect_timeout_s if connect_timeout_s is None else connect_timeout_s
            ),
        )

    def fail_all(self) -> int:
        """Fails what is running, since the worker is removed; returns how many were running."""
        running = list(self._active)
        for exchange in running:
            exchange.fail(removal(was_sent=exchange.sent))
        return len(running)

    def take_heard(self) -> bool:
        """Whether a part of some body came since this was asked last."""
        now_s = self._now_s()
        for exchange in list(self._active):
            exchange.sweep(now_s)
        was_heard, self.was_heard = self.was_heard, False
        return was_heard

    async def aclose(self) -> None:
        """Fails what is running, closes every connection and waits until they are gone."""
        self._is_closed = True
        self.fail_all()
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()
        self._stop_sweeping()
        while self._open:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    # What exchanges call.

    def begin(self, exchange: Exchange) -> Http1Connection | None:
        """Counts an exchange as running, until :meth:`end`.

        Returns:
            A connection for it, as of :meth:`take`.

        Raises:
            ConnectFailed: The pool is closed.
        """
        if self._is_closed:
            raise removal(was_sent=False)
        self._active.add(exchange)
        sweep_s = exchange.sweep_s
        if self._sweep_timer is None or sweep_s < self._sweep_s:
            self._sweep_in(sweep_s)
        return self.take() if self._idle else None

    def hurry(self, sweep_s: float) -> None:
        """An exchange that runs has got a shorter limit."""
        if self._sweep_timer is not None and sweep_s < self._sweep_s:
            self._sweep_in(sweep_s)

    def end(self, exchange: Exchange) -> None:
        """The exchange is closed."""
        self._active.discard(exchange)

    def take(self) -> Http1Connection | None:
        """An idle connection that is certainly usable now, or none."""
        idle = self._idle
        if not idle:
            return None
        oldest_s = self._now_s() - self._idle_expiry_s
        while idle:
            connection, since_s = idle.popitem()
            if since_s > oldest_s and connection.is_usable():
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Http1Connection) -> None:
        """Keeps the connection for the next exchange, or closes it."""
        if connection.release():
            self.keep(connection)

    def keep(self, connection: Http1Connection) -> None:
        """Makes an idle connection available to the next exchange, or closes it."""
        if self._is_closed or len(self._idle) >= self._max_idle:
            connection.abort()
        else:
            self._idle[connection] = self._now_s()

    def new_connection(self) -> Http1Connection:
        """A connection object that is not connected yet."""
        loop = asyncio.get_running_loop()
        return Http1Connection(loop, self._max_head_bytes, self._on_made, self._on_lost)

    def give_up(self, connection: Http1Connection) -> None:
        """Aborts a connection that did not come about.

        uvloop does not report the loss of a connection whose making was cancelled, so it is
        not waited for.
        """
        connection.abort()
        self._on_lost(connection)

    # Inner steps.

    def _on_made(self, connection: Http1Connection) -> None:
        self._open.add(connection)

    def _on_lost(self, connection: Http1Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if not self._open and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _sweep_in(self, delay_s: float) -> None:
        self._stop_sweeping()
        self._sweep_s = delay_s
        self._sweep_timer = asyncio.get_running_loop().call_later(delay_s, self._sweep)

    def _stop_sweeping(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def _sweep(self) -> None:
        self._sweep_timer = None
        now_s = self._now_s()
        sweep_s = min(_MAX_SWEEP_S, max(_MIN_SWEEP_S, self._idle_expiry_s))
        for exchange in list(self._active):
            exchange.sweep(now_s)
            sweep_s = min(sweep_s, exchange.sweep_s)
        for connection, since_s in list(self._idle.items()):
            if now_s - since_s < self._idle_expiry_s:
                break
            del self._idle[connection]
            connection.abort()
        if self._active or self._idle:
            self._sweep_in(sweep_s)
