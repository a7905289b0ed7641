"""The connection to one HTTP/2 server: made when it is needed, shared, replaced when it is lost."""

from __future__ import annotations

import asyncio
import os
import ssl

from app.upstream import h2_keepalive
from app.upstream.connect_limit import ConnectLimit
from app.upstream.failures import ConnectFailed, ConnectTimeout, UpstreamError, removal
from app.upstream.h2_connection import H2Connection

_CLOSING_S = 1.0
"""How long a farewell may take to be written."""
_TLS_END_S = 0.1
"""How long a worker may take to answer the end of TLS; gRPC's own servers never do."""
_MAX_PING_EVERY_S = 300.0


class H2Channel:
    """Hands out connections with room for one more stream.

    Calls that want a connection at once share one attempt to make it. It is made by the first of
    them; if that one leaves, the next one makes it.

    Args:
        host: Name or address.
        port: Port.
        ssl_context: For TLS; must offer ``h2`` by ALPN.
        connect_timeout_s: For name lookup, TCP, TLS and the server's SETTINGS.

    Attributes:
        n_losses: How often a connection that was there was seen to be gone.
    """

    def __init__(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None, connect_timeout_s: float
    ) -> None:
        self._host = host
        self._port = port
        self._where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._ssl_context = ssl_context
        self._connect_timeout_s = connect_timeout_s
        self._ping_every_s = h2_keepalive.PING_EVERY_S
        self._current: H2Connection | None = None
        self._attempt: asyncio.Future[H2Connection | None] | None = None
        self._open: set[H2Connection] = set()
        self._is_closed = False
        self.n_losses = 0

    @property
    def where(self) -> str:
        """Host and port as in a URL."""
        return self._where

    @property
    def is_connected(self) -> bool:
        """A connection takes calls, as far as this side knows."""
        return self._current is not None

    @property
    def n_streams(self) -> int:
        """Streams that are open or about to be."""
        return sum(connection.slots.n_taken for connection in self._open)

    def check(self) -> None:
        """See :class:`app.upstream.vllm_channel.VllmChannel`."""
        if self._is_closed:
            raise removal(was_sent=False)

    def look(self) -> None:
        """The same."""
        if self._current is not None:
            self._current.look()

    def reserve_now(self) -> H2Connection | None:
        """A connection with a slot for one stream, if there is one at once."""
        connection = self._current
        if connection is None:
            return None
        connection.look()
        is_good = connection.is_usable and connection.has_ids and connection.slots.take_now()
        return connection if is_good else None

    async def reserve(self) -> H2Connection:
        """The same, after waiting for a connection, or for another stream's end.

        Raises:
            ConnectFailed, ConnectTimeout: There is none.
        """
        while True:
            self.check()
            connection = self._current
            if connection is None:
                connection = await self._connected()
            if connection is None:
                continue
            connection.look()
            if not connection.has_ids:
                connection.retire()
            elif await connection.slots.take():
                return connection

    async def _connected(self) -> H2Connection | None:
        attempt = self._attempt
        if attempt is not None:
            # Who only waits for it must not cancel it for the others.
            await asyncio.wait({attempt})
            failure = attempt.exception()
            if failure is not None:
                raise type(failure)(str(failure))
            return attempt.result()
        attempt = self._attempt = asyncio.get_running_loop().create_future()
        try:
            connection = await self._connect()
        except UpstreamError as failure:
            attempt.set_exception(failure)
            # Nobody else may be waiting.
            attempt.exception()
            raise
        else:
            attempt.set_result(connection)
            return connection
        finally:
            if not attempt.done():
                attempt.set_result(None)
            self._attempt = None

    async def _connect(self) -> H2Connection:
        loop = asyncio.get_running_loop()
        connection = H2Connection(
            self._where, self._ping_every_s, h2_keepalive.PING_TIMEOUT_S, self._changed
        )
        self._open.add(connection)
        try:
            async with ConnectLimit(self._connect_timeout_s):
                await loop.create_connection(
                    lambda: connection,
                    self._host,
                    self._port,
                    ssl=self._ssl_context,
                    server_hostname=self._host if self._ssl_context is not None else None,
                    ssl_shutdown_timeout=None if self._ssl_context is None else _TLS_END_S,
                )
                self._check_alpn(connection)
                await asyncio.wait({connection.ready})
            connection.ready.result()
            if self._is_closed or not connection.is_usable:
                raise ConnectFailed(f"{self._where} closed the connection at once.")
        except BaseException as exc:
            connection.abort()
            self._open.discard(connection)
            if isinstance(exc, TimeoutError):
                text = f"No connection to {self._where} within {self._connect_timeout_s:g} s."
                raise ConnectTimeout(text) from None
            if isinstance(exc, (OSError, UnicodeError)):
                raise ConnectFailed(f"No connection to {self._where}: {_words(exc)}.") from None
            raise
        self._current = connection
        return connection

    def _check_alpn(self, connection: H2Connection) -> None:
        transport = connection.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            raise ConnectFailed(f"{self._where} does not speak HTTP/2 over TLS.")

    def _changed(self, connection: H2Connection) -> None:
        if connection is self._current:
            self._current = None
            self.n_losses += 1
        if connection.has_had_pings:
            # Once for each that complains, although it changes again when it is gone.
            connection.has_had_pings = False
            self._ping_every_s = min(2 * self._ping_every_s, _MAX_PING_EVERY_S)
        if connection.gone.done():
            self._open.discard(connection)

    async def aclose(self) -> None:
        """See :class:`app.upstream.vllm_channel.VllmChannel`."""
        self._is_closed = True
        connections = tuple(self._open)
        for connection in connections:
            connection.close()
        try:
            gone = {c.gone for c in connections if c.transport is not None}
            if gone:
                await asyncio.wait(gone, timeout=_CLOSING_S)
        finally:
            for connection in connections:
                connection.abort()


def _words(exc: Exception) -> str:
    """The system's own words; asyncio has others, which name the call and not the reason."""
    if isinstance(exc, ConnectionError) and exc.errno:
        return os.strerror(exc.errno)
    return str(exc)
