"""One request and its response on a pooled connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.upstream.connect_limit import ConnectLimit
from app.upstream.failures import BodyTooLong, UpstreamError
from app.upstream.http1_connecting import made_connection
from app.upstream.http1_connection import Http1Connection
from app.upstream.http1_following import Following, OnEnd
from app.upstream.http1_response import Head
from app.upstream.http1_watch import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.upstream.http1 import Http1Pool


class Exchange(Watched):
    """A request, sent by :meth:`head`, and its body, given by :meth:`chunk` or :meth:`read`.

    Whatever happens, :meth:`close` must be called in the end.
    One task at a time may await it. :meth:`fail` and :meth:`close` may be called from any task
    of the loop. An await that is cancelled loses nothing: it may be repeated, or the exchange
    closed, which then aborts the connection.
    """

    __slots__ = (
        "_body",
        "_connect_timeout_s",
        "_connecting",
        "_failure",
        "_following",
        "_head",
        "_is_bodiless",
        "_is_closed",
        "_was_done",
    )

    def __init__(
        self,
        pool: Http1Pool,
        head: bytes,
        body: bytes,
        *,
        is_bodiless: bool,
        silence_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        super().__init__(pool, silence_timeout_s)
        self._head = head
        self._body = body
        self._is_bodiless = is_bodiless
        self._connect_timeout_s = connect_timeout_s
        self._connecting: ConnectLimit | None = None
        self._failure: BaseException | None = None
        self._is_closed = False
        self._was_done = False
        self._following: Following | None = None

    @property
    def done(self) -> bool:
        """The response arrived completely; there may be bytes of it to take."""
        connection = self._connection
        if connection is None:
            return self._was_done
        return self.sent and connection.is_done

    @property
    def has_bytes(self) -> bool:
        """:meth:`chunk` would give bytes without waiting."""
        connection = self._connection
        return connection is not None and bool(connection.chunks)

    def take(self) -> bool:
        """Takes a pooled connection, if there is one: :meth:`connect` without a coroutine.

        Raises:
            ConnectFailed: The pool is closed.
            BaseException: What was given to :meth:`fail`.
        """
        if self._failure is not None:
            raise self._failure
        if self._connection is None:
            if self._is_closed:
                raise _closed()
            self._connection = self._pool.begin(self)
        return self._connection is not None

    async def connect(self) -> None:
        """Takes a pooled connection or opens one; not a byte of the request is sent.

        So a caller learns that several workers can be reached before any is asked.

        Raises:
            ConnectFailed: No connection could be had.
            BaseException: What was given to :meth:`fail`.
        """
        if not self.take():
            self._connection = await self._connect()

    async def head(self) -> Head:
        """Sends the request on a pooled or new connection and waits for the response head.

        Raises:
            ConnectFailed: Nothing was sent.
            SilenceTimeout: No head in time.
            BrokenResponse: The connection ended or what came is not HTTP.
            BaseException: What was given to :meth:`fail`.
        """
        if self._failure is not None:
            raise self._failure
        connection = self._connection
        if not self.sent:
            if connection is None or connection.is_closing():
                # If the worker closed it since connect(), nothing was sent, so take another.
                self._connection = None
                await self.connect()
                connection = self._made()
            self._write(connection)
        elif connection is None:
            connection = self._made()
        while not connection.is_head_complete:
            if connection.failure is not None:
                raise connection.failure
            await connection.wait()
            if self._failure is not None:
                raise self._failure
        return Head(connection.status, connection.headers)

    def _write(self, connection: Http1Connection) -> None:
        self.sent = True
        connection.start(self._head, self._body, is_bodiless=self._is_bodiless)
        self._head = self._body = b""

    def _made(self) -> Http1Connection:
        if self._is_closed:
            raise _closed()
        if self._connection is None:
            raise RuntimeError("The exchange has no connection: head() comes first.")
        return self._connection

    async def chunk(self, sink: Callable[[bytes], bool] | None = None) -> bytes:
        """Body bytes that are here, or the next ones; empty at the complete end of the body.

        Args:
            sink: Offered what comes meanwhile (:class:`Http1Connection`), to take it instead.

        Raises:
            SilenceTimeout: Nothing came in time.
            BrokenResponse: The body is cut or malformed; bytes before that were given first.
            BaseException: What was given to :meth:`fail`.
        """
        if self._failure is not None:
            raise self._failure
        connection = self._connection
        if connection is None:
            connection = self._made()
        while True:
            if connection.chunks:
                return connection.take()
            if connection.is_done:
                return b""
            if connection.failure is not None:
                raise connection.failure
            connection.sink = sink
            try:
                await connection.wait()
            finally:
                connection.sink = None
            if self._failure is not None:
                raise self._failure

    async def read(self, limit: int) -> bytes:
        """The whole rest of the body.

        Args:
            limit: Most bytes taken.

        Raises:
            BodyTooLong: There are more.
            UpstreamError: As :meth:`chunk`.
        """
        connection = self._connection
        if (
            self._failure is None
            and connection is not None
            and connection.is_done
            and connection.n_buffered_bytes <= limit
        ):
            # Nearly always: the whole body has come with its head.
            return connection.take()
        data = await self.chunk()
        parts: list[bytes] = []
        n_bytes = 0
        while data:
            n_bytes += len(data)
            if n_bytes > limit:
                raise BodyTooLong(f"The worker's answer is longer than {limit} bytes.")
            parts.append(data)
            data = await self.chunk()
        return b"".join(parts)

    def follow(self, on_end: OnEnd, limit: int, refusal_limit: int) -> bool:
        """Sends the request and has the whole answer handed over, without a task that waits.

        A task for each prefill leg was a tenth of what a plain request cost.

        Args:
            on_end: Called once, unless :meth:`unfollow` or :meth:`close` is; it must not raise.
            limit: Most bytes of an answer with status 200.
            refusal_limit: The same with another status.

        Returns:
            False: nothing was sent, for want of a connection; :meth:`head` makes one.
        """
        connection = self._connection
        if connection is None or self.sent or self._failure or connection.is_closing():
            return False
        self._following = Following(on_end, limit, refusal_limit)
        connection.on_news = self._look
        self._write(connection)
        return True

    def unfollow(self) -> None:
        """Hands nothing over any more; what has come so far is lost, the rest may be read."""
        self._following = None
        if self._connection is not None:
            self._connection.on_news = None

    def _look(self) -> None:
        following, connection = self._following, self._connection
        if following is None or connection is None:
            return
        if connection.chunks:
            following.add(connection.take(), connection.status)
        failure = self._failure or following.failure
        if failure is None and not connection.is_done:
            failure = connection.failure
            if failure is None:
                return
        head = Head(connection.status, connection.headers) if connection.is_head_complete else None
        self.unfollow()
        following.end(head, failure)

    def fail(self, exc: BaseException) -> None:
        """Makes the pending or next await raise and aborts the connection; the first call wins.

        Args:
            exc: What the reader gets. Bytes that it has not taken are dropped.
        """
        if self._is_closed or self._failure is not None:
            return
        self._failure = exc
        connection = self._connection
        if connection is not None:
            connection.break_off(UpstreamError("The exchange was ended from this side."))
        elif self._connecting is not None:
            self._connecting.end()

    def close(self) -> None:
        """Gives the connection back after a complete response, else aborts it. Idempotent."""
        if self._is_closed:
            return
        if self._following is not None:
            self.unfollow()
        connection, sent = self._connection, self.sent
        if connection is not None and self._failure is None and (connection.is_done or not sent):
            self._was_done = sent
            self._connection = None
            if sent:
                self._pool.give_back(connection)
            else:
                self._pool.keep(connection)
        else:
            self.fail(_closed())
        self._is_closed = True
        self._pool.end(self)

    async def _connect(self) -> Http1Connection:
        limit = self._connecting = ConnectLimit(self._connect_timeout_s)
        try:
            return await made_connection(
                self._pool, limit, self._connect_timeout_s, lambda: self._failure
            )
        finally:
            self._connecting = None


def _closed() -> UpstreamError:
    return UpstreamError("The exchange is closed.")
